import dataclasses
from types import SimpleNamespace

import pytest

from hf_worm.commands.job.arguments import PretrainedArguments, RunArguments, check_counts


@pytest.mark.parametrize("group", [PretrainedArguments, RunArguments])
def test_every_field_has_a_help(group: type):
    assert all(field.metadata.get("help", "").endswith(".") for field in dataclasses.fields(group))


def test_a_count_below_1_is_refused_and_none_is_none():
    arguments = SimpleNamespace(rows=1, processes=None, length=0, temperature=0)
    check_counts(arguments, "rows", "processes")
    with pytest.raises(ValueError, match="`length` must be at least 1, got 0"):
        check_counts(arguments, "rows", "length")
