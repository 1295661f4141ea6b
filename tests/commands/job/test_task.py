import pytest

from hf_worm.commands.job.task import Task


def test_a_task_has_one_validation_split_unless_it_says_otherwise():
    assert Task("mine", ("text",), ("a", "b"), ("accuracy",)).validation == (("", "validation"),)


def test_without_classes_it_is_a_regression_with_one_output():
    classes, numbers = (Task("mine", ("text",), labels, ("one", "other")) for labels in (("a", "b", "c"), ()))
    assert (classes.is_regression, classes.num_labels) == (False, 3)
    assert (numbers.is_regression, numbers.num_labels) == (True, 1)


def test_a_task_cannot_be_changed():
    with pytest.raises(AttributeError):
        Task("mine", ("text",), ("a", "b"), ("accuracy",)).labels = ()  # type: ignore[misc]
