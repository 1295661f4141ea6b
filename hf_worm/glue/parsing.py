"""From a command line, or a JSON or YAML file, to the arguments of a run."""

import dataclasses
import json
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from transformers import HfArgumentParser, TrainingArguments

from hf_worm.config import WormConfig
from hf_worm.glue.arguments import DataArguments, ModelArguments, RunArguments
from hf_worm.glue.tasks import find_task

FIELDS: tuple[Any, ...] = (ModelArguments, DataArguments, RunArguments, WormConfig, TrainingArguments)
DESCRIPTION = """\
Prune a model while you fine-tune it on a task of GLUE, or on your own sentences: search for the early-bird ticket,
draw it, retrain, save an ordinary checkpoint with zeros in it.

  hf-worm glue --model_name_or_path bert-base-uncased --task_name mrpc --num_train_epochs 6
  hf-worm glue arguments.yaml --seed 1

The arguments can stand in a JSON or YAML file; what follows it on the command line overrides it. The command trains,
and evaluates where it can: `--do_train false` evaluates only, `--do_eval false` trains only. EB Train is
`--truncation 1`, plain fine-tuning `--dense`. The output folder is runs/TASK unless `--output_dir` is given.
`--resume_from_checkpoint last` goes on from the last checkpoint in it."""


@dataclass(frozen=True)
class Arguments:
    """All arguments of a run; `worm` is `None` for plain fine-tuning."""

    model: ModelArguments
    data: DataArguments
    run: RunArguments
    training: TrainingArguments
    worm: WormConfig | None


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows each default, and the description with its lines as they are."""


class _Parser(HfArgumentParser):
    """Raises where the parent prints a page of usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse flags, or a JSON or YAML file and the flags that override it.

    Raises:
        ValueError: An argument is unknown, missing or wrong.
        OSError: The file can't be read.
        SystemExit: `--help` was asked for.
    """
    argv = list(argv)
    if argv and Path(argv[0]).suffix in (".json", ".yaml", ".yml"):
        argv[:1] = _flags_of_file(Path(argv[0]))
    parser = _Parser(
        FIELDS,
        prog="hf-worm glue",
        usage="hf-worm glue [ARGUMENTS.json | ARGUMENTS.yaml] [--argument value ...]",
        description=DESCRIPTION,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    # `TrainingArguments` has both off; a command whose job is to train and evaluate has them on.
    parser.set_defaults(do_train=True, do_eval=True)
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        raise ValueError(_unknown_argument(unknown[0]))
    task = None if known.task_name is None else find_task(known.task_name)
    parser.set_defaults(output_dir=f"runs/{'custom' if task is None else task.name}")
    model, data, run, worm, training = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    if training.do_predict:
        raise ValueError("`do_predict` is not offered: the labels of GLUE's test sets are not public.")
    if not (training.do_train or training.do_eval):
        raise ValueError("Nothing to do: `do_train` and `do_eval` are both false.")
    if training.do_eval and data.train_file is not None and data.validation_file is None:
        raise ValueError("`train_file` needs `validation_file` beside it, or `--do_eval false`.")
    return Arguments(model, data, run, training, None if run.dense else worm)


def _flags_of_file(path: Path) -> list[str]:
    """The flags that say what the file says, so that one parser checks and converts both."""
    text = path.read_text(encoding="utf-8")
    try:
        # Numbers and words stay as they are written: to YAML `no` would be false, and 2e-5 a string.
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=yaml.BaseLoader)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold arguments by name, got a {type(content).__name__}.")
    flags: list[str] = []
    for name, value in content.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None and value not in ("null", "~"):
            flags.append(f"--{name}={value if isinstance(value, str) else json.dumps(_typed(value))}")
    return flags


def _typed(value: Any) -> Any:
    """The numbers and truth values within a setting such as `lr_scheduler_kwargs`, whose parser knows no 1e-6."""
    if isinstance(value, dict):
        return {name: _typed(inner) for name, inner in value.items()}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def _unknown_argument(argument: str) -> str:
    name = argument.split("=")[0]
    names = [f"--{field.name}" for group in FIELDS for field in dataclasses.fields(group)]
    close = get_close_matches(name, names, n=1)
    return f"unknown argument `{name}`." + (f" Did you mean `{close[0]}`?" if close else " `--help` lists them all.")
