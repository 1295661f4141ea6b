"""The three phases: what changes, what must not, and what they leave behind."""

import copy
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Sampler
from training import (
    QUERY_AND_KEY,
    Gradients,
    SequentialTrainer,
    accuracy,
    arguments,
    checkpoints,
    examples,
    pruned_are_zero,
    report,
    same_weights,
    sum_over_items,
    weights,
    without_dropout,
    worm_trainer,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
)
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS
from transformers.trainer_utils import HPSearchBackend

from hf_worm import Ticket, WormConfig, WormTrainer, WormTrainerMixin
from hf_worm.commands.show.reading import read_run
from hf_worm.report.terminal import run_text, title_lines

CONVERGES = {"stopping_point": 0.5}
NEVER = {"stopping_point": 0.0, "margin": 0.0}


# With nothing to truncate and nothing drawn, the parent's training.


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2, "bf16": True}], ids=["plain", "bf16"])
def test_without_a_config_it_trains_as_its_parent(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any]
) -> None:
    twin = copy.deepcopy(bert)
    Trainer(model=twin, args=arguments(tmp_path, **changes), train_dataset=examples()).train()
    trainer = WormTrainer(model=bert, args=arguments(tmp_path, **changes), train_dataset=examples())
    trainer.train()
    assert same_weights(weights(bert), weights(twin))
    assert trainer.ticket is None
    assert not (tmp_path / "worm_report.json").exists()


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_eb_train_searches_as_plain_training_goes(
    bert: BertForSequenceClassification, tmp_path: Path, target: str
) -> None:
    twin = copy.deepcopy(bert)
    Trainer(model=twin, args=arguments(tmp_path), train_dataset=examples()).train()
    trainer = worm_trainer(
        bert, tmp_path, WormConfig.eb_train(stopping_point=0.0, margin=1.0, truncation_target=target)
    )
    trainer.search_ticket()
    assert trainer.search.truncating, "the trigger point was never reached: r = 1 was not put to the test"
    assert same_weights(weights(bert), weights(twin))


