import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import EvalPrediction

from hf_worm.commands.glue.tasks import TASKS
from hf_worm.commands.job.metrics import METRICS, TaskMetric, metrics_function
from hf_worm.commands.job.task import Task

pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)


@given(pairs)
def test_class_metrics_equal_their_formulas(rows: list[tuple[int, int]]):
    predictions, references = (np.array(side) for side in zip(*rows, strict=True))
    tp, fp, fn, tn = (int(((predictions == p) & (references == r)).sum()) for p, r in ((1, 1), (1, 0), (0, 1), (0, 0)))
    result = TaskMetric(TASKS["mrpc"]).compute(predictions=predictions, references=references)
    assert result["accuracy"] == pytest.approx((tp + tn) / len(rows))
    assert result["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)
    root = np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    result = TaskMetric(TASKS["cola"]).compute(predictions=predictions, references=references)
    assert result == {"matthews_correlation": pytest.approx((tp * tn - fp * fn) / root if root else 0)}


def test_correlations_equal_their_formulas():
    predictions, references = [0.5, 2.0, 1.0, 4.0, 8.0], [0.0, 1.5, 2.0, 4.0, 4.5]
    result = TaskMetric(TASKS["stsb"]).compute(predictions=predictions, references=references)
    assert result["pearson"] == pytest.approx(np.corrcoef(predictions, references)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (predictions, references)]
    assert result["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_a_single_row_has_no_correlation():
    result = TaskMetric(TASKS["stsb"]).compute(predictions=[0.5], references=[1.0])
    assert np.isnan(result["pearson"]) and np.isnan(result["spearmanr"])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_reports_its_metrics(task: Task):
    values = [0.5, 1.5, 1.0] if task.is_regression else [0, 1, 1]
    result = TaskMetric(task).compute(predictions=values, references=values)
    assert result == dict.fromkeys(task.metrics, pytest.approx(1.0))
    assert set(task.metrics) <= set(METRICS)


def test_a_metric_reaches_for_no_network_and_leaves_nothing_in_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def refuse(*args: object) -> None:
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    metric = TaskMetric(TASKS["rte"])
    assert isinstance(metric, evaluate.Metric)
    for _ in range(2):  # a second use begins anew
        assert metric.compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0]) == {"accuracy": 0.75}
    assert list(tmp_path.iterdir()) == []


def test_logits_become_classes():
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    labels = np.array([0, 1, 1])
    expected = {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}
    compute = metrics_function(TASKS["mrpc"])
    assert compute(EvalPrediction(predictions=logits, label_ids=labels)) == expected
    with_hidden_states = (logits, np.zeros((3, 4)))
    assert compute(EvalPrediction(predictions=with_hidden_states, label_ids=labels)) == expected


def test_one_output_is_a_regression():
    compute = metrics_function(TASKS["stsb"])
    result = compute(EvalPrediction(predictions=np.array([[1.0], [2.0], [4.0]]), label_ids=np.array([1.0, 2.0, 4.0])))
    assert result == {"pearson": pytest.approx(1.0), "spearmanr": pytest.approx(1.0)}


def test_f1_is_that_of_the_tasks_class_1_whatever_the_models_order():
    logits, labels = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 1, 1])
    straight = metrics_function(TASKS["mrpc"])(EvalPrediction(predictions=logits, label_ids=labels))
    swapped = EvalPrediction(predictions=logits[:, ::-1], label_ids=1 - labels)
    assert metrics_function(TASKS["mrpc"], (1, 0))(swapped) == straight
    assert metrics_function(TASKS["mrpc"])(swapped) != straight
