"""The nine tasks of GLUE, in one table."""

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Task:
    """What the command has to know of a sentence or sentence-pair task.

    Args:
        name (`str`): The task's configuration on the Hub, in `nyu-mll/glue`.
        text_columns (`tuple[str, ...]`): The column of the sentence, or the two of the pair.
        labels (`tuple[str, ...]`): Names of the classes, in the order of their ids; empty: a regression.
        metrics (`tuple[str, ...]`): Names of the metrics, as GLUE reports them; the first is the primary one.
        validation (`tuple[tuple[str, str], ...]`, *optional*, defaults to the split `validation`):
            Of each validation split the name that its metrics get (`""`: the only one, which needs none) and its own.
    """

    name: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: tuple[tuple[str, str], ...] = (("", "validation"),)

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number, not a class."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of the model's head."""
        return len(self.labels) or 1

    @property
    def primary_metric(self) -> str:
        """The metric that ranks results."""
        return self.metrics[0]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            (("matched", "validation_matched"), ("mismatched", "validation_mismatched")),
        ),
        Task("mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment"), ("accuracy",)),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        Task("rte", ("sentence1", "sentence2"), ("entailment", "not_entailment"), ("accuracy",)),
        Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("stsb", ("sentence1", "sentence2"), (), ("pearson", "spearmanr")),
        Task("wnli", ("sentence1", "sentence2"), ("not_entailment", "entailment"), ("accuracy",)),
    )
}


def find_task(name: str) -> Task:
    """The GLUE task of that name; capitals and hyphens don't matter (`SST-2` is `sst2`).

    Raises:
        ValueError: There is no such task.
    """
    task = TASKS.get(name.lower().replace("-", "").replace("_", ""))
    if task is not None:
        return task
    close = get_close_matches(name.lower(), TASKS, n=1)
    hint = f" Did you mean `{close[0]}`?" if close else ""
    raise ValueError(f"`{name}` is no task of GLUE.{hint} The nine are: {', '.join(TASKS)}.")
