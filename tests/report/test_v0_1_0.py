"""A finished run of 0.1.0 is shown as 0.1.0 showed it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from test_terminal import sections

from hf_worm.commands.show.reading import read_run
from hf_worm.report.card import card_section
from hf_worm.report.terminal import result_table, run_text

FOLDER = Path(__file__).parent.parent / "v0_1_0"  # `show.txt` is what `hf-worm show run` of 0.1.0 printed there
RUN = FOLDER / "run"


def settings(lines: list[str]) -> list[str]:
    return " ".join(lines).split(", ")


def test_its_text_is_that_of_0_1_0() -> None:
    shown = sections(run_text(read_run(str(RUN))))
    before = sections((FOLDER / "show.txt").read_text(encoding="utf-8"))
    ours, theirs = (settings(found.pop("Settings")) for found in (shown, before))
    assert ours[: len(theirs)] == theirs, "settings that came later follow"
    assert shown == before


def test_its_parts_belong_together() -> None:
    record = read_run(str(RUN))
    report = json.loads((RUN / "worm_report.json").read_text())
    assert (record.status, record.converged, record.notes, record.parts) == ("finished", True, [], {})
    assert record.metrics == report["metrics"] and record.account == report["account"]
    assert record.layers == report["layers"]
    assert all(mask.dtype == torch.bool for mask in record.masks.values()) and len(record.masks) == 4


def test_its_checkpoints_are_passed_over(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path, dirs_exist_ok=True)
    shutil.copytree(FOLDER / "unfinished", tmp_path, dirs_exist_ok=True)
    record = read_run(str(tmp_path))
    last = tmp_path / "checkpoint-32"
    note = f"{last} is a checkpoint of hf_worm 0.1, and passed over: of 0.1, reports, tickets and logs are read."
    assert record == replace(read_run(str(RUN)), path=str(tmp_path), masks=record.masks, notes=[note])


def test_its_report_makes_a_table_and_a_card() -> None:
    report = json.loads((RUN / "worm_report.json").read_text())
    assert result_table(report).splitlines()[:5] == sections((FOLDER / "show.txt").read_text())["Result"]
    card = card_section("someone/model", report)
    assert "Pruned while fine-tuning by WORM ([arXiv:2406.11872]" in card and "vasudev2024worm" in card
    assert "| 3 | 3.00 | 24 | 0.04883 | 0.03223 | yes: once on, stays on | yes: max < 0.5 |" in card
