import math

import pytest
from datasets import ClassLabel, Dataset

from hf_worm.commands.glue.tasks import TASKS
from hf_worm.commands.job.labels import label_ids, task_of
from hf_worm.commands.job.task import Task

TEXT = ("text",)


def labels(*values: object, names: tuple[str, ...] = ()) -> Dataset:
    dataset = Dataset.from_dict({"label": list(values)})
    return dataset.cast_column("label", ClassLabel(names=list(names))) if names else dataset


@pytest.mark.parametrize(
    ("dataset", "names"),
    [
        (labels("pos", "neg", "pos"), ("neg", "pos")),
        (labels(0, 1, 0, names=("no", "yes", "maybe")), ("no", "yes", "maybe")),
        (labels(0, 2, 1), ("LABEL_0", "LABEL_1", "LABEL_2")),
        (labels(True, False), ("LABEL_0", "LABEL_1")),
        (labels(0.5, 1.0), ()),
    ],
)
def test_the_labels_make_the_task(dataset: Dataset, names: tuple[str, ...]):
    task = task_of(dataset, "mine", TEXT)
    assert task.labels == names
    assert task.is_regression == (not names)
    assert task.columns == TEXT


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        (("0.5", "1.25", "NA", "2.5"), ["Not numbers: 'NA'"]),
        (("0.5", "nan", "1.25"), ["Not numbers: 'nan'"]),
        (("1", "2", "many"), []),
        (("1.0", "2.5"), []),
        (("3.11", "other", "none"), []),
        (("pos", "neg"), []),
    ],
)
def test_numbers_that_one_cell_makes_text_of_are_warned_of(
    values: tuple[str, ...], warned: list[str], caplog: pytest.LogCaptureFixture
):
    task = task_of(labels(*values), "mine", TEXT)
    assert task.labels == tuple(sorted(values))
    assert len(caplog.messages) == len(warned) and all(part in caplog.text for part in warned)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (labels("yes", "yes"), "the one label 'yes'"),
        (labels(0, 0), "the one label 0"),
        (labels(1, 1), "the one label 1"),
        (labels(1, 1, names=("no", "yes")), "the one label 1"),
        (labels("yes", None), "Row 2 of the train split has no label"),
        (labels("", "yes"), "Row 1 of the train split has no label"),
        (labels([1], [2]), "class names, class ids or numbers"),
    ],
)
def test_labels_that_make_no_task_are_refused(dataset: Dataset, message: str):
    with pytest.raises(ValueError, match=message):
        task_of(dataset, "mine", TEXT)


@pytest.mark.parametrize(
    ("dataset", "task", "expected"),
    [
        (labels(1, 0, 1), TASKS["mrpc"], [1, 0, 1]),
        (labels("entailment", "not_entailment"), TASKS["rte"], [0, 1]),
        (labels(0, 1, names=("not_entailment", "entailment")), TASKS["rte"], [1, 0]),
        (labels(0, 1, names=("0", "1")), TASKS["rte"], [0, 1]),
        (labels(True, False), TASKS["sst2"], [1, 0]),
        (labels(3, 0.5, 5), TASKS["stsb"], [3.0, 0.5, 5.0]),
        (labels(3, 4), TASKS["stsb"], [3.0, 4.0]),
    ],
)
def test_labels_become_ids_or_numbers(dataset: Dataset, task: Task, expected: list[float]):
    ids = label_ids(dataset, task, "train")
    assert ids == expected
    assert all(type(label) is (float if task.is_regression else int) for label in ids)


@pytest.mark.parametrize(
    ("dataset", "task", "message"),
    [
        (labels(0, -1), TASKS["rte"], "label of row 2 of the train split is -1, which marks a row without label"),
        (labels(0, -1, names=TASKS["rte"].labels), TASKS["rte"], "is -1, which marks a row without label"),
        (labels(0, 1, 2), TASKS["rte"], r"row 3 of the train split is 2: `rte` has the labels entailment.*\(0 to 1\)"),
        (labels(0, 2, names=("a", "b", "c")), TASKS["rte"], "row 2 of the train split is 2"),
        (labels("entailment", "maybe"), TASKS["rte"], "row 2 of the train split is 'maybe'"),
        (labels(0.0, 1.0), TASKS["rte"], "row 1 of the train split is 0.0"),
        (labels(0, None), TASKS["rte"], "Row 2 of the train split has no label"),
        (labels(0.5, math.nan), TASKS["stsb"], "row 2 of the train split is nan: a regression needs finite numbers"),
        (labels(0.5, math.inf), TASKS["stsb"], "is inf: a regression needs finite numbers"),
        (labels("0.5", "high"), TASKS["stsb"], "row 1 of the train split is '0.5': a regression needs finite numbers"),
        (labels(0.5, None), TASKS["stsb"], "Row 2 of the train split has no label"),
    ],
)
def test_wrong_labels_are_refused_and_the_first_is_named(dataset: Dataset, task: Task, message: str):
    with pytest.raises(ValueError, match=message):
        label_ids(dataset, task, "train")
