"""A run that is killed at any moment and resumed ends as the one that was not."""

from pathlib import Path

import pytest
from killing import Killer, Scenario

SCENARIOS = (
    Scenario("bert", "gradient", "epoch"),
    Scenario("cnn", "fade", "steps"),
    Scenario("compact", "gradient", "epoch"),
    Scenario("continued", "update", "steps"),
    Scenario("faster", "gradient", "epoch"),
)


@pytest.fixture(scope="module")
def killer() -> Killer:
    return Killer(seed=0)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_killed_and_resumed_equals_uninterrupted(killer: Killer, tmp_path: Path, scenario: Scenario) -> None:
    expected = killer.uninterrupted(tmp_path / "whole", scenario)
    assert killer.killed(tmp_path / "killed", scenario, 3) == expected
    # A share of the run ends the search of the one, whatever is sampled.
    model = "compact" if scenario.model == "faster" else scenario.model
    other = killer.uninterrupted(tmp_path / "other", Scenario(model, "gradient", "steps", save_steps=7))
    assert other["model.safetensors"] != expected["model.safetensors"], "it could have failed"
