"""The distance to another model's outputs, for each kind of task, against its definition."""

from typing import Any

import pytest
import torch
from torch.nn import functional
from training import small_bert
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from hf_worm.trainer.distillation import shifts_labels, soft_loss

T = 3.0


def logits(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def divergence(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """KL(wanted ‖ said) of each last dimension at temperature T, times T²."""
    p, q = (wanted / T).softmax(-1), (said / T).softmax(-1)
    return T**2 * (p * (p.log() - q.log())).sum(-1)


def test_one_label_a_row() -> None:
    said, wanted = logits(5, 4, seed=1), logits(5, 4, seed=2)
    total, count = soft_loss({"logits": said}, {"logits": wanted}, torch.arange(5) % 4, T)
    assert count == 5
    torch.testing.assert_close(total, divergence(said, wanted).sum())


def test_several_labels_a_row() -> None:
    said, wanted = logits(5, 4, seed=1), logits(5, 4, seed=2)
    total, count = soft_loss({"logits": said}, {"logits": wanted}, torch.ones(5, 4), T)
    p, q = (wanted / T).sigmoid(), (said / T).sigmoid()
    expected = T**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    assert count == 20  # as the mean of `BCEWithLogitsLoss` is over all
    torch.testing.assert_close(total, expected.sum())


def test_regression() -> None:
    said, wanted = logits(5, 1, seed=1), logits(5, 1, seed=2)
    total, count = soft_loss({"logits": said}, {"logits": wanted}, torch.rand(5), T)
    assert count == 5
    torch.testing.assert_close(total, functional.mse_loss(said, wanted, reduction="sum"))


@pytest.mark.parametrize("shifted", [False, True])
def test_tokens_that_have_a_label(shifted: bool) -> None:
    said, wanted = logits(2, 6, 4, seed=1), logits(2, 6, 4, seed=2)
    labels = torch.tensor([[-100, 1, 2, -100, 3, 0], [0, -100, -100, 1, 1, 1]])
    total, count = soft_loss({"logits": said}, {"logits": wanted}, labels, T, shifted)
    each = divergence(said, wanted)
    places = labels != -100
    expected = each[:, :-1][places[:, 1:]] if shifted else each[places]
    assert count == len(expected)
    torch.testing.assert_close(total, expected.sum())


def test_both_ends_of_an_answer() -> None:
    said = {"start_logits": logits(3, 7, seed=1), "end_logits": logits(3, 7, seed=2)}
    wanted = {"start_logits": logits(3, 7, seed=3), "end_logits": logits(3, 7, seed=4)}
    total, count = soft_loss(said, wanted, None, T)
    assert count == 3
    expected = sum(divergence(said[end], wanted[end]).sum() for end in said) / 2
    torch.testing.assert_close(total, torch.as_tensor(expected))


def test_the_same_outputs_are_at_no_distance() -> None:
    for one, labels in (
        ({"logits": logits(4, 3, seed=1)}, torch.zeros(4, dtype=torch.long)),
        ({"logits": logits(4, 3, seed=1)}, torch.ones(4, 3)),
        ({"logits": logits(4, 1, seed=1)}, torch.ones(4)),
    ):
        total, _ = soft_loss(one, one, labels, T)
        assert float(total) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("outputs", [{"loss": torch.zeros(())}, (torch.zeros(()), torch.zeros(2, 2))])
def test_outputs_without_logits_are_refused(outputs: Any) -> None:
    with pytest.raises(ValueError, match=r"distillation.*logits.*distillation=0"):
        soft_loss(outputs, outputs, None, T)


def test_narrow_logits_are_compared_in_float32() -> None:
    said, wanted = logits(5, 4, seed=1).bfloat16(), logits(5, 4, seed=2).bfloat16()
    total, _ = soft_loss({"logits": said}, {"logits": wanted}, None, T)
    torch.testing.assert_close(total, divergence(said.float(), wanted.float()).sum())


def test_causal_language_models_shift_labels() -> None:
    assert shifts_labels(GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2)))
    assert not shifts_labels(BertForSequenceClassification(small_bert()))
