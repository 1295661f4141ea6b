"""Numbers and names as people read them."""

import pytest

from hf_worm.report.text import counted, distance, layer_words, milliseconds, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1 step"), (0, "0 steps"), (2.5, "2.5 steps"), (1 / 3, "0.33 steps"), (1_234_567, "1,234,567 steps")],
)
def test_counts_are_written_out(value: float, text: str) -> None:
    assert counted(value, "step") == text


def test_what_is_missing_is_no_zero() -> None:
    assert (number(None), number(None, missing="?"), distance(None), percent(None)) == ("", "?", "-", "-")
    assert (number(0.0), distance(0.0), percent(0.0)) == ("0.0000", "0.00000", "0.0%")


def test_times_are_medians_with_their_quartiles() -> None:
    times = {"low": 0.001, "median": 0.0015, "high": 0.25}
    assert milliseconds(times, spread=False) == "1.50"
    assert milliseconds(times, spread=True) == "1.50 (1.00 to 250.00)"


def test_patterns_are_in_backticks_and_ratios_are_left_out() -> None:
    assert layer_words(["query", "neurons=0.75", "heads@*.1.*"]) == "query, neurons, `heads@*.1.*`"
