"""The method of a run in words, of reports of this version and of 0.1.0."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from hf_worm import WormConfig
from hf_worm.report.method import Method
from hf_worm.report.papers import EB_TRAIN, GRADUAL, WORM, paper_of

PARTS = {"score": "magnitude", "select": "layer", "schedule": "early_bird", "treatment": "gradient"}
NEW = {"score": "magnitude", "score_decay": None, "schedule": "early_bird", "ramp_epochs": 1.0}
NUMBERS = "r 0.003, s 0.01, δ 0.005, l 3"

CUBIC_BY_TAYLOR = "Gradual pruning (Taylor score, p 0.5, cubic, in 2.5 epochs)"


def method(parts: dict[str, str] | None = None, **settings: Any) -> Method:
    return Method({**asdict(WormConfig()), **settings}, parts or {})


def test_defaults_are_not_named() -> None:
    """Neither in reports of 0.1.0, which know no parts, nor in those that name the paper's."""
    line = f"WORM (p 0.5, {NUMBERS})"
    assert method().line == method(**NEW).line == method(PARTS, **NEW).line == line


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"truncation": 1.0}, "EB Train (p 0.5, r 1, s 0.01, δ 0.005, l 3)"),
        ({"score": "fisher"}, f"WORM (Fisher score, p 0.5, {NUMBERS})"),
        ({"score": "taylor", "layers": ["heads=0.25"]}, f"WORM (Taylor score, heads 0.25, {NUMBERS})"),
        ({"scope": "2:4"}, f"WORM (2:4, {NUMBERS})"),
        ({"truncation_target": "fade"}, f"WORM with fading (p 0.5, {NUMBERS}, faded in 1 epoch)"),
        ({"score": "fisher", "score_decay": 0.9}, f"WORM (Fisher score, decay 0.9, p 0.5, {NUMBERS})"),
        ({"speedup": 2.0}, f"WORM (2× fewer multiply-adds in each layer, {NUMBERS})"),
        ({"speedup": 1.5, "scope": "global"}, f"WORM (1.5× fewer multiply-adds over all layers, {NUMBERS})"),
        ({"search_share": 0.25}, f"WORM, drawn after 25% of the run (p 0.5, {NUMBERS})"),
        (
            {"search_share": 0.25, "speedup": 2.0, "scope": "global", "score": "fisher", "truncation": 1.0},
            "EB Train, drawn after 25% of the run (Fisher score, 2× fewer multiply-adds over all layers)",
        ),
        ({"schedule": "cubic"}, "Gradual pruning (p 0.5, cubic, in 1 epoch)"),
        ({"schedule": "cubic", "ramp_epochs": 2.5, "score": "taylor"}, CUBIC_BY_TAYLOR),
    ],
)
def test_settings_that_are_not_the_defaults_are_named(settings: dict[str, Any], line: str) -> None:
    assert method(**settings).line == method(**{**NEW, **settings}).line == line


@pytest.mark.parametrize(
    ("part", "name", "line"),
    [
        ("score", "random", f"WORM (random score, p 0.5, {NUMBERS})"),
        ("select", "alternate", f"WORM (p 0.5, alternate selection, {NUMBERS})"),
        ("schedule", "sudden", "The schedule sudden (p 0.5, r 0.003)"),
        ("treatment", "nothing", f"EB Train (p 0.5, {NUMBERS})"),
        ("treatment", "noise", f"EB Train with the treatment noise (p 0.5, {NUMBERS})"),
    ],
)
def test_a_part_of_the_users_own_is_named(part: str, name: str, line: str) -> None:
    """Whatever the settings say, which know the package's own parts only."""
    assert method({**PARTS, part: name}).line == line


def test_masks_that_no_search_found_are_not_said_to_be_worms() -> None:
    given = replace(method(), searched=False)
    assert given.line == "Masks that were given"
    assert not given.truncates and not given.early_bird and given.additions() == []
    assert paper_of(given) is None


def test_the_paper_is_that_of_the_method() -> None:
    assert paper_of(method()) is paper_of(method(truncation_target="fade", truncation=1.0)) is WORM
    assert paper_of(method(truncation=1.0)) is EB_TRAIN
    assert paper_of(method(schedule="cubic")) is GRADUAL
    assert paper_of(method({**PARTS, "treatment": "noise"})) is EB_TRAIN
    assert paper_of(method({**PARTS, "schedule": "sudden"})) is None
    assert not method(schedule="cubic").truncates, "the ratio rises, and nothing is truncated"


def test_what_the_paper_does_not_have_is_told() -> None:
    assert method().additions() == []
    assert "magnitude" in method(score="fisher").additions()[0]
    assert "Of each 4 neighbouring weights in a row 2 are kept." in method(scope="2:4").additions()
    assert "Fading" in method(truncation_target="fade").additions()[0]
