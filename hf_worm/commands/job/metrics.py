"""The metrics of the tasks, on scikit-learn and scipy: nothing is downloaded, nothing is left in a cache."""

from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import EvalPrediction

from hf_worm.commands.job.task import Task

Values = Sequence[int] | Sequence[float] | npt.NDArray[Any]

# Each takes (references, predictions). `f1` is that of class 1, and 0 where neither side has one of it.
METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": lambda references, predictions: accuracy_score(references, predictions),
    "f1": lambda references, predictions: f1_score(references, predictions, zero_division=0),
    "matthews_correlation": lambda references, predictions: matthews_corrcoef(references, predictions),
    "pearson": lambda references, predictions: _correlation(pearsonr, references, predictions),
    "spearmanr": lambda references, predictions: _correlation(spearmanr, references, predictions),
}


def _correlation(of: Callable[[Values, Values], Any], references: Values, predictions: Values) -> float:
    """Correlate predictions with labels; NaN for a single row, as for rows that are all alike."""
    return float(of(references, predictions).statistic) if len(references) > 1 else float("nan")


class TaskMetric(evaluate.Metric):  # type: ignore[misc]  # until `evaluate` carries types
    """The metrics of a task; of one of GLUE's, `evaluate.load("glue", task)` without the download.

    Args:
        task (`Task`): The task.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        # The parent makes a folder for the predictions, and keeps them in memory all the same: the folder stays empty.
        with TemporaryDirectory() as folder:
            super().__init__(config_name=task.name, keep_in_memory=True, cache_dir=folder)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("float64" if self.task.is_regression else "int64")
        return evaluate.MetricInfo(
            description=f"The metrics of {self.task.name}: {', '.join(self.task.metrics)}.",
            citation="",
            inputs_description="predictions, references: class ids, or numbers for a regression.",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Values, references: Values) -> dict[str, float]:
        return {name: float(METRICS[name](references, predictions)) for name in self.task.metrics}


def metrics_function(task: Task, order: Sequence[int] = ()) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make a `compute_metrics` for `Trainer`: the task's metrics of a model's logits, or of a regression's one output.

    Args:
        task (`Task`): The task.
        order (`Sequence[int]`, *optional*): The model's id of each class of the task, where the two differ.
    """
    metric = TaskMetric(task)
    class_of = np.argsort(order)  # the task's id of each of the model's: f1 asks which class is 1

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        outputs = evaluation.predictions
        logits = np.asarray(outputs[0] if isinstance(outputs, tuple) else outputs)
        predictions, references = logits.squeeze(-1) if task.is_regression else logits.argmax(-1), evaluation.label_ids
        if len(class_of):
            predictions, references = class_of[predictions], class_of[references]
        result: dict[str, float] = metric.compute(predictions=predictions, references=references)
        return result

    return compute_metrics
