"""Distillation: retrain towards the outputs of the model before the draw (Hinton et al., arXiv:1503.02531)."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from hf_worm.compact.load import load_compact
from hf_worm.compact.record import RECORD
from hf_worm.core.random_states import random_states_kept
from hf_worm.trainer import compat
from hf_worm.trainer.cutting import rows

if TYPE_CHECKING:
    from hf_worm.trainer.worm import WormTrainerMixin

DENSE = "dense"  # the folder of the model before the draw, in that of the run
ENDS = ("start_logits", "end_logits")  # of the answer to a question
IGNORED = -100  # label of a token that has none


class Teacher:
    """The model before the draw, towards whose outputs the retraining goes.

    Args:
        model (`nn.Module`): The model; it is kept as it is, out of training.
        share (`float`): α, in [0, 1]: the share of the loss that is the distance to its outputs.
        temperature (`float`): T, above 0.
    """

    def __init__(self, model: nn.Module, share: float, temperature: float) -> None:
        self.model = model.eval().requires_grad_(False)
        self.share, self.temperature = share, temperature
        self._shifted = shifts_labels(model)
        self._divides: bool | None = None  # whether the model's own loss is divided by the number of items it is given

    def save(self, folder: Path) -> None:
        """Write it as a plain checkpoint."""
        if isinstance(self.model, PreTrainedModel):
            self.model.save_pretrained(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            save_model(self.model, str(folder / SAFE_WEIGHTS_NAME))

    @classmethod
    def load(cls, folder: Path, like: nn.Module, share: float, temperature: float) -> "Teacher":
        """Read one that was saved, in the place of a copy of a model of its class.

        Args:
            folder (`Path`): Where it was saved.
            like (`nn.Module`): The run's model; a smaller one serves where the class can load the dense one.
            share, temperature: As for the class.

        Raises:
            ValueError: It is not there, or is of another model.
        """
        if not (folder / SAFE_WEIGHTS_NAME).is_file() and not (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
            raise ValueError(
                f"{folder} lacks the model before the draw, towards which the retraining goes "
                f"(`distillation={share:g}`): put it back, or draw anew."
            )
        device = next(like.parameters()).device
        try:
            if isinstance(like, PreTrainedModel):
                # Of an earlier run's smaller model, whose shapes its configuration can't say.
                cut = getattr(type(like.config).from_pretrained(folder), RECORD, None) is not None
                model: nn.Module = load_compact(folder) if cut else type(like).from_pretrained(folder, dtype=like.dtype)
            else:
                model = copy.deepcopy(like)
                load_model(model, str(folder / SAFE_WEIGHTS_NAME))
        except RuntimeError as error:
            raise ValueError(f"{folder} is of another model: {error}") from error
        return cls(model.to(device), share, temperature)

    def divides_loss(self, inputs: Mapping[str, Any]) -> bool:
        """True if the model's own loss is divided by `num_items_in_batch`, and is not a mean over its batch."""
        if self._divides is None:
            with torch.no_grad():
                once, twice = (self.model(**inputs, num_items_in_batch=count)["loss"] for count in (1, 2))
            self._divides = bool(once != twice)
        return self._divides

    def mixed(
        self,
        loss: torch.Tensor,
        outputs: Any,
        inputs: Mapping[str, Any],
        items: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """The loss with its share of the distance to this model's outputs.

        Args:
            loss (`torch.Tensor`): The task's.
            outputs (`ModelOutput` or `dict`): Of the model that trains.
            inputs (`Mapping[str, Any]`): What it was called with, labels included.
            items (`torch.Tensor` or `float`, *optional*): What the task's loss was divided by, where that is not
                the number of labels of these inputs: of all batches of an optimizer step.
        """
        with torch.no_grad():
            wanted = self.model(**inputs)
        regression = getattr(getattr(self.model, "config", None), "problem_type", None) == "regression"
        labels = inputs.get("labels")
        total, count = soft_loss(outputs, wanted, labels, self.temperature, self._shifted, regression)
        return (1 - self.share) * loss + self.share * total / (count if items is None else items)


class Distillation:
    """Keeps a trainer's model before the draw, and mixes the distance to its outputs into the loss.

    Args:
        trainer (`WormTrainerMixin`): The trainer.

    Attributes:
        teacher (`Teacher`, *optional*): The model before the draw, from then on.
    """

    def __init__(self, trainer: "WormTrainerMixin") -> None:
        self.trainer = trainer
        self.teacher: Teacher | None = None

    def try_out(self) -> None:
        """Raise a `ValueError` before the search where the model's outputs can't be compared, if that is asked for."""
        share, temperature = self._settings
        if share:
            model, training = self.trainer.trained_model, self.trainer.trained_model.training
            with random_states_kept(), torch.no_grad(), self.trainer.accelerator.autocast():
                outputs = model.eval()(**rows(self.trainer))
            model.train(training)
            soft_loss(outputs, outputs, None, temperature)

    def keep(self) -> None:
        """Keep a copy of the model as it is, and save it in the run's folder, if the settings ask for it."""
        share, temperature = self._settings
        if share:
            self.teacher = Teacher(copy.deepcopy(self.trainer.trained_model), share, temperature)
            if self.trainer.args.should_save:
                self.teacher.save(self._folder)

    def begin(self, resumed: bool) -> None:
        """Have a teacher for a retraining that begins: the one kept, the one saved or, for a ticket given, the model.

        Args:
            resumed (`bool`): It goes on from a checkpoint.

        Raises:
            ValueError: The run's folder lacks it, or the draw has not kept it.
        """
        share, temperature = self._settings
        if not share:
            self.teacher = None
        elif self.teacher is not None:
            self.teacher.share, self.teacher.temperature = share, temperature
        elif resumed:
            self.teacher = Teacher.load(self._folder, self.trainer.trained_model, share, temperature)
        elif "search" in self.trainer.progress.steps:
            raise ValueError(
                f"`distillation={share:g}` was set after the draw, which has not kept the model before it: set it "
                "ahead of the draw."
            )
        else:
            self.keep()

    def mixed(
        self, loss: torch.Tensor, outputs: Any, inputs: Mapping[str, Any], items: torch.Tensor | float | None
    ) -> torch.Tensor:
        """Mix the distance into a loss; see [`Teacher.mixed`]."""
        assert self.teacher is not None  # or the loss stays as it is
        trainer, counted = self.trainer, items
        with trainer.accelerator.autocast():
            if items is not None and trainer.compute_loss_func is None and not self.teacher.divides_loss(inputs):
                counted = None  # the task's loss is a mean over this batch, whatever the Trainer does with it
            elif items is not None and trainer.args.average_tokens_across_devices:
                counted = items / trainer.accelerator.num_processes  # each process's loss is multiplied by their number
            return self.teacher.mixed(loss, outputs, inputs, counted)

    @property
    def _settings(self) -> tuple[float, float]:
        config = self.trainer.worm_config
        assert config is not None  # without one nothing is drawn
        return config.distillation, config.distillation_temperature

    @property
    def _folder(self) -> Path:
        return Path(compat.run_folder(self.trainer)) / DENSE


def soft_loss(
    student: Any,
    teacher: Any,
    labels: torch.Tensor | None,
    temperature: float,
    shifted: bool = False,
    regression: bool = False,
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
        regression (`bool`, *optional*, defaults to `False`): The outputs are numbers, one or several a row.

    Raises:
        ValueError: The outputs have no logits.
    """
    ends = [(_logits(student, end), _logits(teacher, end)) for end in ENDS if _has(student, end)]
    if ends:
        losses = [_divergence(one, other, temperature).sum() / len(ends) for one, other in ends]
        return torch.stack(losses).sum(), len(ends[0][0])
    said, wanted = _logits(student, "logits"), _logits(teacher, "logits")
    if regression or (said.shape[-1] == 1 and said.dim() == 2):
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
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return any(kind.__name__ in causal for kind in type(model).__mro__)


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
