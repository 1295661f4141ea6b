"""`hf-worm glue`: fine-tune and prune a model on a task of GLUE, or on sentences of one's own."""

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from hf_worm.commands.glue.arguments import GLUE_ON_THE_HUB, DataArguments, GlueArguments, ModelArguments
from hf_worm.commands.glue.job import build_trainer
from hf_worm.commands.glue.tasks import TASKS, find_task
from hf_worm.commands.job import command
from hf_worm.commands.job.command import Command
from hf_worm.commands.job.task import Task

DESCRIPTION = """\
Prune a model while you fine-tune it on a task of GLUE, or on your own sentences: search for the early-bird ticket,
draw it, retrain, save an ordinary checkpoint with zeros in it.

  hf-worm glue --model_name_or_path bert-base-uncased --task_name mrpc --num_train_epochs 6   into runs/mrpc
  hf-worm glue arguments.yaml --seed 1"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): What follows `hf-worm glue`; by default the arguments of this process.

    Returns:
        `int`: The exit status, as of [`hf_worm.commands.job.command.main`].
    """
    return command.main(GLUE, argv)


def output_dir(parsed: Namespace) -> str:
    """Name the output folder after the task, however it was written; `runs/custom` for data of one's own."""
    return f"runs/{'custom' if parsed.task_name is None else find_task(parsed.task_name).name}"


def check(arguments: GlueArguments) -> None:
    """Refuse to evaluate without validation data."""
    data = arguments.data
    if arguments.training.do_eval and data.train_file is not None and data.validation_file is None:
        raise ValueError("`train_file` needs `validation_file` beside it, or `--do_eval false`.")


def inputs(arguments: GlueArguments) -> tuple[str | None, ...]:
    """List the names of what a run reads, some of which may be folders and files."""
    model, data = arguments.model, arguments.data
    names = (model.model_name_or_path, model.config_name, model.tokenizer_name)
    return *names, data.dataset_name, data.train_file, data.validation_file


def card(arguments: GlueArguments, task: Task) -> dict[str, Any]:
    """Say what the model card needs to know of the task and of the data."""
    content: dict[str, Any] = {"tasks": "text-classification"}
    if task.name in TASKS:
        content |= {"language": "en", "dataset": f"GLUE {task.name.upper()}", "dataset_args": task.name}
    source = arguments.data.dataset_name or GLUE_ON_THE_HUB
    if arguments.data.train_file is None and not os.path.isdir(source):
        content["dataset_tags"] = source
    return content


GLUE = Command(
    program="hf-worm glue",
    description=DESCRIPTION,
    model_arguments=ModelArguments,
    data_arguments=DataArguments,
    defaults={},
    output_dir=output_dir,
    check=check,
    no_predict="the labels of GLUE's test sets are not public.",
    build=build_trainer,
    card=card,
    inputs=inputs,
)
