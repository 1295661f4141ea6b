"""The `hf-worm` command, through `main()` and through the installed entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training import QUERY_AND_KEY
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CLIPConfig,
    CLIPModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    ResNetConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_worm import TicketSearch, WormConfig, __version__
from hf_worm.commands import main as cli
from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification

HF_WORM = Path(sys.executable).with_name("hf-worm")


def test_the_installed_command() -> None:
    done = subprocess.run([HF_WORM, "glue", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: hf-worm glue")


def test_as_a_module_for_launchers() -> None:
    done = subprocess.run([sys.executable, "-m", "hf_worm", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)
    done = subprocess.run([sys.executable, "-m", "hf_worm", "prune"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: hf-worm")


@pytest.mark.parametrize("command", [[], ["glue"], ["image"], ["layers"], ["show"], ["demo"]])
def test_help_of_each_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: hf-worm", *command]))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("argv", [[], ["prune"], ["--no-such-flag"]])
def test_wrong_commands_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    assert "usage: hf-worm" in capsys.readouterr().err


def test_layers_of_a_saved_model(
    bert: BertForSequenceClassification, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bert.save_pretrained(tmp_path)
    assert cli.main(["layers", str(tmp_path)]) == 0
    *layers, summary = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].rstrip() for line in layers] == QUERY_AND_KEY
    assert all(line.endswith("16 × 16") for line in layers)
    whole = sum(parameter.numel() for parameter in bert.parameters())
    assert summary == (
        f"4 layers, 1,024 weights: {1024 / whole:.1%} of the {whole:,} of `BertForSequenceClassification`."
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["./nowhere"], "./nowhere is a folder that does not exist."),
        (["nowhere"], "nowhere"),
        (["HERE", "--layers", "neurons=2"], "neurons=2"),
    ],
)
def test_what_layers_cannot_show_is_one_line(
    bert: BertForSequenceClassification,
    tmp_path: Path,
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bert.save_pretrained(tmp_path)
    assert cli.main(["layers", *(str(tmp_path) if word == "HERE" else word for word in argv)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("hf-worm layers: error: ") and message in line


def test_neurons_and_heads_are_counted(
    bert: BertForSequenceClassification, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bert.save_pretrained(tmp_path)
    assert cli.main(["layers", str(tmp_path), "--layers", "neurons", "heads"]) == 0
    *layers, _ = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()[1:]) for line in layers] == ["2 heads", "32 neurons"] * 2


def test_layers_of_a_model_that_was_made_smaller(
    bert: BertForSequenceClassification, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = TicketSearch(bert, WormConfig(layers=["neurons", "heads"], prune_ratio=0.75, scope="global"))
    search.observe()
    compact = search.draw().compact(bert)
    assert hasattr(compact.config, "worm_compact")
    compact.save_pretrained(tmp_path)
    assert cli.main(["layers", str(tmp_path), "--layers", "neurons"]) == 0
    *layers, summary = capsys.readouterr().out.splitlines()
    counts = [len(layer.intermediate.dense.weight) for layer in compact.bert.encoder.layer]
    assert [int(line.split()[1]) for line in layers] == counts != [32, 32]
    assert f"of the {compact.num_parameters():,} of `BertForSequenceClassification`" in summary


def test_layers_by_pattern_and_of_a_model_without_a_classifier_of_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=32).save_pretrained(tmp_path / "t5")
    assert cli.main(["layers", str(tmp_path / "t5"), "--layers", "query", "*.wo.weight"]) == 0
    assert "5 layers" in capsys.readouterr().out, "query of two self-attentions and a cross-attention, two wo"
    ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]).save_pretrained(tmp_path / "resnet")
    assert cli.main(["layers", str(tmp_path / "resnet"), "--layers", "batchnorm"]) == 0
    assert "`ResNetForImageClassification`" in capsys.readouterr().out
    CifarResNetConfig().save_pretrained(tmp_path / "resnet18")
    assert cli.main(["layers", str(tmp_path / "resnet18"), "--layers", "batchnorm"]) == 0
    assert "20 layers, 9,600 weights: 0.1% of the 11,173,962 of `CifarResNet" in capsys.readouterr().out


def test_layers_of_a_model_that_is_no_classifier_are_those_of_its_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": 32, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=32, **sizes)).save_pretrained(tmp_path / "t5")
    assert cli.main(["layers", str(tmp_path / "t5")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("encoder.block.0.layer.0") and "`T5ForConditionalGeneration`" in out
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    clip = CLIPConfig(text_config={**sizes, "vocab_size": 9}, vision_config=vision)
    CLIPModel(clip).save_pretrained(tmp_path / "clip")
    assert cli.main(["layers", str(tmp_path / "clip")]) == 0
    out = capsys.readouterr().out
    assert "text_model." in out and "vision_model." in out and "of `CLIPModel`" in out
    bert = BertConfig(**sizes, vocab_size=9)
    both = EncoderDecoderConfig.from_encoder_decoder_configs(bert, BertConfig(**sizes, vocab_size=9))
    EncoderDecoderModel(both).save_pretrained(tmp_path / "both")
    assert cli.main(["layers", str(tmp_path / "both")]) == 0
    assert "6 layers, " in capsys.readouterr().out
    BertModel(bert).save_pretrained(tmp_path / "base")
    assert cli.main(["layers", str(tmp_path / "base")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("bert.encoder") and "`BertForSequenceClassification`" in out, (
        "what `hf-worm glue` makes of it"
    )


def test_layers_of_a_model_of_the_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["layers", "resnet18", "--layers", "batchnorm"]) == 0
    named = capsys.readouterr().out
    assert "20 layers, " in named
    assert cli.main(["layers", "resnet18"]) == 0
    assert capsys.readouterr().out == named, "as `hf-worm image` watches"
    CifarResNetForImageClassification(CifarResNetConfig()).save_pretrained(tmp_path)
    assert cli.main(["layers", str(tmp_path)]) == 0
    assert capsys.readouterr().out == named, "and saves"


def test_a_terminal_without_greek_letters_ends_no_run() -> None:
    settings = {**os.environ, "PYTHONIOENCODING": "cp1252", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([HF_WORM, "image", "--help"], env=settings, capture_output=True, check=False)
    assert run.returncode == 0 and b"s 0.1, ? 0.05" in run.stdout


def test_a_reader_that_leaves_ends_the_list_of_layers() -> None:
    command = f"'{HF_WORM}' layers resnet18 --layers batchnorm | head -c 1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (len(run.stdout), run.stderr) == (1, "")


def test_layers_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32).save_pretrained(tmp_path)
    assert cli.main(["layers", str(tmp_path)]) == 2
    assert "c_attn" in capsys.readouterr().err
    assert cli.main(["layers", str(tmp_path / "nowhere")]) == 2
    assert "hf-worm layers: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        {"hidden_size": "16"},
        {"hidden_size": -16},
        {"hidden_act": "none"},
        {"num_attention_heads": 0},
        {"id2label": 3},
        {"model_type": "layoutlmv2"},  # needs detectron2
        {"model_type": "none"},
        3,
        [],
    ],
    ids=str,
)
def test_a_model_that_cannot_be_made_ends_with_a_line(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bert = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({**bert, **content} if isinstance(content, dict) else content))
    assert cli.main(["layers", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"hf-worm layers: error: Can't load {tmp_path}: ") and line.count("\n") == 1


def test_the_door_imports_no_command() -> None:
    program = "import sys, hf_worm.commands.main; print(*[name for name in sys.modules if 'worm.commands.' in name])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["hf_worm.commands.main"], run.stderr
