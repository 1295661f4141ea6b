"""A command of its own for the tests: a small BERT learns whether the first of some words is after the last."""

from argparse import Namespace
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, default_data_collator, set_seed

from hf_worm import WormTrainer
from hf_worm.commands.job.arguments import Arguments, PretrainedArguments, check_counts
from hf_worm.commands.job.command import Command
from hf_worm.commands.job.metrics import metrics_function
from hf_worm.commands.job.task import Task
from hf_worm.commands.job.trainer import make_trainer

TASK = Task("order", ("input_ids",), ("rising", "falling"), ("accuracy",))


@dataclass
class Model(PretrainedArguments):
    width: int = field(metadata={"help": "Features of a word."})


@dataclass
class Data:
    _argument_group_name: ClassVar[str] = "data"

    rows: int = field(default=32, metadata={"help": "Rows to train on."})
    sorted: bool = field(default=False, metadata={"help": "No row of the one class."})

    def __post_init__(self) -> None:
        check_counts(self, "rows")


SmallArguments = Arguments[Model, Data]


def output_dir(parsed: Namespace) -> str:
    return f"runs/{parsed.rows}"


def check(arguments: SmallArguments) -> None:
    if arguments.data.sorted and arguments.training.do_eval:
        raise ValueError("`sorted` leaves nothing to evaluate.")


def build(arguments: SmallArguments, checkpoint: str | None) -> tuple[WormTrainer, Task]:
    set_seed(arguments.training.seed)
    config = BertConfig(
        vocab_size=64,
        hidden_size=arguments.model.width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    ids = np.random.default_rng(0).integers(0, 64, (arguments.data.rows, 6))
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] > ids[:, -1]).astype(int).tolist()})
    trainer = make_trainer(
        arguments,
        checkpoint,
        model=BertForSequenceClassification(config),
        train_dataset=rows,
        eval_dataset={"": rows.select(range(8))} if arguments.training.do_eval else {},
        processing_class=None,
        data_collator=default_data_collator,
        compute_metrics=metrics_function(TASK),
    )
    return trainer, TASK


def card(arguments: SmallArguments, task: Task) -> dict[str, Any]:
    return {"dataset": f"{task.name} of {arguments.data.rows}"}


SMALL = Command(
    program="hf-worm small",
    description="Learn an order.",
    model_arguments=Model,
    data_arguments=Data,
    defaults={"layers": ["value"], "learning_rate": 1e-3, "report_to": "none", "use_cpu": True},
    output_dir=output_dir,
    check=check,
    no_predict="all rows have labels.",
    build=build,
    card=card,
)
