import pytest

from hf_worm.commands.glue.tasks import TASKS, find_task


def test_the_nine_tasks_are_there_under_their_own_names():
    assert sorted(TASKS) == ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
    assert all(task.name == name for name, task in TASKS.items())


def test_stsb_alone_is_a_regression_and_mnli_alone_has_three_classes():
    assert [name for name, task in TASKS.items() if task.is_regression] == ["stsb"]
    assert {name: task.num_labels for name, task in TASKS.items() if task.num_labels != 2} == {"mnli": 3, "stsb": 1}


def test_mnli_alone_has_two_validation_splits():
    assert dict(TASKS["mnli"].validation) == {
        "matched": "validation_matched",
        "mismatched": "validation_mismatched",
    }
    assert {task.validation for name, task in TASKS.items() if name != "mnli"} == {(("", "validation"),)}


@pytest.mark.parametrize(("name", "found"), [("mrpc", "mrpc"), ("SST-2", "sst2"), ("STS-B", "stsb"), ("CoLA", "cola")])
def test_a_task_is_found_however_it_is_written(name: str, found: str):
    assert find_task(name) is TASKS[found]


def test_an_unknown_task_lists_the_nine_and_the_closest():
    with pytest.raises(
        ValueError, match=r"`mprc` is no task of GLUE. Did you mean `mrpc`\? The nine are: cola, .*wnli"
    ):
        find_task("mprc")
    with pytest.raises(ValueError, match=r"`imagenet` is no task of GLUE. The nine"):
        find_task("imagenet")
