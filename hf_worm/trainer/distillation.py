"""Distillation: retrain towards the outputs of the model before the draw (Hinton et al., arXiv:1503.02531)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

ENDS = ("start_logits", "end_logits")  # of the answer to a question
IGNORED = -100  # label of a token that has none


def soft_loss(
    student: Any, teacher: Any, labels: torch.Tensor | None, temperature: float, shifted: bool = False
) -> tuple[torch.Tensor, int | torch.Tensor]:
    """The distance of a model's outputs to another's, summed over what has a label, and how many these are.

    One label a row or a token: the Kullback-Leibler divergence of the softened probabilities, times T². Several labels
    a row: the same for each label's own. A number: the squared error. A question: the mean over both ends.

    Args:
        student, teacher (`ModelOutput` or `dict`): The outputs of both, with `logits`, or `start_logits` and
            `end_logits`.
        labels (`torch.Tensor`, *optional*): As the model takes them; tokens labelled -100 do not count.
        temperature (`float`): T, above 0.
        shifted (`bool`, *optional*, defaults to `False`): The label of a token is the next token's.

    Raises:
        ValueError: The outputs have no logits.
    """
    ends = [(_logits(student, end), _logits(teacher, end)) for end in ENDS if _has(student, end)]
    if ends:
        losses = [_divergence(one, other, temperature).sum() / len(ends) for one, other in ends]
        return torch.stack(losses).sum(), len(ends[0][0])
    said, wanted = _logits(student, "logits"), _logits(teacher, "logits")
    if said.shape[-1] == 1 and said.dim() == 2:
        return (said - wanted).square().sum(), said.numel()
    if labels is not None and labels.is_floating_point() and labels.shape == said.shape:
        return _binary_divergence(said, wanted, temperature).sum(), said.numel()
    if shifted:
        said, wanted = said[..., :-1, :], wanted[..., :-1, :]
        labels = None if labels is None else labels[..., 1:]
    distances = _divergence(said, wanted, temperature)
    if labels is None or labels.shape != distances.shape:
        return distances.sum(), distances.numel()
    counted = labels != IGNORED
    return distances.masked_fill(~counted, 0).sum(), counted.sum()


def shifts_labels(model: nn.Module) -> bool:
    """True if the label of a token is the next token's: of a causal language model."""
    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def _divergence(said: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    own, other = ((logits / temperature).log_softmax(-1) for logits in (said, wanted))
    return functional.kl_div(own, other, log_target=True, reduction="none").sum(-1) * temperature**2


def _binary_divergence(said: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    own, other = said / temperature, wanted / temperature
    target = other.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(own, target, reduction="none")
    return (cross - functional.binary_cross_entropy_with_logits(other, target, reduction="none")) * temperature**2


def _has(outputs: Any, name: str) -> bool:
    return isinstance(outputs, Mapping) and outputs.get(name) is not None


def _logits(outputs: Any, name: str) -> torch.Tensor:
    """The logits of that name, in float32 at least."""
    if not _has(outputs, name):
        kind = f"names {sorted(outputs)}" if isinstance(outputs, Mapping) else f"a `{type(outputs).__name__}`"
        raise ValueError(
            f"`distillation` compares `logits` (or `start_logits` and `end_logits`), and the model's output is {kind}. "
            "Retrain without: `distillation=0`."
        )
    logits: torch.Tensor = outputs[name]
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
