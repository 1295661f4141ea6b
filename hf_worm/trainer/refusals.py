"""Ways to train that a `WormTrainer` refuses, each with what to do instead."""

import math
import warnings
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_utils import has_length

from hf_worm.compact import require_larger_units, require_units_to_cut
from hf_worm.config import WormConfig
from hf_worm.search import TicketSearch

# How training may be distributed: every process holds all of every weight, and of its averaged gradient.
SUPPORTED = {DistributedType.NO} | {kind for kind in DistributedType if kind.startswith("MULTI_")}

# Parts of the names of optimizers that update each weight inside the backward pass, as soon as its gradient is there,
# and drop the gradient: none is left to truncate, and no step of the optimizer comes after which a ticket could be
# held.
STEPPING_IN_BACKWARD = ("lomo", "layerwise")
# Of those whose step hardly becomes smaller with a gradient: it is the sign of a mean of gradients, or that mean made
# orthogonal (Muon).
STEPPING_BY_SIGN = ("lion", "rprop", "signsgd", "signum", "muon")


def refuse_distribution(owner: str, kind: DistributedType, args: TrainingArguments) -> None:
    """Raise a `ValueError` where weights or gradients are spread over processes, or a signal is to end training."""
    if kind not in SUPPORTED:
        raise ValueError(
            f"`{owner}` does not support {kind.value} training: it needs whole weights and gradients in every process. "
            "Use DistributedDataParallel: `torchrun` or `accelerate launch` without that plugin."
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"`{owner}` does not support `nn.DataParallel`, the choice of the Trainer for {args.n_gpu} GPUs in one "
            "process. Launch a process for each GPU with `torchrun`, or show it one GPU (`CUDA_VISIBLE_DEVICES`)."
        )
    if getattr(args, "enable_jit_checkpoint", False):
        raise ValueError(
            f"`{owner}` does not support `enable_jit_checkpoint`: what it saves and stops at a signal would be taken "
            "for the end of the search. Save often instead (`save_strategy='steps'`), and resume."
        )


def refuse_optimizer(owner: str, optimizer: str | torch.optim.Optimizer, scales_gradients: bool) -> None:
    """Raise a `ValueError` for an optimizer that steps in the backward pass, or by the sign of what is to be truncated.

    Args:
        owner (`str`): The class that does not support it.
        optimizer (`str` or `torch.optim.Optimizer`): A value of `args.optim`, or the optimizer itself.
        scales_gradients (`bool`): Whether gradients are to be truncated.
    """
    if isinstance(optimizer, str):
        names, label = [optimizer], f"optim={optimizer!r}"
    else:
        names, label = [kind.__name__.lower() for kind in type(optimizer).__mro__], type(optimizer).__name__
    if _any_part(STEPPING_IN_BACKWARD, names):
        ordinary = names[0].removesuffix("_layerwise") if names[0].endswith("_layerwise") else "adamw_torch"
        raise ValueError(
            f"`{owner}` does not support `{label}`: it updates each weight inside the backward pass, so there is no "
            "gradient to truncate and no step after which pruned weights could be set to 0. Use an optimizer with a "
            f"step of its own, for example `optim={ordinary!r}`."
        )
    if scales_gradients and _any_part(STEPPING_BY_SIGN, names):
        raise ValueError(
            f"`{label}` steps by the sign or the direction of the gradients, whatever their size: truncating them does "
            "little or nothing. Truncate the step instead, `WormConfig(truncation_target='update')`, or do not "
            "truncate: `WormConfig.eb_train()`."
        )


def streams(dataset: Any) -> bool:
    """True if a training set is a stream, of unknown length."""
    return dataset is not None and not has_length(dataset)


def refuse_stream_of_epochs(search: TicketSearch, dataset: Any) -> None:
    """Raise a `ValueError` where a part of the search counts by epochs, and the training set has none."""
    if search.needs_epochs and streams(dataset):
        part = "schedule='cubic'" if search.schedule.needs_epochs else "truncation_target='fade'"
        raise ValueError(
            f"`{part}` counts by epochs and needs a training set with a length, got `{type(dataset).__name__}`. Use "
            "`truncation_target='update'`, or a loop of your own with `search.attach(optimizer, steps_per_epoch=...)`."
        )


def refuse_stream_to_retrain(config: WormConfig, dataset: Any) -> None:
    """Raise a `ValueError` where the retraining has a number of epochs, and the training set has none."""
    counts_epochs = config.retrain_schedule == "restart" and config.search_share is None
    if counts_epochs and config.retrain_epochs > 0 and streams(dataset):
        raise ValueError(
            f"`retrain_epochs={config.retrain_epochs}` needs a training set with a length, got "
            f"`{type(dataset).__name__}`. Let the search's schedule go on, with `max_steps` for both "
            "(`retrain_schedule='continue'`), or set `retrain_epochs=0`."
        )


def steps_of_an_epoch(args: TrainingArguments, batches: DataLoader[Any]) -> int | None:
    """Count the optimizer steps of an epoch; `None` for a stream."""
    if not has_length(batches):
        return None
    return max(math.ceil(len(batches) / args.gradient_accumulation_steps), 1)


def warn_of_warmup(trainer: Trainer, config: WormConfig) -> None:
    """Warn of a warmup that is longer than the retraining: its number of steps may be meant for the search alone."""
    in_epoch = steps_of_an_epoch(trainer.args, trainer.get_train_dataloader())
    if in_epoch is None:
        return
    epochs = config.retrain_epochs
    if config.search_share is not None:
        epochs = trainer.args.num_train_epochs * (1 - config.search_share)
    steps = math.ceil(epochs * in_epoch)
    warmup = trainer.args.get_warmup_steps(steps)
    if warmup >= steps:
        warnings.warn(
            f"The warmup takes {warmup} steps, and the retraining has {steps}: its learning rate won't reach "
            f"{trainer.args.learning_rate:g}. Give the warmup as a share of the steps (`warmup_steps=0.1`).",
            stacklevel=4,
        )


def refuse_compact(model: nn.Module, search: TicketSearch, given_optimizer: bool) -> None:
    """Raise a `ValueError` where there is nothing to cut out of a model, or nothing to train or save the rest with."""
    require_larger_units(model, search.layers)
    if search.config.speedup is None:
        require_units_to_cut(search.layers, search.config.prune_ratio, search.config.scope)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"`compact=True` makes another model of a model of Transformers, which a `{type(model).__name__}` is not: "
            "what refers to it, such as its loss, would go on with the old one. Prune it with `compact=False`, and "
            "cut the neurons, heads or channels out afterwards: `trainer.ticket.compact(model)`."
        )
    if given_optimizer:
        raise ValueError(
            "`compact=True` needs an optimizer that the trainer makes, since the smaller model has other parameters: "
            "name it (`TrainingArguments(optim=...)`) or pass `optimizer_cls_and_kwargs` instead of `optimizers`."
        )


def _any_part(parts: tuple[str, ...], names: list[str]) -> bool:
    return any(part in name for part in parts for name in names)
