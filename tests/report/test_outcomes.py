"""Sentences about a run that the schedule decides on."""

import pytest
from small_report import small_report

from hf_worm.report.reading import record_of
from hf_worm.report.sentences import method_line

PARTS = {"score": "magnitude", "select": "layer", "treatment": "gradient"}


@pytest.mark.parametrize(
    ("schedule", "settled", "outcome"),
    [
        ("early_bird", True, "3 observations, converged"),
        ("early_bird", False, "3 observations, not converged, the newest mask was drawn"),
        ("cubic", True, "3 observations, the full ratio was reached"),
        ("cubic", False, "3 observations, the full ratio was not reached, the newest mask was drawn"),
        ("sudden", True, "3 observations, settled"),
    ],
)
def test_the_outcome_is_that_of_the_schedule(schedule: str, settled: bool, outcome: str) -> None:
    report = {**small_report(), "parts": {**PARTS, "schedule": schedule}}
    report["search"]["converged"] = settled
    assert method_line(record_of(report)).endswith(f"): {outcome}")
