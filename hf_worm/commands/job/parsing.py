"""Parses a command line, or a JSON or YAML file, into the arguments of a run."""

import dataclasses
import json
import os
from argparse import ArgumentDefaultsHelpFormatter, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import get_annotations
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, NoReturn

import torch
import yaml  # type: ignore[import-untyped]
from transformers import HfArgumentParser, TrainingArguments

from hf_worm.commands.job.arguments import Arguments, D, M, RunArguments, check_counts, check_numbers
from hf_worm.config import WormConfig
from hf_worm.files import parse_json

# `TrainingArguments` has the first two off; a command whose job is to train and evaluate has them on. The last it has
# on, and PyTorch warns at each phase where there is no accelerator to pin memory for.
DEFAULTS = {"do_train": True, "do_eval": True, "dataloader_pin_memory": torch.accelerator.is_available()}
NULLS = ("", "~", "null", "Null", "NULL")  # as YAML writes what is not given
PREFIXES = ("", "no_")  # of flags; the second turns off what is on by default
COMMON = """\
The arguments can stand in a JSON or YAML file; what follows it on the command line overrides it. The command trains,
and evaluates where it can: `--do_train false` evaluates only, `--do_eval false` trains only. `--speedup 2` prunes heads
and neurons by the settings that did best; EB Train is `--truncation 1`, plain fine-tuning `--dense`.
`--resume_from_checkpoint last` goes on from the last checkpoint in the output folder, which is one in runs/ unless
`--output_dir` is given."""


@dataclass(frozen=True, kw_only=True)
class CommandLine(Generic[M, D]):
    """The arguments of a command.

    Args:
        program (`str`): The command's name, such as `hf-worm glue`.
        description (`str`): What `--help` begins with; what all commands have in common follows it.
        model_arguments, data_arguments (`type`): The dataclasses of its own arguments.
        defaults (`Mapping[str, Any]`):
            Values of `TrainingArguments` and `WormConfig` that differ here, beside `do_train` and `do_eval`, which are
            on in every command.
        output_dir (`Callable`): The default output folder, from what was parsed.
        check (`Callable`): Raises a `ValueError` at arguments that don't go together.
        no_predict (`str`): Why there is no `do_predict`.
    """

    program: str
    description: str
    model_arguments: type[M]
    data_arguments: type[D]
    defaults: Mapping[str, Any]
    output_dir: Callable[[Namespace], str]
    check: Callable[[Arguments[M, D]], None]
    no_predict: str

    @property
    def groups(self) -> tuple[Any, ...]:
        """The dataclasses of all its arguments."""
        return self.model_arguments, self.data_arguments, RunArguments, WormConfig, TrainingArguments


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows each default, and the description with its lines as they are."""


# What these fields of `TrainingArguments` mean here.
HELP = {
    "num_train_epochs": "Epochs of the search, at the most; retrain_epochs come after them, save where "
    "retrain_schedule is continue. With search_share, which --speedup sets, the epochs of the whole run.",
    "output_dir": "Folder of the run; if not given, one in runs/.",
}


class _Parser(HfArgumentParser):
    """Raises where the parent prints a page of usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def format_help(self) -> str:
        """Write the parent's page, with the command's own groups ahead of the hundred fields of `TrainingArguments`."""
        self._action_groups.sort(key=lambda group: group.title in ("positional arguments", "options"))
        for action in self._actions:
            action.help = HELP.get(action.dest, action.help)
        return super().format_help()


