"""The page on models of a given speed says of each method how it ended, less its controls, paired by seed."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks" / "accuracy"))

import speed_page


def record(method: str, seed: int, end: float, asked: str = "2x", task: str = "sst2") -> dict[str, Any]:
    found: dict[str, Any] = {"task": task, "seed": seed, "method": method, "asked": asked, "end": {"all": end}}
    found |= {"machine": {"cpu": "a CPU", "threads": 1, "torch": "2.13.0"}, "fused": method != "random"}
    return found if method == "dense" else {**found, "drawn": {"all": end - 10}, "fewer_multiply_adds": 2.25}


RECORDS = [
    *(record("dense", seed, 90.0 + seed, asked="dense") for seed in (1, 2, 3)),
    *(record("fisher", seed, 89.0 + seed) for seed in (1, 2, 3)),
    *(record("random", seed, 87.0 + seed) for seed in (1, 2)),
    record("fisher", 1, 70.0, task="mrpc"),
]


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]


def test_differences_are_paired_by_seed() -> None:
    found = rows(speed_page.page(RECORDS, "command"))
    assert ["sst2", "2x", "3", "-1.0 (-1.2 to -0.8)", "–", "+2.0 (+1.1 to +2.9)"] in found
    assert ["mrpc", "2x", "1", "–", "–", "–"] in found


def test_each_method_has_a_row_beside_the_dense_one() -> None:
    found = rows(speed_page.page(RECORDS, "command"))
    assert ["dense", "3", "", "92.0 ± 1.0", "", ""] in found
    assert ["Fisher, over all layers", "3", "81.0 ± 1.0", "91.0 ± 1.0", "-1.0 (-1.2 to -0.8)", "2.25× fewer"] in found
    random = next(row for row in found if row[0].startswith("random units"))
    assert random[1:4] == ["2", "78.5 ± 0.7", "88.5 ± 0.7"]


def test_machine_and_optimizer_are_named() -> None:
    page = speed_page.page(RECORDS, "command")
    assert "a CPU" in page and "2.13.0" in page
    assert "not fused, as the others are: sst2, random." in page


def test_a_task_without_a_dense_run_has_no_table() -> None:
    assert "## mrpc" not in speed_page.page(RECORDS, "command")