def test_a_mixin_gives_the_phases_to_another_trainer(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Loud(Trainer):
        steps = 0

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.steps += 1
            return super().training_step(*args, **kwargs)

    class LoudWorm(WormTrainerMixin, Loud):
        pass

    trainer = LoudWorm(
        model=bert, args=arguments(tmp_path), train_dataset=examples(), worm_config=WormConfig(**CONVERGES)
    )
    trainer.train()
    assert trainer.steps == 3 * 8 + 8
    assert trainer.ticket.sparsity == 0.5


# Truncation.


def test_accumulated_batches_are_truncated_once(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    without_dropout(bert)
    runs = {}
    for size, accumulated in ((8, 1), (2, 4)):
        seen = Gradients()
        trainer = worm_trainer(
            copy.deepcopy(bert),
            tmp_path,
            WormConfig(stopping_point=0.0, margin=1.0),
            SequentialTrainer,
            callbacks=[seen],
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            compute_loss_func=sum_over_items,
            num_train_epochs=3,
            max_grad_norm=0,
            optim="sgd",
        )
        trainer.search_ticket()
        runs[size] = seen.steps
    assert len(runs[8]) == len(runs[2]) == 24
    torch.testing.assert_close(runs[2], runs[8], rtol=1e-3, atol=1e-7)
    name = QUERY_AND_KEY[0]
    truncated, plain = (runs[2][step][name].abs() for step in (-1, 8))  # from step 16 on, half of them times 0.003
    assert truncated.median() < 0.1 * plain.median()


def test_update_target_scales_what_the_optimizer_does(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """With plain SGD and one step, both targets are the same rule."""
    without_dropout(bert)
    found = {}
    for target in ("gradient", "update"):
        model = copy.deepcopy(bert)
        trainer = worm_trainer(
            model,
            tmp_path,
            WormConfig(stopping_point=0.0, margin=1.0, truncation_target=target),
            SequentialTrainer,
            num_train_epochs=3,
            optim="sgd",
            max_grad_norm=0,
        )
        trainer.search_ticket()
        found[target] = weights(model)
    torch.testing.assert_close(found["update"], found["gradient"], rtol=1e-5, atol=1e-6)


# The draw and the retraining.


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": "adamw_torch", "weight_decay": 0.1},
        {"optim": "adamw_torch_fused", "weight_decay": 0.1, "bf16": True},
        {"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 0.1},
        {"optim": "adamw_torch", "gradient_accumulation_steps": 2, "save_only_model": True},
    ],
    ids=["adamw", "fused-bf16", "sgd-momentum", "accumulated"],
)
@pytest.mark.parametrize("target", ["gradient", "update"])
def test_pruned_weights_are_zero_at_every_save(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any], target: str
) -> None:
    config = WormConfig(**CONVERGES, truncation_target=target, retrain_epochs=2)
    trainer = worm_trainer(bert, tmp_path, config, save_strategy="steps", save_steps=3, **changes)
    trainer.train()
    trainer.save_model()
    drawn_at = report(tmp_path)["search"]["steps"]
    after = [folder for folder in checkpoints(tmp_path) if int(folder.name.partition("-")[2]) > drawn_at]
    assert len(after) >= 2
    assert all(pruned_are_zero(folder, trainer.ticket) for folder in [*after, tmp_path])
    assert not pruned_are_zero(checkpoints(tmp_path)[0], trainer.ticket)


def test_a_callback_that_stirs_the_weights_leaves_the_zeros(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class Stir(TrainerCallback):
        """As a moving average does that puts itself into the model at the end of a step."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
            for parameter in model.parameters():
                parameter.data.add_(1e-3)

    trainer = worm_trainer(bert, tmp_path, callbacks=[Stir()], save_strategy="steps", save_steps=5)
    trainer.train()
    trainer.save_model()
    assert all(pruned_are_zero(folder, trainer.ticket) for folder in [checkpoints(tmp_path)[-1], tmp_path])


def test_the_draw_touches_nothing_else(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path)
    trainer.search_ticket()
    before = weights(bert)
    ticket = trainer.draw_ticket()
    for name, weight in bert.state_dict().items():
        expected = before[name] * ticket.masks[name] if name in ticket.masks else before[name]
        assert torch.equal(weight, expected), name
    assert list(ticket.masks) == QUERY_AND_KEY
    assert ticket.sparsity == 0.5


def test_phases_one_by_one_equal_train(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    twin = copy.deepcopy(bert)
    worm_trainer(twin, tmp_path / "whole").train()
    trainer = worm_trainer(bert, tmp_path / "parts")
    trainer.search_ticket()
    trainer.draw_ticket()
    trainer.retrain()
    assert same_weights(weights(bert), weights(twin))
    whole, parts = report(tmp_path / "whole"), report(tmp_path / "parts")
    assert whole["search"]["observations"] == parts["search"]["observations"]
    assert parts["retrain"]["steps"] == 8


def test_phases_out_of_order_say_what_is_missing(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path)
    with pytest.raises(RuntimeError, match=r"no mask to draw yet: call `search_ticket\(\)`"):
        trainer.draw_ticket()
    with pytest.raises(RuntimeError, match=r"search_ticket\(\)"):
        trainer.retrain()
    plain = WormTrainer(model=bert, args=arguments(tmp_path), train_dataset=examples())
    for phase in (plain.search_ticket, plain.draw_ticket, plain.retrain, plain.report):
        with pytest.raises(RuntimeError, match="no `worm_config`"):
            phase()


def test_no_retraining(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig(**CONVERGES, retrain_epochs=0), eval_dataset=examples())
    output = trainer.train()
    assert output.global_step == 24
    assert "retrain" not in report(tmp_path)
    assert list(report(tmp_path)["metrics"]) == ["before_draw", "drawn"]
    assert (bert.get_parameter(QUERY_AND_KEY[0]) == 0).float().mean() == 0.5


def given_optimizers(model: nn.Module) -> Any:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


@pytest.mark.parametrize("given", [False, True], ids=["made", "given"])
@pytest.mark.parametrize(
    ("changes", "sampling", "searched"),
    [
        ({}, {}, 24),
        ({"max_steps": 37, "lr_scheduler_type": "cosine"}, {}, 24),
        ({}, {"sample_strategy": "steps", "sample_steps": 3}, 9),
        ({"gradient_accumulation_steps": 3}, {"sample_strategy": "steps", "sample_steps": 2}, 6),
        ({"ignore_data_skip": True}, {"sample_strategy": "steps", "sample_steps": 3}, 9),
    ],
    ids=["epochs", "steps", "within an epoch", "accumulated", "resumed from anew"],
)
def test_a_schedule_that_goes_on_is_that_of_plain_training(
    bert: BertForSequenceClassification,
    tmp_path: Path,
    changes: dict[str, Any],
    sampling: dict[str, Any],
    searched: int,
    given: bool,
) -> None:
    """With nothing to prune and no dropout, the whole run is the parent's training, row for row."""

    class Recording(WormTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.rates: list[float] = []
            self.rows: list[torch.Tensor] = []

        def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
            self.rates.append(self.lr_scheduler.get_last_lr()[0])
            self.rows.append(inputs["input_ids"])
            return super().training_step(model, inputs, *args)

    without_dropout(bert)
    twin = copy.deepcopy(bert)
    changes = {"warmup_steps": 5, "weight_decay": 0.1, **changes}
    optimizers = [{"optimizers": given_optimizers(model)} if given else {} for model in (twin, bert)]
    plain = Recording(model=twin, args=arguments(tmp_path, **changes), train_dataset=examples(), **optimizers[0])
    plain.train()
    config = WormConfig(prune_ratio=0.0, retrain_schedule="continue", **sampling)
    trainer = worm_trainer(bert, tmp_path, config, Recording, **changes, **optimizers[1])
    output = trainer.train()
    assert output.global_step == plain.state.global_step == trainer.state.global_step
    assert trainer.state.epoch == plain.state.epoch
    assert report(tmp_path)["search"]["steps"] == searched, "the masks had settled with three observations"
    assert report(tmp_path)["retrain"]["steps"] == output.global_step - searched
    assert trainer.rates == pytest.approx(plain.rates)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(trainer.rows, plain.rows, strict=True))
    assert same_weights(weights(bert), weights(twin))


def test_a_schedule_that_goes_on_holds_what_was_drawn(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    changes = {"eval_dataset": examples(), "num_train_epochs": 4}
    config = WormConfig(**CONVERGES, retrain_schedule="continue", retrain_epochs=7)
    trainer = worm_trainer(bert, tmp_path, config, **changes)
    assert trainer.train().global_step == 32
    trainer.save_model()
    assert pruned_are_zero(tmp_path, trainer.ticket) and trainer.ticket.sparsity == 0.5
    assert list(report(tmp_path)["metrics"]) == ["before_draw", "drawn", "retrained"]
    assert report(tmp_path)["retrain"]["steps"] == 8
    with pytest.raises(ValueError, match="The run has taken 32 optimizer steps"):
        trainer.retrain()
    assert trainer.train().global_step == 32, "once more, from a fresh optimizer"
    never = WormConfig(**NEVER, retrain_schedule="continue")
    trainer = worm_trainer(copy.deepcopy(bert), tmp_path, never, **changes)
    with pytest.warns(UserWarning, match="had not converged"):
        assert trainer.train().global_step == 32
    assert "retrain" not in report(tmp_path), "the search left nothing"
    before = trainer.args
    with pytest.raises(ValueError, match="The run has taken 32 optimizer steps, all that were planned"):
        trainer.retrain()
    assert trainer.args is before and trainer.args.max_steps == -1
    config = WormConfig(**CONVERGES, retrain_schedule="continue")
    trainer = worm_trainer(copy.deepcopy(bert), tmp_path, config, num_train_epochs=3)
    with pytest.warns(UserWarning, match="leaves none to retrain.*The drawn model is the result"):
        assert trainer.train().global_step == 24
    assert trainer.ticket.converged
    assert "for which the search may have left no steps" in " ".join(title_lines(read_run(str(tmp_path))))


def test_without_retraining_none_goes_on(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(**CONVERGES, retrain_schedule="continue", retrain_epochs=0)
    trainer = worm_trainer(bert, tmp_path, config, num_train_epochs=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert trainer.train().global_step == 24
    assert "retrain" not in report(tmp_path) and trainer.ticket.converged
    assert read_run(str(tmp_path)).status == "finished"


@pytest.mark.parametrize("schedule", ["restart", "continue"])
@pytest.mark.parametrize("bars", [True, False])
def test_a_runs_output_is_of_both_phases(
    schedule: str, bars: bool, bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """Steps, rows, time, loss and operations are those of the whole run, whatever schedule it has."""
    config = WormConfig(**CONVERGES, retrain_schedule=schedule, retrain_epochs=2)
    trainer = worm_trainer(bert, tmp_path, config, num_train_epochs=4, disable_tqdm=not bars)
    output = trainer.train()
    (logged,) = (entry for entry in trainer.state.log_history if "train_runtime" in entry)
    steps = sum(trainer.progress.steps.values())
    assert output.global_step == steps == (40 if schedule == "restart" else 32)
    assert logged["train_runtime"] == output.metrics["train_runtime"]
    rate = output.metrics["train_steps_per_second"] * output.metrics["train_runtime"]
    assert rate == pytest.approx(steps, rel=0.01)
    assert output.metrics["train_samples_per_second"] * output.metrics["train_runtime"] == pytest.approx(
        64 * steps / 8, rel=0.01
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert output.training_loss == pytest.approx(sum(losses) / len(losses))
    if bars:
        assert output.metrics["total_flos"] == trainer.state.total_flos > 0


def test_a_schedule_that_goes_on_waits_for_the_evaluations_and_keeps_the_best_of_its_own(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(**CONVERGES, retrain_schedule="continue")
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    often = {"eval_strategy": "epoch", "save_strategy": "epoch", "eval_delay": 3, "eval_dataset": examples()}
    trainer = worm_trainer(bert, tmp_path, config, **often, **best)
    trainer.train()
    evaluated = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluated == [24, 32, 40, 40], "as in plain training, and once more as the result"
    assert Path(trainer.state.best_model_checkpoint).name in ("checkpoint-32", "checkpoint-40")


def test_an_epoch_that_goes_on_has_each_row_once_whatever_orders_them(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """Grouped by length, for one, rows are in an order of torch's own random state."""

    class AnyOrder(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(torch.randperm(64).tolist())

        def __len__(self) -> int:
            return 64

    class Recording(WormTrainer):
        rows: ClassVar[list[int]] = []

        def _get_train_sampler(self, *args: Any) -> Sampler[int]:
            return AnyOrder()

        def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
            self.rows += [tuple(row) for row in inputs["input_ids"].tolist()]
            return super().training_step(model, inputs, *args)

    config = WormConfig(**CONVERGES, retrain_schedule="continue", sample_strategy="steps", sample_steps=4)
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 8}
    trainer = worm_trainer(copy.deepcopy(bert), tmp_path, config, Recording, **settings)
    trainer.train()
    assert trainer.progress.steps == {"search": 12, "retrain": 12}
    epochs = [trainer.rows[first : first + 64] for first in (0, 64, 128)]
    assert [len(set(epoch)) for epoch in epochs] == [len(set(epochs[0]))] * 3 and len(set(epochs[0])) > 60
    assert epochs[0] != epochs[1] != epochs[2]

    Recording.rows.clear()
    resumed = worm_trainer(bert, tmp_path, config, Recording, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.progress.steps == {"search": 12, "retrain": 12}
    assert len(set(resumed.rows[:64])) == len(set(epochs[0])), "resumed where the epoch begins that goes on later"


def test_a_stream_begins_anew_where_its_training_goes_on(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(**CONVERGES, retrain_schedule="continue")

    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[dict[str, Any]]:
            return iter(examples())

    trainer = worm_trainer(bert, tmp_path, config, train_dataset=Stream(), max_steps=32)
    trainer.train()
    assert trainer.progress.steps == {"search": 24, "retrain": 8}
    assert all(epochs > 0 for epochs in trainer.progress.epochs.values())
    counted = [entry["epoch"] for entry in trainer.state.log_history]
    assert counted == sorted(counted)


def test_what_goes_on_has_a_search_to_go_on_from(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(retrain_schedule="continue")
    trainer = worm_trainer(bert, tmp_path, config)
    trainer.observe()
    trainer.draw_ticket()
    with pytest.raises(RuntimeError, match="goes on with a search's optimizer"):
        trainer.retrain()


def test_stages_guess_the_same_masked_tokens(tmp_path: Path) -> None:
    """Weights that don't move, nothing pruned, and a collator that draws at random what is masked."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.stack([row["input_ids"] for row in rows])
        masked = torch.rand(ids.shape) < 0.3
        return {"input_ids": ids.masked_fill(masked, 1), "labels": ids.masked_fill(~masked, -100)}

    config = BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    trainer = WormTrainer(
        model=BertForMaskedLM(config),
        args=arguments(tmp_path, learning_rate=0.0),
        train_dataset=examples(),
        eval_dataset=examples(),
        data_collator=collate,
        worm_config=WormConfig(prune_ratio=0.0),
    )
    trainer.train()
    losses = [stage["loss"] for stage in trainer.progress.metrics.values()]
    assert len(losses) == 3 and len(set(losses)) == 1
    assert trainer.evaluate()["eval_loss"] != losses[0], "it could have differed"


def test_settings_of_another_kind_are_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`worm_config` must be a `WormConfig`, got a `dict`"):
        worm_trainer(bert, tmp_path, {"prune_ratio": 0.5})  # type: ignore[arg-type]


def test_not_converged_draws_the_newest_mask_and_warns(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig(**NEVER, retrain_epochs=0), num_train_epochs=2)
    message = "takes 3 observations and a largest distance below 0.*there were 2 and 0.*`stopping_point=0` no search"
    with pytest.warns(UserWarning, match=message):
        trainer.train()
    assert trainer.ticket.converged is False
    assert all(torch.equal(mask, trainer.search.masks[name]) for name, mask in trainer.ticket.masks.items())


def test_weights_that_have_not_faded_are_drawn_with_a_warning(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    config = WormConfig(stopping_point=0.9, truncation_target="fade", fade_epochs=100.0, retrain_epochs=0)
    trainer = worm_trainer(bert, tmp_path, config)
    found = r"less than 3% of the L1 norm.*were 5 and 0\.\d+, with \d+\.\d%.*fade faster \(`fade_epochs`, now 100\)"
    with pytest.warns(UserWarning, match=found) as warned:
        trainer.train()
    assert not [one for one in warned if "sample more often" in str(one.message)], "that would not help"


def test_a_search_too_short_to_observe_observes_at_its_end(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(**CONVERGES, sample_strategy="steps", sample_steps=100, retrain_epochs=0)
    trainer = worm_trainer(bert, tmp_path, config, num_train_epochs=1)
    with pytest.warns(UserWarning, match=r"was 1 and no distance yet.* sample more often \(`sample_steps`, now 100\)"):
        trainer.train()
    assert trainer.ticket.sparsity == 0.5


# When it observes, and what it logs.


def test_observations_are_logged_beside_the_losses(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, logging_strategy="epoch", eval_strategy="epoch", eval_dataset=examples())
    trainer.train()
    logs = trainer.state.log_history
    observed = [entry for entry in logs if "worm_sparsity" in entry]
    assert [entry["epoch"] for entry in observed] == [1, 2, 3]
    assert [entry.get("worm_max_distance") for entry in observed] == [
        seen.max_distance for seen in trainer.search.history
    ]
    assert [entry["worm_truncating"] for entry in observed] == [seen.truncating for seen in trainer.search.history]
    assert [entry["epoch"] for entry in logs if "loss" in entry] == [1, 2, 3, 4]
    assert [entry["step"] for entry in logs if "eval_loss" in entry] == [8, 16, 24, 32, 32]
    stages = [
        name for entry in logs for name in entry if name.endswith("_loss") and name not in ("eval_loss", "train_loss")
    ]
    assert stages == ["eval_before_draw_loss", "eval_drawn_loss"]


def test_a_line_per_observation_that_a_person_can_read(
    bert: BertForSequenceClassification, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worm_trainer(bert, tmp_path, WormConfig(stopping_point=0.5, margin=0.25)).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert lines[0] == "epoch 1: first masks taken, nothing to compare them with yet"
    assert lines[1].startswith("epoch 2: mask distance max 0.") and lines[1].endswith("; below 0.75: truncating")
    assert lines[2].endswith("; max below 0.5: converged")
    assert len(lines) == 3


def test_step_sampling_stops_in_the_middle_of_an_epoch(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    config = WormConfig(**CONVERGES, sample_strategy="steps", sample_steps=3)
    trainer = worm_trainer(bert, tmp_path, config)
    output = trainer.train()
    assert len(trainer.search.history) == 3
    assert report(tmp_path)["search"]["steps"] == 9
    assert report(tmp_path)["search"]["epochs"] == pytest.approx(9 / 8)
    assert output.global_step == trainer.state.global_step == 9 + 8


def test_max_steps_ends_the_search_and_not_the_retraining(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig(**NEVER), max_steps=11)
    with pytest.warns(UserWarning, match="not converged"):
        output = trainer.train()
    assert report(tmp_path)["search"]["steps"] == 11
    assert output.global_step == 11 + 8
    assert trainer.args.max_steps == 11, "the trainer's own arguments are as they were"


def test_diverged_training_names_the_layer(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class Diverge(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
            if state.global_step == 8:
                model.get_parameter(QUERY_AND_KEY[1]).data[0, 0] = torch.nan

    trainer = worm_trainer(bert, tmp_path, callbacks=[Diverge()])
    with pytest.raises(ValueError, match=rf"`{QUERY_AND_KEY[1]}` holds NaN or infinite weights"):
        trainer.train()


# Living with the Trainer's other features.


def test_best_model_is_chosen_among_the_pruned(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    searched: dict[str, torch.Tensor] = {}

    class AtTheEndOfTheSearch(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
            searched.update(weights(model))

    trainer = worm_trainer(
        bert,
        tmp_path,
        WormConfig(**CONVERGES, retrain_epochs=3),
        eval_dataset=examples(),
        compute_metrics=accuracy,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    trainer.add_callback(AtTheEndOfTheSearch())
    trainer.search_ticket()
    assert searched and same_weights(weights(bert), searched), "the search ended with other weights than it found"
    trainer.draw_ticket()
    trainer.retrain()
    assert int(Path(trainer.state.best_model_checkpoint).name.partition("-")[2]) > 24
    best = max(entry["eval_accuracy"] for entry in trainer.state.log_history[-8:] if "eval_accuracy" in entry)
    assert trainer.progress.metrics["retrained"]["accuracy"] == best
    trainer.save_model()
    assert pruned_are_zero(tmp_path, trainer.ticket)


def test_early_stopping_stops_each_phase_for_itself(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(
        bert,
        tmp_path,
        WormConfig(**NEVER, retrain_epochs=4),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
        eval_dataset=examples(),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        learning_rate=0.0,  # nothing gets better: stop at the second evaluation
        num_train_epochs=6,
    )
    with pytest.warns(UserWarning, match="not converged"):
        trainer.train()
    assert report(tmp_path)["search"]["epochs"] == 2
    assert report(tmp_path)["retrain"]["epochs"] == 2


def test_model_init_begins_each_search_and_no_retraining(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    made = []

    def model_init() -> BertForSequenceClassification:
        made.append(copy.deepcopy(bert))
        return made[-1]

    trainer = worm_trainer(bert, tmp_path, model_init=model_init)
    trainer.train()
    assert len(made) == 2, "one for the constructor, one for the search"
    assert trainer.model is made[-1]
    assert (trainer.model.get_parameter(QUERY_AND_KEY[0]) == 0).float().mean() == 0.5
    first = weights(trainer.model)
    trainer.train()
    assert same_weights(weights(trainer.model), first), "a second train() on a new model is the first one again"


def test_a_second_train_starts_the_search_clean(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path)
    trainer.train()
    first = trainer.ticket
    trainer.train()
    assert [seen.index for seen in trainer.search.history] == [0, 1, 2]
    assert trainer.ticket is not first
    assert report(tmp_path)["search"]["steps"] == 24
    assert trainer.state.global_step == 32
    assert trainer.progress.epochs == {"search": 3.0, "retrain": 1.0}


def test_an_optimizer_of_the_users_own_is_fresh_in_each_phase(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    found: dict[int, tuple[int, float]] = {}

    class Recording(WormTrainer):
        def training_step(self, *args: Any) -> torch.Tensor:
            found[self.state.global_step] = (len(self.optimizer.state), self.optimizer.param_groups[0]["lr"])
            return super().training_step(*args)

    optimizer = torch.optim.AdamW(bert.parameters(), lr=2e-3)
    trainer = worm_trainer(bert, tmp_path, kind=Recording, optimizers=(optimizer, None))
    trainer.train()
    assert trainer.progress.steps == {"search": 24, "retrain": 8}
    parameters = len(list(bert.parameters()))
    assert found[0] == found[24] == (0, 2e-3), "with no state, at the learning rate that it came with"
    assert found[1][0] == found[23][0] == found[25][0] == parameters


def test_unsupported_distribution_is_refused(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    class TwoGpus(type(arguments(tmp_path))):  # type: ignore[misc]
        n_gpu = 2

    args = arguments(tmp_path)
    args.__class__ = TwoGpus
    with pytest.raises(ValueError, match=r"does not support `nn\.DataParallel`"):
        WormTrainer(model=bert, args=args, train_dataset=examples(), worm_config=WormConfig())


def test_frozen_layers_are_refused_at_construction(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    bert.bert.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        worm_trainer(bert, tmp_path)


def test_a_stream_without_length_is_refused_before_training(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(examples())

    trainer = WormTrainer(
        model=bert, args=arguments(tmp_path, max_steps=4), train_dataset=Stream(), worm_config=WormConfig()
    )
    with pytest.raises(ValueError, match=r"training set with a length.*retrain_schedule='continue'"):
        trainer.train()
    steps = {"sample_strategy": "steps", "sample_steps": 1, "stopping_point": 1.0}
    trainer = WormTrainer(
        model=bert,
        args=arguments(tmp_path, max_steps=6),
        train_dataset=Stream(),
        worm_config=WormConfig(retrain_schedule="continue", **steps),
    )
    assert trainer.train().global_step == 6, "what is planned in steps needs no length"
    fading = WormConfig.fade(retrain_epochs=0)
    trainer = WormTrainer(model=bert, args=arguments(tmp_path, max_steps=4), train_dataset=Stream(), worm_config=fading)
    with pytest.raises(ValueError, match=r"`truncation_target='fade'` counts by epochs .* got `Stream`"):
        trainer.train()


class Trials:
    """Optuna's place in `Trainer.hyperparameter_search`: it tries given settings, and keeps what comes of them."""

    default_hp_space = None
    settings = ({"num_train_epochs": 2, "learning_rate": 1e-3}, {"num_train_epochs": 3, "learning_rate": 2e-3})

    def ensure_available(self) -> None:
        """It is."""

    def run(self, trainer: WormTrainer, n_trials: int, direction: str) -> list[tuple[float, dict[str, float]]]:
        results = []
        for number in range(n_trials):
            trainer.objective = None
            trainer.train(trial=SimpleNamespace(number=number, params=self.settings[number]))
            if trainer.objective is None:
                trainer.objective = trainer.compute_objective(trainer.evaluate())
            results.append((trainer.objective, trainer.progress.epochs))
            trainer.model = None  # as Optuna's does: `model_init` makes the next one's
        return results


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which trials tell of an evaluation; Optuna itself need not be there."""
    steps = []

    def tell(self: Trainer, trial: Any, step: int, metrics: dict[str, float]) -> None:
        steps.append(step)
        self.objective = self.compute_objective(metrics)

    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, Trials)
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)
    monkeypatch.setattr(Trainer, "_report_to_hp_search", tell)
    return steps


@pytest.mark.parametrize("retrain_epochs", [0, 1])
@pytest.mark.parametrize("settings", [{"layers": ["*.dense.weight"]}, {"layers": ["neurons"], "compact": True}])
def test_a_hyperparameter_search_compares_pruned_models(
    bert: BertForSequenceClassification,
    tmp_path: Path,
    told: list[int],
    retrain_epochs: int,
    settings: dict[str, Any],
) -> None:
    config = WormConfig(**NEVER, **settings, retrain_epochs=retrain_epochs)
    trainer = worm_trainer(
        bert, tmp_path, config, model_init=lambda: copy.deepcopy(bert), eval_dataset=examples(), eval_strategy="epoch"
    )
    with pytest.warns(UserWarning, match="not converged"):
        results = trainer.hyperparameter_search(lambda trial: trial.params, n_trials=2, backend="optuna")
    retrained = {"retrain": retrain_epochs} if retrain_epochs else {}
    assert [epochs for _, epochs in results] == [{"search": 2, **retrained}, {"search": 3, **retrained}]
    assert told == ([8, 16, 24, 8, 16, 24, 32] if retrain_epochs else [8, 16, 8, 16, 24])
    for number, (objective, _) in enumerate(results):
        measured = report(tmp_path / f"run-{number}")["metrics"]
        result = measured["retrained" if retrain_epochs else "drawn"]["loss"]
        assert objective == pytest.approx(result, rel=1e-6) != measured["before_draw"]["loss"]
    assert not (tmp_path / "worm_report.json").exists(), "it would be that of the last, not of the best"


def test_without_a_config_nothing_is_asked_of_a_given_schedule(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """The parent needs no `state_dict` of one, unless it saves."""

    class Constant:
        def step(self) -> None: ...

        def get_last_lr(self) -> list[float]:
            return [1e-3]

    optimizer = torch.optim.SGD(bert.parameters(), lr=1e-3)
    trainer = WormTrainer(
        model=bert,
        args=arguments(tmp_path, max_steps=2),
        train_dataset=examples(),
        optimizers=(optimizer, Constant()),
    )
    assert trainer.train().global_step == 2


def test_without_a_config_a_hyperparameter_search_is_the_parents(
    bert: BertForSequenceClassification, tmp_path: Path, told: list[int]
) -> None:
    trainer = WormTrainer(
        model_init=lambda: copy.deepcopy(bert),
        args=arguments(tmp_path, eval_strategy="epoch"),
        train_dataset=examples(),
        eval_dataset=examples(),
    )
    results = trainer.hyperparameter_search(lambda trial: trial.params, n_trials=1, backend="optuna")
    assert told == [8, 16]
    assert results[0][0] == trainer.state.log_history[-2]["eval_loss"], "of the last epoch"


# What it leaves.


def test_the_report_is_the_honest_account(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, eval_dataset=examples(), compute_metrics=accuracy)
    trainer.train()
    found = report(tmp_path)
    pruned = sum(int((bert.get_parameter(name) == 0).sum()) for name in QUERY_AND_KEY)
    whole = sum(parameter.numel() for parameter in bert.parameters())
    assert found["account"]["pruned_weights"] == pruned == 4 * 16 * 16 // 2
    assert found["account"]["share_of_model"] == pruned / whole
    assert found["account"]["share_of_representative"] == 0.5
    assert "dense" in found["account"]["note"]
    assert set(found["metrics"]) == {"before_draw", "drawn", "retrained"}
    assert set(found["metrics"]["drawn"]) == {"loss", "accuracy"}
    assert found["search"]["converged"] is True
    assert [seen["index"] for seen in found["search"]["observations"]] == [0, 1, 2]
    assert all(found[phase]["seconds"] > 0 for phase in ("search", "draw", "retrain"))
    assert found["config"]["prune_ratio"] == 0.5
    assert found["layers"] == dict.fromkeys(QUERY_AND_KEY, 0.5)


def test_of_an_evaluation_the_report_and_the_card_have_the_numbers(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """The parent takes any metric; and a correlation with a constant is no number that JSON knows."""

    def anything(prediction: Any) -> dict[str, Any]:
        return {"pearson": math.nan, "count": len(prediction.label_ids), "matrix": np.eye(2), "pairs": [1], "best": "a"}

    trainer = worm_trainer(bert, tmp_path, eval_dataset=examples(), compute_metrics=anything)
    trainer.train()
    trainer.create_model_card()
    found = json.loads((tmp_path / "worm_report.json").read_text(), parse_constant=pytest.fail)["metrics"]
    assert [stage.pop("loss") > 0 for stage in found.values()] == [True] * 3
    assert list(found) == ["before_draw", "drawn", "retrained"]
    assert list(found.values()) == [{"pearson": None, "count": 64}] * 3
    section = (tmp_path / "README.md").read_text().split("### Metrics")[1].split("###")[0]
    assert "| drawn |" in section and "64.0000" in section and "matrix" not in section
    assert "64.0000" in run_text(read_run(str(tmp_path)))


def test_a_process_without_hf_worm_loads_the_result(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path)
    trainer.train()
    trainer.save_model()
    ids = torch.stack([row["input_ids"] for row in examples()])
    torch.save(ids, tmp_path / "ids.pt")
    code = f"""
import sys, torch
sys.modules["hf_worm"] = None  # as where it is not installed
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r}).eval()
torch.set_num_threads(1)
with torch.no_grad():
    torch.save(model(torch.load({str(tmp_path / "ids.pt")!r})).logits, {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with torch.no_grad():
        expected = bert.eval()(ids).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)
    loaded = Ticket.from_pretrained(tmp_path)
    assert loaded.config == trainer.ticket.config
    assert loaded.history == trainer.ticket.history
    assert loaded.masks.keys() == trainer.ticket.masks.keys()
    assert all(torch.equal(mask, loaded.masks[name]) for name, mask in trainer.ticket.masks.items())
    assert json.loads((tmp_path / "worm_history.json").read_text())["converged"] is True


def test_the_ticket_of_an_earlier_run_does_not_stay_with_unpruned_weights(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """A run in the folder of another: what it writes over is moved aside, and what it doesn't stays."""
    earlier = worm_trainer(copy.deepcopy(bert), tmp_path)
    earlier.train()
    earlier.save_model()
    earlier.save_model(tmp_path / "checkpoint-8")
    trainer = worm_trainer(bert, tmp_path, save_strategy="epoch")
    trainer.search_ticket()
    assert same_weights(Ticket.from_pretrained(tmp_path).masks, earlier.ticket.masks)
    assert not (tmp_path / "checkpoint-8" / "ticket.safetensors").exists()
    assert same_weights(Ticket.from_pretrained(tmp_path / "checkpoint-8" / "_earlier_run").masks, earlier.ticket.masks)
    trainer.save_model()
    assert not (tmp_path / "ticket.safetensors").exists(), "the search is over, and what it left is not pruned"
    assert same_weights(Ticket.from_pretrained(tmp_path / "_earlier_run").masks, earlier.ticket.masks)
    trainer.draw_ticket()
    trainer.save_model()
    assert same_weights(Ticket.from_pretrained(tmp_path).masks, trainer.ticket.masks)


def test_a_trainer_that_does_not_train_leaves_the_ticket(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    earlier = worm_trainer(bert, tmp_path)
    earlier.train()
    earlier.save_model()
    worm_trainer(bert, tmp_path).save_model()
    assert pruned_are_zero(tmp_path, Ticket.from_pretrained(tmp_path))


def test_without_rows_it_is_the_parent_who_says_so(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    for config in (WormConfig(), WormConfig.fade()):
        with pytest.raises(ValueError, match="training requires a train_dataset"):
            worm_trainer(bert, tmp_path, config, train_dataset=None).train()


def test_a_retraining_is_not_resumed_from_the_search(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    trainer = worm_trainer(bert, tmp_path, WormConfig(**CONVERGES), save_strategy="epoch")
    trainer.search_ticket()
    with pytest.raises(ValueError, match="is of the search: resume it with `train` or `search_ticket`"):
        trainer.retrain(tmp_path / "checkpoint-8")
    assert trainer.ticket is None


def test_a_restart_with_smaller_batches_counts_observations_anew(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    """The restart's first checkpoints, at fewer steps than the first attempt got to, lack no observation."""

    class OutOfMemory(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.train_batch_size == 8 and state.epoch > 2:
                raise RuntimeError("CUDA out of memory.")

    twin = copy.deepcopy(bert)
    saving = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 4, "auto_find_batch_size": True}
    config = WormConfig(**NEVER)
    trainer = worm_trainer(bert, tmp_path, config, callbacks=[OutOfMemory()], **saving)
    trainer.search_ticket()
    in_epoch = math.ceil(len(examples()) / trainer.state.train_batch_size)
    assert len(trainer.search.history) == 4
    resumed = worm_trainer(twin, tmp_path / "resumed", config, **saving)
    resumed.search_ticket(tmp_path / f"checkpoint-{in_epoch}")
    assert resumed.search.history == trainer.search.history


def test_memory_that_runs_out_in_the_retraining_begins_the_run_anew(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class OutOfMemory(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.train_batch_size == 8 and state.global_step == 28:  # the search took 24
                raise RuntimeError("CUDA out of memory.")

    trainer = worm_trainer(bert, tmp_path, callbacks=[OutOfMemory()], auto_find_batch_size=True)
    trainer.train()
    in_epoch = math.ceil(len(examples()) / trainer.state.train_batch_size)
    assert trainer.progress.steps == {"search": 3 * in_epoch, "retrain": in_epoch}
    assert [seen.index for seen in trainer.search.history] == [0, 1, 2]
    assert (bert.get_parameter(QUERY_AND_KEY[0]) == 0).float().mean() == 0.5


def test_a_restart_with_smaller_batches_starts_the_search_clean(
    bert: BertForSequenceClassification, tmp_path: Path
) -> None:
    class OutOfMemory(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.train_batch_size == 8 and state.global_step == 12:  # after the first observation
                raise RuntimeError("CUDA out of memory.")

    twin = copy.deepcopy(bert)
    changes = {"auto_find_batch_size": True, "save_strategy": "epoch", "num_train_epochs": 4}
    config = WormConfig(**CONVERGES, retrain_schedule="continue")
    trainer = worm_trainer(bert, tmp_path, config, callbacks=[OutOfMemory()], **changes)
    trainer.search_ticket()
    assert trainer.state.train_batch_size < 8
    assert [seen.index for seen in trainer.search.history] == [0, 1, 2]
    assert trainer.search.converged
    trainer.draw_ticket()
    in_epoch = math.ceil(len(examples()) / trainer.state.train_batch_size)  # transformers 5.0 halves the batch
    assert trainer.retrain().global_step == 4 * in_epoch
    resumed = worm_trainer(twin, tmp_path / "resumed", config, **changes)
    assert resumed.train(tmp_path / f"checkpoint-{3 * in_epoch}").global_step == 4 * in_epoch, (
        "the checkpoint says how large the batches are"
    )
    assert same_weights(weights(twin), weights(bert))
