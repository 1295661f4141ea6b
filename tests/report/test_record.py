"""What a record derives: short names, places of observations, epochs, evaluations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from short_runs import Runs
from training import accuracy, examples, report, worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import WormConfig
from hf_worm.commands.show.reading import read_run
from hf_worm.report.record import Record
from hf_worm.report.text import shared_ends, short_names, shortened

PARTS = st.lists(st.sampled_from(["a", "b", "0"]), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["bert.0.query.weight", "bert.1.key.weight"], ["0.query", "1.key"]),
        (["bert.0.query.weight"], ["bert.0.query.weight"]),
        (["a.b", "a.b"], ["a.b", "a.b"]),
        (["a", "a.b"], ["a", "a.b"]),
        (["block1.weight", "block10.weight"], ["block1", "block10"]),
        ([], []),
    ],
)
def test_short_names(names: list[str], short: list[str]) -> None:
    assert short_names(names, ".") == short


@given(st.lists(PARTS.map(".".join), min_size=2, max_size=4, unique=True))
def test_short_names_lose_nothing(names: list[str]) -> None:
    before, after = shared_ends(names, ".")
    short = short_names(names, ".")
    assert [before + name + after for name in short] == names
    assert all(short) and len(set(short)) == len(names)


def test_the_end_of_a_long_name_stays() -> None:
    assert [shortened("abcdef", most) for most in (6, 5, 2)] == ["abcdef", "…cdef", "…f"]


@pytest.mark.parametrize("name", ["bert", "cnn"])
def test_places_follow_from_the_settings_where_there_is_no_log(runs: Runs, name: str) -> None:
    record = read_run(str(getattr(runs, name)))
    places = record.places()
    assert places == [(1.0, 8), (2.0, 16), (3.0, 24)][: len(places)] and len(places) > 1
    assert record.log != [] and replace(record, log=[]).places() == places
    assert replace(record, log=[], phases={}).places() == [(epoch, None) for epoch, _ in places]


def test_places_of_samplings_by_steps(runs: Runs) -> None:
    record = read_run(str(runs.bare))
    assert record.log == []
    assert record.places() == [(step / 8, step) for step in (3, 6, 9, 12, 15)]
    assert replace(record, phases={}).places() == [(None, step) for step in (3, 6, 9, 12, 15)]


def test_a_search_that_ends_within_an_epoch(runs: Runs) -> None:
    record = replace(read_run(str(runs.bert)), log=[], phases={"search": {"epochs": 2.5, "steps": 20}})
    assert record.places() == [(1, 8), (2, 16), (2.5, 20)]


def test_losses_are_those_of_the_log(runs: Runs) -> None:
    record = read_run(str(runs.bert))
    log = json.loads((runs.bert / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    assert dict(record.losses()) == losses and list(losses) == list(range(2, 34, 2))
    epochs = record.epochs()
    assert [(seen.phase, seen.number, seen.epoch, seen.step) for seen in epochs] == [
        ("search", 1, 1.0, 8),
        ("search", 2, 2.0, 16),
        ("search", 3, 3.0, 24),
        ("retrain", 1, 4.0, 32),
    ]
    for seen in epochs:
        assert seen.loss == pytest.approx(sum(losses[step] for step in range(seen.step - 6, seen.step + 1, 2)) / 4)
        assert set(seen.metrics) == {"accuracy", "loss"}


def test_evaluations_in_order_with_those_around_the_draw(runs: Runs) -> None:
    record = read_run(str(runs.bert))
    metrics = report(runs.bert)["metrics"]
    seen = record.evaluations("accuracy")
    assert [(at.step, at.stage) for at in seen] == [
        (8, None),
        (16, None),
        (24, None),
        (24, "before_draw"),
        (24, "drawn"),
        (32, None),
        (32, "retrained"),
    ]
    assert {at.stage: at.value for at in seen if at.stage} == {
        stage: metrics[stage]["accuracy"] for stage in ("before_draw", "drawn", "retrained")
    }
    without_log = replace(record, log=[]).evaluations("accuracy")
    assert without_log == [at for at in seen if at.stage]
    assert replace(record, log=[], phases={}).evaluations("accuracy") == []
    assert record.evaluations("f1") == []


def test_metric_names_before_the_draw_are_those_of_the_log(runs: Runs) -> None:
    searching = read_run(str(runs.searching))
    assert searching.metrics == {}
    assert searching.metric_names == read_run(str(runs.bert)).metric_names == ["accuracy", "loss"]


@pytest.mark.parametrize(
    ("schedule", "epochs"),
    [
        ("restart", [("retrain", 1, 16), ("retrain", 2, 24), ("retrain", 3, 28)]),
        ("continue", [("retrain", 1, 16)]),
    ],
)
def test_epochs_of_a_search_that_ends_within_one(
    schedule: str, epochs: list[tuple[str, int, int]], bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(
        stopping_point=0.5, sample_strategy="steps", sample_steps=4, retrain_epochs=2.0, retrain_schedule=schedule
    )
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "logging_steps": 1}
    trainer = worm_trainer(bert, tmp_path, config, eval_dataset=examples(32), compute_metrics=accuracy, **settings)
    trainer.train()
    trainer.save_state()
    seen = read_run(str(tmp_path)).epochs()
    assert [(at.phase, at.number, at.step) for at in seen] == [("search", 1, 8), ("search", 2, 12), *epochs]
    losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    evaluated = {}  # the first at a step is that of the epoch, which the draw does not end
    for entry in trainer.state.log_history:
        if "eval_loss" in entry:
            evaluated.setdefault(entry["step"], entry["eval_loss"])
    for before, at in zip([0, *(at.step for at in seen)], seen, strict=False):
        steps = range(before + 1, at.step + 1)
        assert at.loss == pytest.approx(sum(losses[step] for step in steps) / len(steps))
        assert at.metrics.get("loss") == evaluated.get(at.step)
    assert evaluated.keys() == {8, *(step for _, _, step in epochs)}


def test_epochs_of_a_retraining_that_was_a_training_of_its_own() -> None:
    summary = {"step": 12, "epoch": 1.5, "train_loss": 0.5}
    logged = [{"step": step, "epoch": step / 8, "loss": 0.5} for step in (4, 8, 12, 16, 20, 24, 28)]
    record = Record(
        status="finished",
        config=WormConfig(retrain_epochs=2.0),
        converged=True,
        phases={"search": {"steps": 12, "epochs": 1.5}, "retrain": {"steps": 16, "epochs": 2.0}},
        log=[*logged[:3], summary, *logged[3:]],
    )
    searched = [("search", 1, 8), ("search", 2, 12)]
    seen = [(at.phase, at.number, at.step) for at in record.epochs()]
    assert seen == [*searched, ("retrain", 1, 20), ("retrain", 2, 28)], "of 0.1.0: its rows began with it"
    one_training = replace(record, log=[*logged, {**summary, "step": 28, "epoch": 3.5}])
    seen = [(at.phase, at.number, at.step) for at in one_training.epochs()]
    assert seen == [*searched, ("retrain", 1, 16), ("retrain", 2, 24), ("retrain", 3, 28)]


def test_what_is_evaluated_after_the_draw_is_not_of_the_searchs_last_epoch(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(stopping_point=0.5, prune_ratio=0.9)
    trainer = worm_trainer(bert, tmp_path, config, eval_dataset=examples(32), eval_strategy="epoch")
    trainer.search_ticket()
    trainer.draw_ticket()
    drawn = trainer.evaluate()["eval_loss"]
    trainer.retrain()
    trainer.save_state()
    record = read_run(str(tmp_path))
    epochs = [(at.phase, at.number, at.step) for at in record.epochs()]
    assert epochs == [("search", 1, 8), ("search", 2, 16), ("search", 3, 24), ("retrain", 1, 32)]
    assert record.epochs()[2].metrics["loss"] == record.metrics["before_draw"]["loss"] != drawn


def test_what_is_evaluated_after_a_phase_is_not_of_its_last_epoch(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    evaluating = {"eval_dataset": examples(32), "compute_metrics": accuracy, "eval_strategy": "epoch"}
    trainer = worm_trainer(bert, tmp_path, WormConfig(stopping_point=0.5, retrain_epochs=0.0), **evaluating)
    trainer.train()
    trainer.save_state()
    record = read_run(str(tmp_path))
    assert record.epochs()[-1].metrics["loss"] == pytest.approx(record.metrics["before_draw"]["loss"])
    assert record.metrics["drawn"]["loss"] != record.metrics["before_draw"]["loss"]
    seen = record.evaluations("loss")
    assert [(at.step, at.stage) for at in seen[-3:]] == [(24, None), (24, "before_draw"), (24, "drawn")]
