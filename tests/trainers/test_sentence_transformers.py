"""The trainer of sentence-transformers, whose model is modules one after another and whose loss is outside of it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    GlobalOrthogonalRegularizationLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from small_models import STAGES, VOCABULARY, check_resuming, half_is_zero, sentences, small_tokenizer
from training import SETTINGS, checkpoints, loaded_by, report, same_weights, small_bert, weights
from transformers import BertModel

from hf_worm import Ticket, WormConfig, WormTrainerMixin


class WormSentenceTransformerTrainer(WormTrainerMixin, SentenceTransformerTrainer):
    pass


@pytest.fixture
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    """A BERT of two blocks and the mean of its tokens."""
    folder = str(tmp_path_factory.mktemp("bert"))
    BertModel(small_bert(vocab_size=len(VOCABULARY), max_position_embeddings=32)).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu")


def pairs(start: int = 0, count: int = 32) -> Dataset:
    """Pairs of sentences, and what share of their words they have in common."""
    first, second = sentences(128)[start : start + count], sentences(128)[start + 64 : start + 64 + count]
    shared = [len(set(a.split()) & set(b.split())) / 4 for a, b in zip(first, second, strict=True)]
    return Dataset.from_dict({"sentence1": first, "sentence2": second, "score": shared})


def parts(model: SentenceTransformer, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {**SETTINGS, "num_train_epochs": 4, **changes}
    return {
        "model": model,
        "args": SentenceTransformerTrainingArguments(str(folder), **settings),
        "train_dataset": pairs(),
        "eval_dataset": pairs(32, 16),
        "loss": CoSENTLoss(model),
    }


def worm_trainer(given: dict[str, Any]) -> WormSentenceTransformerTrainer:
    return WormSentenceTransformerTrainer(**given, worm_config=WormConfig(stopping_point=0.5))


def test_search_draw_and_retrain(encoder: SentenceTransformer, tmp_path: Path) -> None:
    trainer = worm_trainer(parts(encoder, tmp_path, save_strategy="steps", save_steps=3))
    output = trainer.train()
    trainer.save_model()
    inside = [f"encoder.layer.{i}.attention.self.{role}.weight" for i in range(2) for role in ("query", "key")]
    assert [name.removeprefix("0.model.") for name in trainer.ticket.masks] == inside
    assert output.global_step == 3 * 4 + 4

    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert same_weights(weights(loaded), weights(encoder))
    assert half_is_zero(loaded.state_dict(), trainer.ticket)
    ticket = Ticket.from_pretrained(tmp_path)
    handle = ticket.hold(loaded, torch.optim.AdamW(loaded.parameters()))
    handle.remove()
    assert same_weights(weights(loaded), weights(encoder)), "holding the ticket again changes nothing"
    assert torch.equal(
        loaded.encode(sentences(4), convert_to_tensor=True), encoder.encode(sentences(4), convert_to_tensor=True)
    )
    saved = load_file(tmp_path / "model.safetensors")
    assert all(float((saved[name] == 0).float().mean()) == 0.5 for name in inside)
    first, last = (SentenceTransformer(str(checkpoints(tmp_path)[i]), device="cpu") for i in (0, -1))
    assert half_is_zero(last.state_dict(), ticket)
    assert not half_is_zero(first.state_dict(), ticket)


def test_the_model_is_not_made_smaller_under_its_loss(encoder: SentenceTransformer, tmp_path: Path) -> None:
    """The loss holds the model that it was made with."""
    config = WormConfig(layers=["neurons"], compact=True)
    with pytest.raises(ValueError, match="a model of Transformers, which a `SentenceTransformer` is not"):
        WormSentenceTransformerTrainer(**parts(encoder, tmp_path), worm_config=config)


def test_report_and_card_are_written(encoder: SentenceTransformer, tmp_path: Path) -> None:
    trainer = worm_trainer(parts(encoder, tmp_path))
    trainer.train()
    found = report(tmp_path)
    assert list(found["metrics"]) == STAGES
    assert found["account"]["pruned_weights"] == 4 * 16 * 16 // 2
    assert found["architecture"] == "SentenceTransformer"
    trainer.create_model_card(language="en", tags="fox", model_name="worm")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.language in ("en", ["en"])
    assert {"sentence-transformers", "fox", "worm", "early-bird", "pruning"} <= set(card.data.tags)
    assert card.content.count("## Pruning") == 1
    assert "Pruned: 512 weights" in card.text
    assert "CoSENTLoss" in card.text


def test_the_card_says_how_to_load_the_model(
    encoder: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = worm_trainer(parts(encoder, tmp_path / "judge"))
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "judge" / "README.md").read_text()
    assert 'from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer("judge")\n' in card
    monkeypatch.chdir(tmp_path)
    loaded = loaded_by(card).to("cpu")
    assert isinstance(loaded, SentenceTransformer)
    assert same_weights(weights(loaded), weights(encoder))


def test_resuming_either_phase_ends_the_same(encoder: SentenceTransformer, tmp_path: Path) -> None:
    check_resuming(
        lambda folder: worm_trainer(parts(copy.deepcopy(encoder), folder, save_strategy="steps", save_steps=3)),
        tmp_path,
    )


def test_an_evaluator_alone_evaluates_the_stages(encoder: SentenceTransformer, tmp_path: Path) -> None:
    data = pairs(32, 16)
    evaluator = EmbeddingSimilarityEvaluator(data["sentence1"], data["sentence2"], data["score"], name="alike")
    given = parts(encoder, tmp_path, save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True)
    given["args"].metric_for_best_model = "alike_spearman_cosine"
    given["args"].greater_is_better = True
    trainer = worm_trainer({**given, "eval_dataset": None, "evaluator": evaluator})
    trainer.train()
    found = report(tmp_path)["metrics"]
    assert list(found) == STAGES
    assert all("alike_spearman_cosine" in found[stage] for stage in STAGES)
    assert found["drawn"]["alike_spearman_cosine"] == trainer_log(trainer, "eval_drawn_alike_spearman_cosine")
    assert half_is_zero(encoder.state_dict(), trainer.ticket)


def trainer_log(trainer: WormSentenceTransformerTrainer, name: str) -> float:
    """The one value that was logged under this name."""
    (value,) = [entry[name] for entry in trainer.state.log_history if name in entry]
    return value


def test_parts_of_a_loss_are_logged_by_stage(encoder: SentenceTransformer, tmp_path: Path) -> None:
    """The parent adds them to the logs of each evaluation, and forgets them then."""
    given = parts(encoder, tmp_path)
    given["loss"] = GlobalOrthogonalRegularizationLoss(encoder)
    trainer = worm_trainer(given)
    trainer.train()
    logs = trainer.state.log_history
    names = [name for entry in logs for name in entry if name.startswith("eval_") and "gor_" in name]
    parts_of_it = {name.rpartition("gor_")[2] for name in names}
    assert len(parts_of_it) >= 2
    assert sorted(names) == sorted(
        f"eval_{stage}gor_{part}" for stage in ("before_draw_", "drawn_", "") for part in parts_of_it
    )
    for stage in ("before_draw_", "drawn_", ""):
        total = sum(trainer_log(trainer, f"eval_{stage}gor_{part}") for part in parts_of_it)
        assert total == pytest.approx(trainer_log(trainer, f"eval_{stage}loss"), abs=1e-3)


def test_a_loss_for_each_data_set(encoder: SentenceTransformer, tmp_path: Path) -> None:
    train, validation = (
        DatasetDict({"scored": pairs(*part), "paired": pairs(*part).remove_columns("score")})
        for part in [(0, 32), (32, 16)]
    )
    given = {
        **parts(encoder, tmp_path),
        "train_dataset": train,
        "eval_dataset": validation,
        "loss": {"scored": CoSENTLoss(encoder), "paired": MultipleNegativesRankingLoss(encoder)},
    }
    trainer = worm_trainer(given)
    output = trainer.train()
    assert output.global_step == 3 * 8 + 8
    assert set(report(tmp_path)["metrics"]["drawn"]) == {"scored_loss", "paired_loss"}
    assert trainer_log(trainer, "eval_drawn_paired_loss") > 0
    assert half_is_zero(encoder.state_dict(), trainer.ticket)


def test_model_init(encoder: SentenceTransformer, tmp_path: Path) -> None:
    given = parts(encoder, tmp_path)
    trainer = worm_trainer(
        {**given, "model": None, "model_init": lambda: copy.deepcopy(encoder), "loss": CoSENTLoss(encoder)}
    )
    before = weights(encoder)
    trainer.train()
    assert trainer.model is not encoder
    assert same_weights(weights(encoder), before)
    assert half_is_zero(trainer.model.state_dict(), trainer.ticket)
    assert not same_weights(weights(trainer.model), before)


def test_without_a_config_it_trains_as_its_parent(encoder: SentenceTransformer, tmp_path: Path) -> None:
    twin, before = copy.deepcopy(encoder), weights(encoder)
    SentenceTransformerTrainer(**parts(twin, tmp_path / "parent")).train()
    trainer = WormSentenceTransformerTrainer(**parts(encoder, tmp_path / "worm"))
    trainer.train()
    assert same_weights(weights(encoder), weights(twin))
    assert not same_weights(weights(encoder), before)
    assert trainer.ticket is None
