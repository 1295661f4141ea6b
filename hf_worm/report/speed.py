"""Measures models side by side: parameters, bytes, multiply-adds, and times."""

import copy
import inspect
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from hf_worm.core.random_states import random_states_kept

LARGE_BATCH = 32  # rows
BATCHES = (1, LARGE_BATCH)  # of a forward pass
WARM_UP, ROUNDS, SECONDS = 2, 15, 10.0
Batch = Mapping[str, Any]


def costs(models: Mapping[str, nn.Module], batch: Batch, rows: int = LARGE_BATCH) -> dict[str, Any]:
    """Measure models on the same rows: copies of them, for a model may keep what a forward pass has computed.

    Args:
        models (`Mapping[str, nn.Module]`): By name, on one device.
        batch (`Mapping[str, Any]`): What they are called with; tensors of one row or more, repeated as needed.
        rows (`int`, *optional*, defaults to 32): Of a training step.

    Returns:
        `dict`: JSON-ready. `size`: by name `parameters`, `bytes`, and `multiply_adds` of the forward pass of one row.
        `seconds`: by what was run (`forward 1`, `forward 32`; `training step 32`, which is forward and backward from
        the mean of the outputs) and by name `median`, `low` and `high` (quartiles) over `rounds`, in each of which all
        models take their turn.
    """
    models = copy.deepcopy(dict(models))
    with random_states_kept():
        size = {name: counts(model, repeated(batch, 1)) for name, model in models.items()}
        training = race(models, repeated(batch, rows), training_step)  # before what leaves them unfit to be trained
        times = {f"forward {count}": race(models, repeated(batch, count), forward) for count in BATCHES}
    times[f"training step {rows}"] = training
    seconds = {what: {name: _summary(values) for name, values in by_model.items()} for what, by_model in times.items()}
    return {"size": size, "seconds": seconds}


def try_costs(models: Mapping[str, nn.Module], batch: Batch, rows: int = LARGE_BATCH) -> dict[str, Any]:
    """Measure models as [`costs`] does; with a warning and nothing measured where one can't be run so."""
    try:
        return costs(models, batch, rows)
    except Exception as error:  # out of memory, or rows that can't be repeated: the run goes on without its times
        warnings.warn(f"What the smaller model gains was not measured: {type(error).__name__}: {error}", stacklevel=2)
        return {}


def forward_inputs(model: nn.Module, batch: Batch, labels: Sequence[str]) -> dict[str, Any]:
    """Pick the inputs out of a batch that a model's `forward` names, without labels that it need not have.

    Models of an encoder and a decoder keep theirs: they make the decoder's input of them.
    """
    taken = inspect.signature(model.forward).parameters
    decodes = isinstance(model, PreTrainedModel) and model.config.is_encoder_decoder
    left_out = [name for name in labels if name in taken and taken[name].default is None and not decodes]
    return {name: value for name, value in batch.items() if name in taken and name not in left_out}


def repeated(batch: Batch, rows: int) -> dict[str, Any]:
    """Repeat the first rows of a batch as often as it takes to have so many."""
    given = next(len(value) for value in batch.values() if isinstance(value, torch.Tensor))
    places = [place % given for place in range(rows)]
    return {name: value[places] if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def forward(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Run a forward pass for its outputs alone: the model can't be trained afterwards.

    Returns:
        `torch.Tensor`: The first that is not a single number, as a loss is; or the first, where all are.
    """
    model.eval()
    with torch.inference_mode():
        outputs = _outputs(model(**batch))
    return next((output for output in outputs if output.dim()), outputs[0])


def training_step(model: nn.Module, batch: Batch) -> None:
    """Run forward and backward, without the optimizer's step."""
    model.train()
    torch.autograd.backward(_outputs(model(**batch))[0].float().mean())
    model.zero_grad(set_to_none=True)


def _outputs(outputs: Any) -> list[torch.Tensor]:
    values = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    values = values.values() if isinstance(values, Mapping) else values
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]


def race(
    models: Mapping[str, nn.Module],
    batch: Batch,
    action: Callable[[nn.Module, Batch], object],
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, list[float]]:
    """Time an action by model, one entry in seconds for each round, in which all models take their turn.

    Args:
        models, batch, action: What is run, on what.
        rounds (`int`, *optional*, defaults to 15): At the most.
        seconds (`float`, *optional*, defaults to 10): After which no round begins, save the first three.
    """
    for model in models.values():
        for _ in range(WARM_UP):
            action(model, batch)
    times: dict[str, list[float]] = {name: [] for name in models}
    begun = time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - begun > seconds:
            break
        # In turn from either end: what comes first finds caches as the last round left them.
        for name in list(models) if done % 2 else reversed(list(models)):
            times[name].append(_timed(models[name], batch, action))
    return times


def _timed(model: nn.Module, batch: Batch, action: Callable[[nn.Module, Batch], object]) -> float:
    _wait()
    begun = time.perf_counter()
    action(model, batch)
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "rounds": len(values)}


def counts(model: nn.Module, batch: Batch) -> dict[str, int]:
    """Count parameters, their bytes, and multiply-adds of a forward pass."""
    parameters = list(model.parameters())
    model.eval()
    # Of the kernels that fuse an attention, not all tell what they multiply; and the counter follows gradients.
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        model(**batch)
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "multiply_adds": counted.get_total_flops() // 2,
    }
