"""The arguments that every command has beside `TrainingArguments` and `WormConfig`."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar

from transformers import TrainingArguments

from hf_worm.config import WormConfig


@dataclass(kw_only=True)
class PretrainedArguments:
    """The ways to get a pretrained model; the `help` of each field describes it. A command adds the model's name."""

    _argument_group_name: ClassVar[str] = "model"

    config_name: str | None = field(
        default=None, metadata={"help": "Configuration to use instead of the model's own: a Hub id or a local folder."}
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Folder for downloaded models and data, instead of the Hub's own cache."}
    )
    model_revision: str = field(
        default="main", metadata={"help": "Version of the model on the Hub: a branch, a tag or a commit."}
    )
    token: str | None = field(
        default=None, metadata={"help": "Hub token for private models and data, instead of the one you logged in with."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run model code that comes with the model. Only for repositories you trust."}
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = field(
        default="float32",
        metadata={
            "help": "Data type of the weights, whatever the checkpoint's (auto: as it is). Below 32 bits, small steps "
            "are lost in rounding; --bf16 computes in bfloat16 and keeps float32 weights."
        },
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Begin with a new head where the model's has another number of labels."}
    )


@dataclass
class RunArguments:
    """All other settings of a run; the `help` of each field describes it."""

    _argument_group_name: ClassVar[str] = "run"

    dense: bool = field(
        default=False,
        metadata={"help": "Plain fine-tuning without pruning, the control. The WORM settings don't count."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Begin anew in an output_dir that holds an earlier run: its checkpoints and results go."},
    )
    trade_off: list[float] | None = field(
        default=None,
        metadata={
            "help": "Speeds, such as 1.5 2 3: search, show what a model of each would be as it is drawn, and stop "
            "there. --speedup and --resume_from_checkpoint last then draw one."
        },
    )


M = TypeVar("M", bound=PretrainedArguments)
D = TypeVar("D")


@dataclass(frozen=True)
class Arguments(Generic[M, D]):
    """All arguments of a run; `worm` is `None` for plain fine-tuning."""

    model: M
    data: D
    run: RunArguments
    training: TrainingArguments
    worm: WormConfig | None


def check_counts(arguments: object, *names: str) -> None:
    """Refuse a count below 1; `None` stands for no limit.

    Args:
        arguments (`object`): A group of arguments.
        names (`str`): Those of its fields that are counts.

    Raises:
        ValueError: One of them is below 1.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")


def check_numbers(arguments: object, *names: str) -> None:
    """Refuse a number below 0, NaN and infinity.

    Args:
        arguments (`object`): A group of arguments.
        names (`str`): Those of its fields that are such numbers.

    Raises:
        ValueError: One of them is below 0 or not finite.
    """
    for name in names:
        value = getattr(arguments, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}.")
