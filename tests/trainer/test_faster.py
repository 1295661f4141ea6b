"""Runs that are asked for a speed: a share of the run searches, the rest trains a smaller model."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_parts_in_training import check_resuming
from training import (
    SequentialTrainer,
    accuracy,
    arguments,
    checkpoints,
    examples,
    report,
    same_weights,
    small_bert,
    sum_over_items,
    weights,
    without_dropout,
    worm_trainer,
)
from transformers import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPTJConfig,
    GPTJForCausalLM,
    Trainer,
)

from hf_worm import WormCallback, WormConfig, WormTrainer, load_compact
from hf_worm.report.speed import counts
from hf_worm.trainer import cutting
from hf_worm.trainer.fitting import Gain

STEPS = 40  # five epochs of eight
ROW = {"input_ids": torch.arange(8)[None]}
FAST: dict[str, Any] = {
    "layers": ["heads", "neurons"],
    "scope": "global",
    "score": "fisher",
    "truncation": 1.0,
    "speedup": 2.0,
    "search_share": 0.25,
}


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(3)
    return BertForSequenceClassification(small_bert(hidden_size=48, num_attention_heads=6, intermediate_size=96))


def rates(trainer: WormTrainer) -> dict[int, float]:
    return {entry["step"]: entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry}


@pytest.mark.parametrize("schedule", ["restart", "continue"])
@pytest.mark.parametrize("settings", [{}, {"max_steps": 36}], ids=["epochs", "steps"])
def test_a_share_of_the_run_searches_and_the_rest_retrains(
    schedule: str, settings: dict[str, Any], model: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(**FAST, retrain_schedule=schedule)
    steps = settings.get("max_steps", STEPS)
    trainer = worm_trainer(model, tmp_path, config, logging_steps=1, **settings)
    trainer.train()
    found = report(tmp_path)
    assert (found["search"]["steps"], found["retrain"]["steps"]) == (steps // 4, steps - steps // 4)
    assert trainer.state.global_step == trainer.state.max_steps == steps
    by_step = rates(trainer)
    if schedule == "restart":  # each phase has a schedule of its own
        assert by_step[steps // 4] < by_step[1] / 5
        assert by_step[steps // 4 + 1] == pytest.approx(by_step[1])
    else:
        assert list(by_step.values()) == sorted(by_step.values(), reverse=True)


def test_a_smaller_model_trains_for_the_rest(model: BertForSequenceClassification, tmp_path: Path) -> None:
    dense = copy.deepcopy(model)
    config = WormConfig.faster(2.0, speedup_by="multiply_adds")
    trainer = worm_trainer(model, tmp_path, config, eval_dataset=examples(16), compute_metrics=accuracy)
    output = trainer.train()
    found = report(tmp_path)
    assert (found["search"]["steps"], found["retrain"]["steps"]) == (10, 30)
    assert output.global_step == STEPS
    assert found["speedup"]["asked"] == 2.0
    gained = counts(dense, ROW)["multiply_adds"] / counts(copy.deepcopy(trainer.model), ROW)["multiply_adds"]
    assert found["speedup"]["multiply_adds"] == pytest.approx(gained, rel=0.02) and gained >= 2.0
    assert found["speedup"]["measured"] > 0
    trainer.save_model()
    again = load_compact(tmp_path)
    torch.testing.assert_close(again.eval()(**ROW).logits, trainer.model.eval()(**ROW).logits)


def test_that_a_share_ends_the_search_is_no_reason_to_warn(
    model: BertForSequenceClassification, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    worm_trainer(model, tmp_path, WormConfig(**FAST)).train()
    assert not [str(one.message) for one in recwarn if "converged" in str(one.message)]


def test_masks_that_converge_end_the_search_earlier(model: BertForSequenceClassification, tmp_path: Path) -> None:
    sampling = {"sample_strategy": "steps", "sample_steps": 2, "stopping_point": 1.0, "window": 2}
    trainer = worm_trainer(model, tmp_path, WormConfig(**{**FAST, **sampling, "search_share": 0.9}))
    trainer.train()
    found = report(tmp_path)
    assert (found["search"]["steps"], found["retrain"]["steps"]) == (4, STEPS - 4)


def test_without_a_retraining_the_run_ends_with_the_search(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = worm_trainer(model, tmp_path, WormConfig(**FAST, retrain_epochs=0))
    trainer.train()
    assert trainer.state.global_step == STEPS // 4
    assert trainer.ticket is not None and "retrain" not in report(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"retrain_schedule": "continue", "search_share": 0.3},
        {"distillation": 0.5},
        {"scope": "layer", "score": "magnitude", "schedule": "cubic", "ramp_epochs": 1.0},
    ],
    ids=["restart", "continue", "distilled", "cubic"],
)
def test_runs_resume_to_the_bit(changes: dict[str, Any], model: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(**{**FAST, **changes})
    if config.distillation:
        check_resuming_with_teacher(model, tmp_path, config)
    else:
        check_resuming(model, tmp_path, config, dict)


@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_smaller_models_resume_to_the_bit(
    distillation: float, model: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig.faster(2.0, speedup_by="multiply_adds", distillation=distillation)
    check_resuming_with_teacher(model, tmp_path, config)


def check_resuming_with_teacher(model: BertForSequenceClassification, folder: Path, config: WormConfig) -> None:
    """In the folder of the run, where the model before the draw is."""
    settings = {"save_strategy": "steps", "save_steps": 4, "eval_dataset": examples(16)}
    whole = worm_trainer(copy.deepcopy(model), folder, config, **settings)
    whole.train()
    ends = weights(whole.model)
    saved = checkpoints(folder)
    steps = [int(one.name.partition("-")[2]) for one in saved]
    assert min(steps) < report(folder)["search"]["steps"] < max(steps)
    for checkpoint in saved[:-1:2]:
        resumed = worm_trainer(copy.deepcopy(model), folder, config, **settings)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert same_weights(weights(resumed.model), ends), checkpoint.name


def test_in_a_callback_a_share_of_the_run_searches(model: BertForSequenceClassification, tmp_path: Path) -> None:
    callback = WormCallback(WormConfig(**FAST))
    trainer = Trainer(
        model=model, args=arguments(tmp_path, save_strategy="no"), train_dataset=examples(), callbacks=[callback]
    )
    trainer.train()
    assert callback.progress.steps == {"search": 10, "retrain": 30}
    assert all(not layer.weight[~callback.ticket.masks[layer.name]].any() for layer in callback.search.layers)


def test_more_goes_until_the_measured_time_is_short_enough(
    model: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "fit", lambda *_: (2.4, Gain(2.4, 2.0)))
    trainer = worm_trainer(copy.deepcopy(model), tmp_path, WormConfig(**FAST, speedup_by="time"))
    trainer.train()
    assert trainer.ticket.config.speedup == 2.0
    assert report(tmp_path)["speedup"]["multiply_adds"] >= 2.4


def test_that_a_speed_can_not_be_measured_is_said(
    model: BertForSequenceClassification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(cutting, "fit", fail)
    monkeypatch.setattr(cutting, "gain", fail)
    trainer = worm_trainer(model, tmp_path, WormConfig(**FAST))
    with pytest.warns(UserWarning, match="The speed was not measured: RuntimeError: out of memory"):
        trainer.train()
    assert report(tmp_path)["speedup"] == {"asked": 2.0}
    assert trainer.ticket.sparsity > 0


# Several speeds of one search.


def test_the_curve_is_that_of_the_tickets_as_they_would_be_drawn(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    evaluated = {"eval_dataset": examples(32), "compute_metrics": accuracy}
    trainer = worm_trainer(copy.deepcopy(model), tmp_path, WormConfig(**FAST), **evaluated)
    trainer.search_ticket()
    before, log = weights(trainer.model), len(trainer.state.log_history)
    points = trainer.trade_off([3.0, 1.5, 2.0])
    assert same_weights(weights(trainer.model), before)
    assert [point.speedup for point in points] == [1.0, 1.5, 2.0, 3.0]
    assert all(point.multiply_adds >= point.speedup and point.measured for point in points)
    assert len(trainer.state.log_history) > log  # by names of their own
    assert any("eval_speedup_2_accuracy" in entry for entry in trainer.state.log_history)
    trainer.draw_ticket()
    assert trainer.progress.metrics["drawn"] == points[2].metrics
    assert trainer.progress.metrics["before_draw"] == points[0].metrics
    written = json.loads((tmp_path / "worm_trade_off.json").read_text())
    assert [entry["speedup"] for entry in written] == [1.0, 1.5, 2.0, 3.0]
    assert (tmp_path / "worm_trade_off.png").stat().st_size > 5000
    with pytest.raises(RuntimeError, match="drawn already"):
        trainer.trade_off([2.0])


def test_the_curve_changes_nothing_in_the_run(model: BertForSequenceClassification, tmp_path: Path) -> None:
    ends = []
    for name in ("with", "without"):
        trainer = worm_trainer(copy.deepcopy(model), tmp_path / name, WormConfig(**FAST), eval_dataset=examples(16))
        trainer.search_ticket()
        if name == "with":
            trainer.trade_off([1.5, 3.0])
        trainer.draw_ticket()
        trainer.retrain()
        ends.append(weights(trainer.model))
    assert same_weights(*ends)


def test_a_curve_needs_a_search_and_speeds_that_can_be_had(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = worm_trainer(model, tmp_path, WormConfig(**FAST))
    with pytest.raises(RuntimeError, match="search_ticket"):
        trainer.trade_off([2.0])
    trainer.search_ticket()
    with pytest.raises(ValueError, match="times fewer"):
        trainer.trade_off([2.0, 1000.0])
    with pytest.raises(ValueError, match="above 1"):
        trainer.trade_off([0.5])
    points = trainer.trade_off([2.0])  # without an eval set there are speeds alone
    assert points[1].metrics == {} and not (tmp_path / "worm_trade_off.png").exists()


# Towards the model before the draw.


def distilling(model: BertForSequenceClassification, folder: Path, **changes: Any) -> WormTrainer:
    config = WormConfig(**FAST, distillation=0.5)
    return worm_trainer(copy.deepcopy(model), folder, config, **changes)


def test_the_model_before_the_draw_is_kept_as_a_plain_checkpoint(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    trainer = distilling(model, tmp_path)
    trainer.search_ticket()
    before = weights(trainer.model)
    trainer.draw_ticket()
    trainer.retrain()
    kept = BertForSequenceClassification.from_pretrained(tmp_path / "dense")
    assert same_weights(weights(kept), before)
    assert same_weights(weights(trainer.distillation.teacher.model), before)


def test_the_loss_is_mixed_in_the_retraining_alone(model: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = distilling(model, tmp_path)
    batch = {"input_ids": torch.arange(24).view(2, 12), "labels": torch.tensor([0, 1])}
    trainer.model.train()
    torch.manual_seed(1)
    plain = trainer.compute_loss(trainer.model, dict(batch))
    torch.manual_seed(1)
    assert torch.equal(plain, trainer.model(**batch).loss), "there is no ticket yet"
    trainer.train()
    trainer.model.train()
    torch.manual_seed(1)
    loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    teacher = trainer.distillation.teacher.model
    with torch.no_grad():
        wanted, own = (one.logits / 2.0 for one in (teacher(**batch), outputs))
    distance = 4.0 * (wanted.softmax(-1) * (wanted.log_softmax(-1) - own.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(loss, 0.5 * outputs.loss + 0.5 * distance)
    trainer.model.eval()
    assert torch.equal(trainer.compute_loss(trainer.model, dict(batch)), trainer.model(**batch).loss)


def test_a_loss_of_ones_own_is_kept(model: BertForSequenceClassification, tmp_path: Path) -> None:
    called = []

    class Own(WormTrainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, True, **kwargs)
            called.append(float(loss))
            return (loss, outputs) if return_outputs else loss

    config = WormConfig(**FAST, distillation=1.0)
    own = [torch.zeros(())]

    def zero(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs.logits.sum() * 0 + own[0]

    trainer = worm_trainer(model, tmp_path, config, Own, compute_loss_func=zero)
    trainer.train()
    assert called[0] == 0.0, "the search has the loss of one's own alone"
    assert called[-1] > 0.0, "and the retraining the distance"


def test_accumulated_batches_are_as_whole_ones(model: BertForSequenceClassification, tmp_path: Path) -> None:
    ends = []
    for size, accumulated in ((8, 1), (2, 4)):
        trainer = worm_trainer(
            without_dropout(copy.deepcopy(model)),
            tmp_path / str(size),
            WormConfig(**FAST, distillation=0.5),
            SequentialTrainer,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            compute_loss_func=sum_over_items,
            optim="sgd",
            learning_rate=0.1,
        )
        trainer.train()
        ends.append(weights(trainer.model))
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=1e-4, atol=1e-5)


def test_a_retraining_without_its_teacher_is_refused(model: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = distilling(model, tmp_path, save_strategy="steps", save_steps=20)
    trainer.train()
    (tmp_path / "dense" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"dense lacks the model before the draw"):
        distilling(model, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))


def test_a_ticket_that_was_given_is_retrained_towards_the_model_as_it_was(
    model: BertForSequenceClassification, tmp_path: Path
) -> None:
    first = worm_trainer(copy.deepcopy(model), tmp_path / "first", WormConfig(**FAST))
    first.train()
    given = distilling(model, tmp_path / "given")
    given.ticket = replace(first.ticket, config=given.worm_config)
    given.retrain()
    assert same_weights(weights(given.distillation.teacher.model), weights(model))


def test_a_callback_can_not_add_to_the_loss() -> None:
    with pytest.raises(ValueError, match=r"distillation=0.5.*WormTrainer"):
        WormCallback(WormConfig(**FAST, distillation=0.5))
    with pytest.raises(ValueError, match=r"speedup_by='time'"):
        WormCallback(WormConfig(**FAST, speedup_by="time"))
    with pytest.raises(ValueError, match=r"distillation=0.5.*retrain_epochs=0"):
        WormConfig(**FAST, distillation=0.5, retrain_epochs=0)


KINDS: dict[str, tuple[Any, dict[str, Any], Any]] = {  # class, changes of its configuration, labels of a row
    "regression": (BertForSequenceClassification, {"num_labels": 1}, lambda row: {"labels": float(row["labels"])}),
    "several labels": (
        BertForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        lambda row: {"labels": [1.0, 0.0, float(row["labels"])]},
    ),
    "tokens": (
        BertForTokenClassification,
        {"num_labels": 3},
        lambda row: {"labels": torch.where(torch.arange(12) == 0, -100, row["input_ids"] % 3)},
    ),
    "questions": (
        BertForQuestionAnswering,
        {},
        lambda row: {"start_positions": int(row["input_ids"][0] % 12), "end_positions": int(row["input_ids"][1] % 12)},
    ),
    "language": (GPTJForCausalLM, {}, lambda row: {"labels": row["input_ids"]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_task_is_distilled(kind: str, tmp_path: Path) -> None:
    """Towards its teacher alone, without dropout: the distance falls while it trains."""
    build, changes, labels = KINDS[kind]
    if build is GPTJForCausalLM:
        config = GPTJConfig(vocab_size=64, n_positions=32, n_embd=48, n_layer=2, n_head=6, rotary_dim=4)
    else:
        config = small_bert(hidden_size=48, num_attention_heads=6, intermediate_size=96, **changes)
    torch.manual_seed(0)
    rows = [{"input_ids": row["input_ids"], **labels(row)} for row in examples(32)]
    trainer = worm_trainer(
        without_dropout(build(config)),
        tmp_path,
        WormConfig.faster(2.0, speedup_by="multiply_adds", distillation=1.0),
        train_dataset=rows,
        num_train_epochs=12,
        logging_steps=1,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    retraining = losses[len(losses) // 4 :]
    assert len(losses) == 48
    assert 0 < sum(retraining[-4:]) < 0.7 * sum(retraining[:4])


def test_a_model_without_logits_is_refused_before_it_is_searched(tmp_path: Path) -> None:
    class Plain(BertForSequenceClassification):
        def forward(self, input_ids: Any = None, labels: Any = None, **kwargs: Any) -> Any:
            found = super().forward(input_ids, labels=labels, **kwargs)
            return {"loss": found.loss, "scores": found.logits}

    model = Plain(small_bert(hidden_size=48, num_attention_heads=6, intermediate_size=96))
    config = WormConfig(**FAST, distillation=0.5)
    trainer = worm_trainer(model, tmp_path, config)
    with pytest.raises(ValueError, match=r"distillation.*logits.*scores"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_teacher_computes_as_the_model_that_trains(model: BertForSequenceClassification, tmp_path: Path) -> None:
    """In bfloat16 where that does: on its own it would take as long as in float32."""
    config = WormConfig(**FAST, distillation=0.5)
    trainer = worm_trainer(model, tmp_path, config, bf16=True, max_steps=8, num_train_epochs=1)
    trainer.train()
    seen = []
    layer = trainer.distillation.teacher.model.bert.encoder.layer[0].intermediate.dense
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.model.train()
    batch = {"input_ids": torch.arange(24).view(2, 12), "labels": torch.tensor([0, 1])}
    trainer.compute_loss(trainer.model, batch)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_share_is_the_same_however_batches_are_accumulated(
    accumulated: int, model: BertForSequenceClassification, tmp_path: Path
) -> None:
    """BERT's loss is the mean of its batch, whatever number of items the Trainer gives it."""
    config = WormConfig(**FAST, distillation=0.5)
    trainer = worm_trainer(model, tmp_path, config, num_train_epochs=1, gradient_accumulation_steps=accumulated)
    trainer.train()
    assert trainer.model_accepts_loss_kwargs and not trainer.distillation.teacher._divides
    batch = {"input_ids": torch.arange(24).view(2, 12), "labels": torch.tensor([0, 1])}
    trainer.model.train()
    without_dropout(trainer.model)
    alone = trainer.compute_loss(trainer.model, dict(batch))
    together = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(8))
    torch.testing.assert_close(alone, together)


