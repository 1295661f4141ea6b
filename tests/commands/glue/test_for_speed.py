"""`--speedup` and `--trade_off`: the settings that did best, a curve, and the ticket that is drawn from it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from hf_worm import WormConfig, load_compact
from hf_worm.commands.glue.command import GLUE, main
from hf_worm.commands.job.parsing import parse

Flags = Callable[..., list[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_speed_brings_the_settings_that_did_best(flags: Flags) -> None:
    worm = parse(GLUE, [*flags(), "--speedup", "1.5"]).worm
    assert worm is not None
    assert asdict(worm) == asdict(WormConfig.faster(1.5, **changed(flags, worm)))
    assert (worm.compact, worm.score, worm.search_share) == (True, "fisher", 0.25)


def changed(flags: Flags, worm: WormConfig) -> dict[str, object]:
    """The settings that the flags of all these tests name."""
    named = {word.removeprefix("--").split("=")[0] for word in flags() if word.startswith("--")}
    return {name: value for name, value in asdict(worm).items() if name in named}


def test_what_is_named_beside_a_speed_counts(flags: Flags) -> None:
    worm = parse(GLUE, [*flags(), "--speedup", "1.5", "--score", "taylor", "--compact", "false"]).worm
    assert worm is not None and (worm.score, worm.compact, worm.scope) == ("taylor", False, "global")


def test_a_curve_and_then_one_of_its_tickets(flags: Flags, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"speedup_by": "multiply_adds", "num_train_epochs": 4}
    assert main([*flags(**common), "--trade_off", "1.2", "1.4"]) == 0
    printed = capsys.readouterr().out
    assert "heads kept" in printed and "--resume_from_checkpoint last" in printed
    points = json.loads((out / "worm_trade_off.json").read_text())
    assert [point["speedup"] for point in points] == [1.0, 1.2, 1.4]
    assert not (out / "worm_report.json").exists() and not (out / "ticket.safetensors").exists()
    (checkpoint,) = out.glob("checkpoint-*")
    assert main([*flags(**common), "--speedup", "1.4", "--resume_from_checkpoint", "last"]) == 0
    printed = capsys.readouterr().out
    assert "Asked for 1.4×" in printed and "fewer multiply-adds" in printed
    report = json.loads((out / "worm_report.json").read_text())
    assert report["search"]["steps"] == int(checkpoint.name.removeprefix("checkpoint-"))
    assert report["metrics"]["drawn"]["loss"] == pytest.approx(points[2]["metrics"]["loss"])
    assert report["speedup"]["multiply_adds"] >= 1.4
    model = load_compact(out)
    assert sum(one.numel() for one in model.parameters()) == report["account"]["compact_weights"]
    assert type(model).__name__ == AutoModelForSequenceClassification.from_config(model.config).__class__.__name__


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--speedup", "0.5"], "`speedup` must be a number above 1"),
        (["--speedup", "1000"], "times fewer"),
        (["--speedup", "2", "--scope", "2:4"], "2:4"),
        (["--speedup", "2", "--layers", "query"], "whole neurons and heads"),
        (["--speedup", "2", "--distillation", "2"], "`distillation` must be in [0, 1]"),
        (["--trade_off", "2", "--dense", "true"], "`trade_off` shows tickets of a search"),
        (["--trade_off", "1.2", "1000"], "times fewer"),
        (["--trade_off", "0.5", "1.2"], "`trade_off` takes speeds above 1"),
        (["--speedup", "1.2", "--trade_off", "inf"], "`speedup` must be a number above 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    more: list[str], message: str, flags: Flags, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*flags(), *more])
    assert status == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "hf-worm glue" in line]
    assert message in line
