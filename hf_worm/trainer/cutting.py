"""A smaller model between the draw and the retraining: what is cut, tried and measured."""

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from accelerate.utils import broadcast_object_list
from torch import nn

from hf_worm.compact import try_cut
from hf_worm.report.account import account
from hf_worm.report.speed import LARGE_BATCH, Batch, forward, forward_inputs, try_costs
from hf_worm.run import Run
from hf_worm.ticket import Ticket
from hf_worm.trainer import compat
from hf_worm.trainer.fitting import Gain, fit, gain
from hf_worm.trainer.stages import same_random_numbers

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin

T = TypeVar("T")


def try_cutting(trainer: "WormTrainerMixin", layers: list[str]) -> None:
    """Cut units out of a copy of the model, and raise before the search where the rest of it does not follow."""
    batch = rows(trainer)
    with trainer.accelerator.autocast():
        try_cut(trainer.trained_model, layers, lambda model: forward(model, batch))


def copy_dense(trainer: "WormTrainerMixin") -> nn.Module:
    """Copy the model, without its optimizer, which has no use any more."""
    compat.forget_optimizer(trainer)
    return copy.deepcopy(trainer.trained_model)


def cut_out(trainer: "WormTrainerMixin", run: Run) -> None:
    """Go on with a copy of the model that lacks what the ticket prunes, and let go of the dense one."""
    dense = trainer.trained_model
    smaller = run.drawn.compact(dense)
    run.account, run.rest = account(run.drawn, dense), run.drawn.rest(smaller)
    compat.swap_model(trainer, smaller)
    run.searched.close()


def measure(trainer: "WormTrainerMixin", dense: nn.Module, drawn: nn.Module) -> dict[str, Any]:
    """Measure sizes and times of the dense, the drawn and the smaller model on rows of the training set.

    The first process measures, while others have nothing to do: they would share its cores.

    Returns:
        `dict[str, Any]`: As [`~hf_worm.report.speed.costs`]; empty where nothing was measured.
    """
    batch = rows(trainer)  # of which all processes take theirs
    if not trainer.is_world_process_zero():
        return {}
    models = {"dense": dense, "drawn": drawn, "compact": trainer.trained_model}
    with trainer.accelerator.autocast():
        return try_costs(models, batch, min(LARGE_BATCH, trainer.args.per_device_train_batch_size))


def rows(trainer: "WormTrainerMixin") -> Batch:
    """Take rows of the training set that the model takes, and leave all random states as they are."""
    with same_random_numbers(trainer):
        batch = compat.first_batch(trainer)
    return forward_inputs(trainer.trained_model, batch, trainer.label_names)


def fitted_speedup(trainer: "WormTrainerMixin", run: Run, asked: float) -> tuple[float, Gain | None]:
    """Find the speed to draw for the one that was asked for to be reached, and what that gains.

    The first process measures, and all get the same.

    Returns:
        `tuple[float, Gain]`: The speed, and the gain; `None` where it was not measured.
    """
    timed, batch = run.config.speedup_by == "time", rows(trainer)
    found: list[Any] = [asked, None]
    if trainer.is_world_process_zero():
        with trainer.accelerator.autocast():
            found = list(_tried(lambda: fit(run.searched, trainer.trained_model, batch, asked, timed)) or found)
        _warn_of_less(asked, found[1])
    broadcast_object_list(found)
    return found[0], found[1]


def _warn_of_less(asked: float, gained: Gain | None) -> None:
    """Warn where a speed is not reached."""
    reached = {} if gained is None else gained.as_dict()
    missed = [f"{name.replace('_', '-')} {value:.2f}×" for name, value in reached.items() if value < asked]
    if missed:
        warnings.warn(
            f"`speedup={asked:g}` is not reached: {', '.join(missed)}. Part of the model stays as slow as it was, such "
            "as products of queries and keys: ask for more, or prune `heads` as well as `neurons`.",
            stacklevel=3,
        )


def measure_speed(trainer: "WormTrainerMixin", run: Run) -> dict[str, float]:
    """Measure the speed that the drawn ticket gains, whether it is cut out or not; empty where none was asked for."""
    speedup, costs = run.config.speedup, run.progress.costs
    if speedup is None:
        return {}
    gained = None
    if run.rest is None:
        gained = measured_gain(trainer, run.drawn)
    elif costs:
        size, times = costs["size"], costs["seconds"][f"forward {LARGE_BATCH}"]
        gained = Gain(
            size["dense"]["multiply_adds"] / size["compact"]["multiply_adds"],
            times["dense"]["median"] / times["compact"]["median"],
        )
    return {"asked": speedup, **({} if gained is None else gained.as_dict())}


def measured_gain(trainer: "WormTrainerMixin", ticket: Ticket) -> Gain | None:
    """Measure what cutting out a ticket's units would gain; `None` on all processes but the first."""
    batch = rows(trainer)
    if not trainer.is_world_process_zero():
        return None
    with trainer.accelerator.autocast():
        return _tried(lambda: gain(trainer.trained_model, ticket, batch))


def _tried(measure: Callable[[], T]) -> T | None:
    """Measure; with a warning and nothing measured where that fails."""
    try:
        return measure()
    except Exception as error:  # out of memory, or a model that can't be cut: the run goes on by the weights' counts
        warnings.warn(f"The speed was not measured: {type(error).__name__}: {error}", stacklevel=3)
        return None
