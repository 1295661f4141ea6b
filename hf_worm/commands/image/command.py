"""`hf-worm image`: train and prune an image classifier."""

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from hf_worm.commands.image.arguments import DataArguments, ModelArguments
from hf_worm.commands.image.digits import NAME as DIGITS
from hf_worm.commands.image.job import ImageArguments, build_trainer, dataset_tail
from hf_worm.commands.image.model import NEW_MODELS
from hf_worm.commands.job import command
from hf_worm.commands.job.command import Command
from hf_worm.commands.job.task import Task
from hf_worm.config import WormConfig

DESCRIPTION = """\
Prune an image classifier while you train it: search for the early-bird ticket of its BatchNorm channels, draw it,
retrain, save an ordinary checkpoint with zeros in it.

  hf-worm image                                                          ResNet-18 on scikit-learn's digits, offline
  hf-worm image --model vgg11_bn --dataset_name uoft-cs/cifar10
  hf-worm image --model google/vit-base-patch16-224 --dataset_name my_folder --layers query key

The settings are the paper's for CNNs: SGD with a learning rate of 0.01 that stays, p 0.5, s 0.1, δ 0.05, l 5; it leaves
momentum (0.9 here) and batch size (128) open. EB Train as it was published, with one threshold over all layers, is
`--truncation 1 --scope global`."""

PAPER = WormConfig.cnn()
DEFAULTS: dict[str, Any] = {
    "layers": PAPER.layers,
    "stopping_point": PAPER.stopping_point,
    "margin": PAPER.margin,
    "window": PAPER.window,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "num_train_epochs": 20.0,
    "per_device_train_batch_size": 128,
    "per_device_eval_batch_size": 256,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): What follows `hf-worm image`; by default the arguments of this process.

    Returns:
        `int`: The exit status. 0: done. 2: the arguments, the data or the model won't do. 130: interrupted.
    """
    return command.main(IMAGE, argv)


def _output_dir(known: Namespace) -> str:
    return f"runs/{dataset_tail(known.dataset_name)}-{dataset_tail(known.model)}"


def _check(arguments: ImageArguments) -> None:
    if arguments.model.model in NEW_MODELS and arguments.model.config_name is not None:
        raise ValueError(
            f"`{arguments.model.model}` has a configuration of its own: change it by `--config_overrides` instead of "
            "naming another by `--config_name`."
        )


def _inputs(arguments: ImageArguments) -> tuple[str | None, ...]:
    """List the names of what a run reads: a folder that happens to be called `resnet18` is none of it."""
    model, data = arguments.model, arguments.data
    return (
        None if model.model in NEW_MODELS else model.model,
        model.config_name,
        None if data.dataset_name == DIGITS else data.dataset_name,
    )


def _card(arguments: ImageArguments, task: Task) -> dict[str, Any]:
    name = arguments.data.dataset_name
    card: dict[str, Any] = {"tasks": "image-classification", "dataset": task.name}
    if name != DIGITS and not os.path.isdir(name):
        card["dataset_tags"] = name
    return card


IMAGE = Command(
    program="hf-worm image",
    description=DESCRIPTION,
    model_arguments=ModelArguments,
    data_arguments=DataArguments,
    defaults=DEFAULTS,
    output_dir=_output_dir,
    check=_check,
    build=build_trainer,
    card=_card,
    inputs=_inputs,
    no_predict="pass the split as `--validation_split_name` with `--do_train false`.",
)
