"""`Seq2SeqTrainer`, which generates when it evaluates, on an encoder and decoder."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import STAGES, check_resuming, half_is_zero, sentences, small_tokenizer
from training import SETTINGS, report, same_weights, weights
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_worm import WormConfig, WormTrainerMixin

TOKENIZER = small_tokenizer()


class WormSeq2SeqTrainer(WormTrainerMixin, Seq2SeqTrainer):
    pass


@pytest.fixture
def t5() -> T5ForConditionalGeneration:
    """An encoder and a decoder of one block each: three attentions."""
    config = T5Config(
        vocab_size=len(TOKENIZER),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        pad_token_id=TOKENIZER.pad_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
        decoder_start_token_id=TOKENIZER.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


@pytest.fixture
def asked(t5: T5ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """`max_length` and `num_beams` of every generation, as it comes."""
    seen = []
    generate = T5ForConditionalGeneration.generate

    def listen(self: T5ForConditionalGeneration, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((kwargs["max_length"], kwargs["num_beams"]))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(T5ForConditionalGeneration, "generate", listen)
    return seen


def test_neurons_are_cut_out(t5: T5ForConditionalGeneration, tmp_path: Path) -> None:
    config = WormConfig(layers=["neurons"], stopping_point=0.9, compact=True)
    trainer = WormSeq2SeqTrainer(**parts(t5, tmp_path), worm_config=config)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert same_weights(weights(loaded), weights(trainer.model)) and loaded.config.d_ff == 16


def rows(texts: list[str]) -> list[dict[str, list[int]]]:
    """A sentence, and its last word as the answer."""
    return [
        {"input_ids": TOKENIZER(text)["input_ids"], "labels": [*TOKENIZER(text)["input_ids"][-2:-1], 4]}
        for text in texts
    ]


def longest(prediction: EvalPrediction) -> dict[str, float]:
    """How many tokens the longest answer has; the first id is that of the padding, and -100 is padding too."""
    return {"longest": float(np.max(np.sum(prediction.predictions > 0, axis=1)))}


def parts(model: T5ForConditionalGeneration, folder: Path, **changes: Any) -> dict[str, Any]:
    generation = {"predict_with_generate": True, "generation_max_length": 5, "generation_num_beams": 2}
    settings = {**SETTINGS, "num_train_epochs": 4, "learning_rate": 1e-2, **generation, **changes}
    return {
        "model": model,
        "args": Seq2SeqTrainingArguments(str(folder), **settings),
        "train_dataset": rows(sentences()),
        "eval_dataset": rows(sentences(40)[32:]),
        "data_collator": DataCollatorForSeq2Seq(TOKENIZER, model=model),
        "processing_class": TOKENIZER,
        "compute_metrics": longest,
    }


def worm_trainer(model: T5ForConditionalGeneration, folder: Path, **changes: Any) -> WormSeq2SeqTrainer:
    return WormSeq2SeqTrainer(**parts(model, folder, **changes), worm_config=WormConfig(stopping_point=0.5))


def test_search_draw_and_retrain(t5: T5ForConditionalGeneration, tmp_path: Path) -> None:
    trainer = worm_trainer(t5, tmp_path)
    output = trainer.train()
    trainer.save_model()
    assert output.global_step == 3 * 4 + 4
    attentions = ["encoder.block.0.layer.0.SelfAttention", "decoder.block.0.layer.0.SelfAttention"]
    attentions.append("decoder.block.0.layer.1.EncDecAttention")
    assert list(trainer.ticket.masks) == [f"{name}.{role}.weight" for name in attentions for role in "qk"]
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert same_weights(weights(loaded), weights(t5))
    assert half_is_zero(loaded.state_dict(), trainer.ticket)


def test_the_stages_are_evaluated_by_generating(
    t5: T5ForConditionalGeneration, tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    trainer = worm_trainer(t5, tmp_path)
    trainer.train()
    assert asked == [(5, 2)] * 3
    found = report(tmp_path)["metrics"]
    assert list(found) == STAGES
    assert all(set(found[stage]) == {"loss", "longest"} for stage in STAGES)
    assert all(0 < found[stage]["longest"] < 5 for stage in STAGES), "the token that a decoder starts from counts"


def test_what_evaluate_and_predict_are_asked_for_reaches_the_generation(
    t5: T5ForConditionalGeneration, tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    trainer = worm_trainer(t5, tmp_path)
    trainer.search_ticket()
    trainer.evaluate(max_length=3, num_beams=1)
    trainer.draw_ticket()
    trainer.predict(rows(sentences(4)), max_length=4, num_beams=3)
    assert asked == [(3, 1), (5, 2), (5, 2), (4, 3)], "the draw evaluates by the trainer's own arguments"


def test_resuming_either_phase_ends_the_same(t5: T5ForConditionalGeneration, tmp_path: Path) -> None:
    check_resuming(
        lambda folder: worm_trainer(copy.deepcopy(t5), folder, save_strategy="steps", save_steps=3), tmp_path
    )


def test_without_a_config_it_trains_as_its_parent(t5: T5ForConditionalGeneration, tmp_path: Path) -> None:
    twin, before = copy.deepcopy(t5), weights(t5)
    Seq2SeqTrainer(**parts(twin, tmp_path / "parent")).train()
    WormSeq2SeqTrainer(**parts(t5, tmp_path / "worm")).train()
    assert same_weights(weights(t5), weights(twin))
    assert not same_weights(weights(t5), before)