def test_a_model_that_divides_its_loss_has_the_distance_divided_too(tmp_path: Path) -> None:
    config = GPTJConfig(vocab_size=64, n_positions=32, n_embd=48, n_layer=2, n_head=6, rotary_dim=4)
    rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in examples(16)]
    settings = WormConfig(**FAST, distillation=1.0)
    trainer = worm_trainer(without_dropout(GPTJForCausalLM(config)), tmp_path, settings, train_dataset=rows)
    trainer.train()
    trainer.model.train()
    batch = {"input_ids": torch.arange(24).view(2, 12), "labels": torch.arange(24).view(2, 12)}
    once, twice = (
        trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(items)) for items in (22, 44)
    )
    torch.testing.assert_close(once, 2 * twice)
    torch.testing.assert_close(once, trainer.compute_loss(trainer.model, dict(batch)))


def test_settings_may_change_between_the_phases(model: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = distilling(model, tmp_path)
    trainer.search_ticket()
    trainer.draw_ticket()
    trainer.worm_config = replace(trainer.worm_config, distillation=0.25)
    trainer.retrain()
    assert trainer.distillation.teacher.share == 0.25
    trainer.worm_config = replace(trainer.worm_config, distillation=0.0)
    trainer.retrain()
    assert trainer.distillation.teacher is None
    plain = worm_trainer(copy.deepcopy(model), tmp_path / "plain", WormConfig(**FAST))
    plain.search_ticket()
    plain.draw_ticket()
    plain.worm_config = replace(plain.worm_config, distillation=0.5)
    with pytest.raises(ValueError, match="has not kept the model before it"):
        plain.retrain()


def test_a_second_round_on_a_smaller_model_resumes(model: BertForSequenceClassification, tmp_path: Path) -> None:
    first = worm_trainer(model, tmp_path / "first", WormConfig(**FAST, compact=True))
    first.train()
    first.save_model()
    config = WormConfig(**{**FAST, "speedup": 1.3}, compact=True, distillation=0.5)

    def second() -> WormTrainer:
        smaller = load_compact(tmp_path / "first")
        return worm_trainer(smaller, tmp_path / "second", config, save_strategy="steps", save_steps=10)

    whole = second()
    whole.train()
    resumed = second()
    resumed.train(resume_from_checkpoint=str(tmp_path / "second" / "checkpoint-20"))
    assert same_weights(weights(resumed.model), weights(whole.model))


def test_a_ticket_of_another_speed_that_was_given_resumes(model: BertForSequenceClassification, tmp_path: Path) -> None:
    searched = worm_trainer(copy.deepcopy(model), tmp_path / "searched", WormConfig(**FAST))
    searched.search_ticket()
    (ticket,) = searched.search.tickets(speedups=[3.0])
    ends = []
    for checkpoint in (None, str(tmp_path / "given" / "checkpoint-10")):
        trainer = worm_trainer(
            copy.deepcopy(model), tmp_path / "given", WormConfig(**FAST), save_strategy="steps", save_steps=10
        )
        if checkpoint is None:
            trainer.ticket = ticket
        trainer.retrain(resume_from_checkpoint=checkpoint)
        ends.append(weights(trainer.model))
    assert same_weights(*ends)


def test_at_least_a_step_is_left_to_retrain(model: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(model, tmp_path, WormConfig(**{**FAST, "search_share": 0.999}))
    trainer.train()
    assert trainer.progress.steps == {"search": STEPS - 1, "retrain": 1}


def test_a_curve_with_a_metric_that_is_no_number_is_json(model: BertForSequenceClassification, tmp_path: Path) -> None:
    undefined = {"compute_metrics": lambda found: {"mcc": float("nan")}, "eval_dataset": examples(16)}
    trainer = worm_trainer(model, tmp_path, WormConfig(**FAST), **undefined)
    trainer.search_ticket()
    trainer.trade_off([1.5])
    text = (tmp_path / "worm_trade_off.json").read_text()
    assert "NaN" not in text and json.loads(text)[1]["metrics"]["mcc"] is None


@pytest.mark.parametrize("speedup", [1.5, 2.0])
def test_the_curve_is_what_is_drawn_where_more_has_to_go(speedup: float, tmp_path: Path) -> None:
    """In long rows products of queries and keys count, so that the draw takes more than the weights' counts say."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(small_bert(intermediate_size=128, max_position_embeddings=128))
    config = WormConfig(**{**FAST, "layers": ["neurons"], "speedup": speedup})
    rows = [{"input_ids": torch.arange(48) % 64, "labels": number % 2} for number in range(64)]
    trainer = worm_trainer(model, tmp_path, config, train_dataset=rows, eval_dataset=rows[:16])
    trainer.search_ticket()
    (_, point) = trainer.trade_off([speedup])
    trainer.draw_ticket()
    assert trainer.progress.metrics["drawn"] == point.metrics
    assert trainer.progress.speed["multiply_adds"] == pytest.approx(point.multiply_adds)
