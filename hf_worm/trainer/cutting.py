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


def fitted_speedup(trainer: "WormTrainerMixin", run: Run) -> float | None:
    """Find the speed to draw for the one that was asked for to be reached; `None` where none was asked for.

    The first process measures, and all draw the same.
    """
    config = run.config
    if config.speedup is None:
        return None
    asked, timed, batch = config.speedup, config.speedup_by == "time", rows(trainer)
    found = [asked]
    if trainer.is_world_process_zero():
        with trainer.accelerator.autocast():
            fitted = _tried(lambda: fit(run.searched, trainer.trained_model, batch, asked, timed))
        found = [asked if fitted is None else fitted[0]]
    broadcast_object_list(found)
    return found[0]


def measure_speed(trainer: "WormTrainerMixin", run: Run) -> dict[str, float]:
    """Measure the speed that the drawn ticket gains, whether it is cut out or not; empty where none was asked for."""
    speedup, costs = run.config.speedup, run.progress.costs
    if speedup is None:
        return {}
    gained = None
    if run.rest is None:
        batch = rows(trainer)
        if trainer.is_world_process_zero():
            with trainer.accelerator.autocast():
                gained = _tried(lambda: gain(trainer.trained_model, run.drawn, batch))
    elif costs:
        size, times = costs["size"], costs["seconds"][f"forward {LARGE_BATCH}"]
        gained = Gain(
            size["dense"]["multiply_adds"] / size["compact"]["multiply_adds"],
            times["dense"]["median"] / times["compact"]["median"],
        )
    return {"asked": speedup, **({} if gained is None else gained.as_dict())}


def _tried(measure: Callable[[], T]) -> T | None:
    """Measure; with a warning and nothing measured where that fails."""
    try:
        return measure()
    except Exception as error:  # out of memory, or a model that can't be cut: the run goes on by the weights' counts
        warnings.warn(f"The speed was not measured: {type(error).__name__}: {error}", stacklevel=3)
        return None
