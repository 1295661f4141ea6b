"""The arguments that the GLUE command alone has."""

from dataclasses import dataclass, field
from typing import ClassVar

from hf_worm.commands.job.arguments import Arguments, PretrainedArguments, check_counts

GLUE_ON_THE_HUB = "nyu-mll/glue"
FILE_TYPES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass
class ModelArguments(PretrainedArguments):
    """The model to fine-tune, and how to get it; the `help` of each field describes it."""

    model_name_or_path: str = field(metadata={"help": "Pretrained model: a Hub id or a local folder."})
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer to use instead of the model's own: a Hub id or a local folder."}
    )


@dataclass
class DataArguments:
    """The data to fine-tune on, and how to prepare it; the `help` of each field describes it."""

    _argument_group_name: ClassVar[str] = "data"

    task_name: str | None = field(
        default=None, metadata={"help": "Task of GLUE: cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb or wnli."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": f"Data set: a Hub id, or a local folder laid out as on the Hub. Tasks: {GLUE_ON_THE_HUB}."},
    )
    dataset_config_name: str | None = field(
        default=None,
        metadata={"help": "Configuration of the data set. By default the task's name, if there is a task."},
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Your own training data: a csv, tsv, json, jsonl or parquet file."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Your own validation data, in a file of the same type."}
    )
    max_seq_length: int = field(default=128, metadata={"help": "Longest input in tokens; the rest is cut off."})
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Pad every input to max_seq_length, not to the longest of its batch."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many rows only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many rows only."})
    overwrite_cache: bool = field(default=False, metadata={"help": "Tokenize again, though the result is cached."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Processes to tokenize with; by default this one alone."}
    )

    def __post_init__(self) -> None:
        check_counts(self, "max_seq_length", "max_train_samples", "max_eval_samples", "preprocessing_num_workers")
        if self.train_file is None and self.validation_file is not None:
            raise ValueError("`validation_file` needs `train_file` beside it.")
        if self.train_file is not None and self.dataset_name is not None:
            raise ValueError("`train_file` and `dataset_name` are two sources of data: pass one of them.")
        if self.task_name is None and self.dataset_name is None and self.train_file is None:
            raise ValueError(
                "No data: pass `task_name` (a task of GLUE), `dataset_name` (a Hub id or a folder), or `train_file` "
                "and `validation_file`."
            )


GlueArguments = Arguments[ModelArguments, DataArguments]
