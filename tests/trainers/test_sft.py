"""`SFTTrainer` of TRL, the most used trainer of language models, with the three phases."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard, RepoUrl
from small_models import STAGES, VOCABULARY, check_resuming, half_is_zero, sentences, small_tokenizer
from training import SETTINGS, checkpoints, report, same_weights, weights
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_worm import Ticket, WormConfig, WormTrainerMixin

trl = pytest.importorskip("trl", reason="needs the extra `trainers`")

QUERY_AND_KEY = [f"model.layers.{i}.self_attn.{role}_proj.weight" for i in range(2) for role in ("q", "k")]


class WormSFTTrainer(WormTrainerMixin, trl.SFTTrainer):
    pass


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """Two blocks, four query heads and two key heads."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=4,
    )
    return LlamaForCausalLM(config)


def parts(model: LlamaForCausalLM, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {**SETTINGS, "num_train_epochs": 4, "bf16": False, **changes}
    return {
        "model": model,
        "args": trl.SFTConfig(str(folder), **settings),
        "train_dataset": Dataset.from_dict({"text": sentences()}),
        "eval_dataset": Dataset.from_dict({"text": sentences(40)[32:]}),
        "processing_class": small_tokenizer(),
    }


def worm_trainer(model: LlamaForCausalLM, folder: Path, **changes: Any) -> WormSFTTrainer:
    return WormSFTTrainer(**parts(model, folder, **changes), worm_config=WormConfig(stopping_point=0.5))


def test_heads_and_neurons_are_cut_out(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    config = WormConfig(layers=["heads", "neurons"], stopping_point=0.9, compact=True)
    trainer = WormSFTTrainer(**parts(llama, tmp_path), worm_config=config)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same_weights(weights(loaded), weights(trainer.model))
    sizes = loaded.config
    assert (sizes.num_attention_heads, sizes.num_key_value_heads, sizes.intermediate_size) == (2, 1, 16)
    assert set(report(tmp_path)["costs"]["seconds"]) == {"forward 1", "forward 32", "training step 8"}


def test_search_draw_and_retrain(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    trainer = worm_trainer(llama, tmp_path, save_strategy="steps", save_steps=3)
    output = trainer.train()
    trainer.save_model()
    assert list(trainer.ticket.masks) == QUERY_AND_KEY
    assert output.global_step == 3 * 4 + 4
    assert half_is_zero(llama.state_dict(), trainer.ticket)

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LlamaForCausalLM
    assert same_weights(weights(loaded), weights(llama))
    assert Ticket.from_pretrained(tmp_path).sparsity == 0.5
    ids = trainer.processing_class(sentences(4), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, llama.eval()(input_ids=ids).logits)
    last, first = checkpoints(tmp_path)[-1], checkpoints(tmp_path)[0]
    assert half_is_zero(AutoModelForCausalLM.from_pretrained(last).state_dict(), trainer.ticket)
    assert not half_is_zero(AutoModelForCausalLM.from_pretrained(first).state_dict(), trainer.ticket)


def test_every_stage_is_evaluated_with_what_the_parent_adds(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    trainer = worm_trainer(llama, tmp_path)
    trainer.train()
    found = report(tmp_path)["metrics"]
    assert list(found) == STAGES
    assert all(set(found[stage]) >= {"loss", "mean_token_accuracy", "entropy"} for stage in STAGES)
    names = {name for entry in trainer.state.log_history for name in entry if name.startswith("eval_")}
    assert {"eval_before_draw_mean_token_accuracy", "eval_drawn_mean_token_accuracy"} <= names
    assert [entry["step"] for entry in trainer.state.log_history if "eval_mean_token_accuracy" in entry] == [16]


def test_report_and_card_are_written(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    trainer = worm_trainer(llama, tmp_path, save_strategy="epoch")
    trainer.train()
    found = report(tmp_path)
    assert found["account"]["pruned_weights"] == 2 * (16 * 16 + 16 * 8) // 2
    assert found["loading"]["class"] == "LlamaForCausalLM"
    trainer.create_model_card(model_name="worm", dataset_name="sentences", tags=["fox"])
    card = ModelCard.load(tmp_path / "README.md")
    assert {"sft", "trl", "fox", "worm", "early-bird", "pruning"} <= set(card.data.tags)
    assert card.content.count("## Pruning") == 1
    assert "Pruned: 384 weights" in card.text
    assert "mean_token_accuracy" in card.text
    assert "SFT" in card.text


def test_a_push_takes_the_way_of_the_parent(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer forwards what `push_to_hub` is given to `create_model_card`; only the upload itself is left out."""
    uploads: list[dict[str, Any]] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> RepoUrl:
            return RepoUrl(f"https://huggingface.co/someone/{name}")

        def upload_folder(self, **options: Any) -> None:
            uploads.append(options)

    trainer = worm_trainer(llama, tmp_path / "worm")
    trainer.train()
    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    trainer.push_to_hub(dataset_name="someone/sentences", tags="fox")
    assert [upload["repo_id"] for upload in uploads] == ["someone/worm"]
    card = ModelCard.load(tmp_path / "worm" / "README.md")
    assert "worm" in card.data.tags and "fox" in card.data.tags
    assert "someone/sentences" in card.content
    assert 'LlamaForCausalLM.from_pretrained("someone/worm")' in card.text
    assert (tmp_path / "worm" / "ticket.safetensors").exists()


def test_resuming_either_phase_ends_the_same(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    check_resuming(
        lambda folder: worm_trainer(copy.deepcopy(llama), folder, save_strategy="steps", save_steps=3), tmp_path
    )


def test_without_a_config_it_trains_as_its_parent(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    twin = copy.deepcopy(llama)
    before = weights(llama)
    parent = trl.SFTTrainer(**parts(twin, tmp_path / "parent", save_strategy="epoch"))
    parent.train()
    trainer = WormSFTTrainer(**parts(llama, tmp_path / "worm", save_strategy="epoch"))
    trainer.train()
    assert same_weights(weights(llama), weights(twin))
    assert not same_weights(weights(llama), before)
    assert trainer.ticket is None
    first, second = ({p.name for p in folder.iterdir()} for folder in (tmp_path / "parent", tmp_path / "worm"))
    assert first == second