def parse(command: CommandLine[M, D], argv: Sequence[str]) -> Arguments[M, D]:
    """Parse flags, or a JSON or YAML file and the flags that override it.

    Args:
        command (`CommandLine`): Whose arguments they are.
        argv (`Sequence[str]`): What follows the command's name.

    Raises:
        ValueError: An argument is unknown, missing or wrong.
        OSError: The file can't be read.
        SystemExit: `--help` was asked for.
    """
    argv = list(argv)
    lists: dict[str, list[Any]] = {}
    if argv and _is_file(argv[0]):
        argv[:1], lists = _flags_of_file(Path(argv[0]), command.groups)
    parser = _Parser(
        command.groups,
        prog=command.program,
        usage=f"{command.program} [ARGUMENTS.json | ARGUMENTS.yaml] [--argument value ...]",
        description=f"{command.description}\n\n{COMMON}",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(**DEFAULTS | deepcopy(dict(command.defaults)) | lists)
    try:
        known, unknown = parser.parse_known_args(argv)
    except ValueError:
        _refuse_what_hides(argv, command.groups)
        raise
    if unknown:
        raise ValueError(_unknown_argument(unknown[0], command.groups))
    parser.set_defaults(output_dir=command.output_dir(known), **_for_speed(known))
    parsed: tuple[Any, ...] = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    model, data, run, worm, training = parsed
    for group in (model, data, training):
        _expand_home(group)
    if training.do_predict:
        raise ValueError(f"`do_predict` is not offered: {command.no_predict}")
    if not (training.do_train or training.do_eval):
        raise ValueError("Nothing to do: `do_train` and `do_eval` are both false.")
    _check_training(training)
    if run.trade_off and (run.dense or not training.do_train):
        raise ValueError("`trade_off` shows tickets of a search, and `--dense` and `--do_train false` have none.")
    for speedup in run.trade_off or ():
        dataclasses.replace(worm, speedup=speedup)  # raises where it is none
    arguments = Arguments(model, data, run, training, None if run.dense else worm)
    command.check(arguments)
    return arguments


def _for_speed(parsed: Namespace) -> dict[str, Any]:
    """Make the settings for a speed the defaults, where one is asked for."""
    speedup = parsed.speedup or min(parsed.trade_off or [0.0])
    if parsed.trade_off and not speedup > 1:
        raise ValueError(f"`trade_off` takes speeds above 1, got {speedup!r}.")
    return {} if not speedup or parsed.dense else dataclasses.asdict(WormConfig.faster(speedup))


def _expand_home(arguments: object) -> None:
    """Make paths of `~/model` and the like, which a shell leaves as they are in `--argument=~/model`, and in files."""
    for name, value in vars(arguments).items():
        if isinstance(value, str) and value.startswith("~"):
            setattr(arguments, name, os.path.expanduser(value))


def _is_file(word: str) -> bool:
    return Path(word).suffix.lower() in (".json", ".yaml", ".yml")


def _refuse_what_hides(argv: Sequence[str], groups: Sequence[Any]) -> None:
    """Name a misspelt flag or a misplaced file, for want of which other arguments are missing."""
    flags = {
        f"--{prefix}{field.name}" for group in groups for field in dataclasses.fields(group) for prefix in PREFIXES
    }
    for before, word in pairwise(["", *argv]):
        if word.startswith("--") and "--" + word[2:].split("=")[0].replace("-", "_") not in flags:
            raise ValueError(_unknown_argument(word, groups))
        if _is_file(word) and before and not before.startswith("--"):
            raise ValueError(f"A file of arguments goes first, ahead of all flags: {word}")


def _check_training(training: TrainingArguments) -> None:
    """Refuse here what would else end in an error within the training, or in a training that is none."""
    check_counts(training, "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    check_numbers(training, "learning_rate", "weight_decay", "num_train_epochs", "dataloader_num_workers")


def _flags_of_file(path: Path, groups: Sequence[Any]) -> tuple[list[str], dict[str, list[Any]]]:
    """Turn a file into flags, so that one parser checks and converts both, and into lists that no flag can say.

    A flag takes no empty list, and of `report_to` a single name.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Numbers and words stay as they are written: to YAML `no` would be false, and 2e-5 a string.
        content = parse_json(text) if path.suffix.lower() == ".json" else yaml.load(text, Loader=yaml.BaseLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold arguments by name, got a {type(content).__name__}.")
    flags: list[str] = []
    lists: dict[str, list[Any]] = {}
    # A parser leaves other types on the fields than they were declared with.
    kinds = [kind for group in groups for kind in reversed(group.__mro__)]
    types = {name: str(hint) for kind in kinds for name, hint in get_annotations(kind).items()}
    for name, value in content.items():
        if isinstance(value, list):
            if name in types and "list" not in types[name].lower():
                raise ValueError(f"`{name}` in {path} must be a single value, got the list {value}.")
            if name in types and (not value or name == "report_to"):
                lists[name] = value
            else:
                flags += [f"--{name}", *map(str, value)]
        elif value is not None and value not in NULLS:
            flags.append(f"--{name}={value if isinstance(value, str) else json.dumps(_typed(value))}")
    return flags, lists


def _typed(value: Any) -> Any:
    """Convert numbers and truth values within a setting such as `lr_scheduler_kwargs`, whose parser knows no 1e-6."""
    if isinstance(value, dict):
        return {name: _typed(inner) for name, inner in value.items()}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def _unknown_argument(argument: str, groups: Sequence[Any]) -> str:
    name = argument.split("=")[0]
    names = [f"--{field.name}" for group in groups for field in dataclasses.fields(group)]
    close = get_close_matches(name, names, n=1)
    return f"unknown argument `{name}`." + (f" Did you mean `{close[0]}`?" if close else " `--help` lists them all.")
