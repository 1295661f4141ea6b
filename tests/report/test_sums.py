"""Metrics of an evaluation around the draw, and the summary of a run of two trainings."""

import pytest

from hf_worm.report.metrics import rename_, stage_metrics, sum_trainings


def test_metrics_are_numbers_without_what_the_trainer_adds() -> None:
    evaluated = {
        "eval_loss": 0.5,
        "eval_accuracy": 1,
        "eval_note": "x",
        "eval_ok": True,
        "eval_runtime": 2.0,
        "epoch": 3,
    }
    assert stage_metrics(evaluated) == {"loss": 0.5, "accuracy": 1}


def test_names_are_changed_in_place_and_in_their_order() -> None:
    metrics = {"epoch": 1.0, "eval_loss": 0.5, "eval_drawn_loss": 0.7}
    same = metrics
    rename_(metrics, "eval_", "eval_drawn_")
    assert metrics is same and list(metrics) == ["epoch", "eval_drawn_loss", "eval_drawn_drawn_loss"]
    rename_(metrics, "eval_drawn_", "eval_")
    assert list(metrics.items()) == [("epoch", 1.0), ("eval_loss", 0.5), ("eval_drawn_loss", 0.7)]


def test_two_trainings_are_summed_by_their_steps() -> None:
    first = {"train_runtime": 2.0, "train_loss": 1.0, "train_steps_per_second": 10.0, "total_flos": 5.0}
    second = {"train_runtime": 3.0, "train_loss": 0.25, "train_steps_per_second": 20.0, "total_flos": 9.0}
    joined = sum_trainings(first, second, (20, 60))
    assert joined == {
        "train_runtime": 5.0,
        "train_loss": pytest.approx((20 * 1.0 + 60 * 0.25) / 80),
        "train_steps_per_second": 16.0,
        "total_flos": 9.0,
    }
    assert sum_trainings(first, second, (0, 0))["train_loss"] == 0.0
