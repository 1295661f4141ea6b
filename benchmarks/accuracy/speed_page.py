"""The page on models of a given speed, from the finished runs of `speedups.py`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from speedups import ASKED, METHODS, TASKS
from summary import interval, machine_line, spread, table

Records = Sequence[Mapping[str, Any]]
DENSE = "dense"
CONTROLS = (DENSE, "magnitude", "random")
INTRODUCTION = " ".join(
    (
        "What tickets of one search are, once they are cut out and trained on, at the same number of epochs as a",
        "dense model. all-MiniLM-L6. SST-2: 8,192 rows, evaluated on the 872 and on 10,000 others of the training",
        "set; MRPC and Banking77: all rows; CoLA: all but 2,000 rows, which are evaluated on with the 1,043",
        "(Matthews correlation, times 100). AdamW, a learning rate of 1e-4, 32 rows a step, bfloat16. The search",
        "takes one epoch of four (SST-2), two of six (MRPC) and two of eight (CoLA, Banking77). *Drawn*: before it",
        "is trained on. `2x` and `3x` are 2.25 and 3.5 times fewer multiply-adds by the weights of projections.",
    )
)
NOTE = "Paired by seed: mean difference in points, and its 95 % confidence interval by Student's t, over seeds alone."


def page(records: Records, command: str) -> str:
    """The page.

    Args:
        records (`Sequence[dict]`): The lines of the runs.
        command (`str`): What made them.
    """
    machines = sorted({machine_line(record["machine"]) for record in records})
    head = [f"`{command}` on {'; '.join(machines)}."]
    if unfused := sorted({f"{record['task']}, {record['method']}" for record in records if not record["fused"]}):
        head += ["", f"With an AdamW that is not fused, as the others are: {'; '.join(unfused)}."]
    lines = ["# Models of a given speed", "", *head, "", INTRODUCTION, "", *_in_short(records)]
    for task, asked in product(TASKS, ASKED):
        rows = _rows(records, task, asked)
        if len(rows) > 1:
            head = ["method", "seeds", "drawn", "in the end", "less dense", "multiply-adds"]
            lines += [f"## {task}: {asked}", "", *table(head, rows)]
    return "\n".join(lines)


def _in_short(records: Records) -> list[str]:
    rows = []
    for task, asked in product(TASKS, ASKED):
        mine = _by_seed(records, task, "fisher", asked)
        if mine:
            others = [_by_seed(records, task, other, DENSE if other == DENSE else asked) for other in CONTROLS]
            differences = [_less(mine, other) for other in others]
            rows.append([task, asked, str(len(mine)), *map(interval, differences)])
    head = ["task", "asked", "seeds", *(f"Fisher less {other}" for other in CONTROLS)]
    return ["## In short", "", NOTE, "", *table(head, rows)] if rows else []


def _rows(records: Records, task: str, asked: str) -> list[list[str]]:
    dense = _by_seed(records, task, DENSE, DENSE)
    rows = [["dense", str(len(dense)), "", _cell(dense, _end), "", ""]] if dense else []
    for name, method in METHODS.items():
        found = _by_seed(records, task, name, asked)
        if found:
            fewer = statistics.mean(record["fewer_multiply_adds"] for record in found.values())
            cells = [_cell(found, _drawn), _cell(found, _end), interval(_less(found, dense)), f"{fewer:.2f}× fewer"]
            rows.append([method.title, str(len(found)), *cells])
    return rows


def _by_seed(records: Records, task: str, method: str, asked: str) -> dict[int, Mapping[str, Any]]:
    wanted = {"task": task, "method": method, "asked": asked}
    return {
        record["seed"]: record for record in records if all(record[name] == value for name, value in wanted.items())
    }


def _less(mine: Mapping[int, Mapping[str, Any]], theirs: Mapping[int, Mapping[str, Any]]) -> list[float]:
    return [_end(record) - _end(theirs[seed]) for seed, record in mine.items() if seed in theirs]


def _cell(found: Mapping[int, Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float], digits: int = 1) -> str:
    return spread([of(record) for record in found.values()], digits)


def _end(record: Mapping[str, Any]) -> float:
    return float(record["end"]["all"])


def _drawn(record: Mapping[str, Any]) -> float:
    return float(record["drawn"]["all"])


def write(records: Records, path: Path, command: str) -> None:
    """Write the page."""
    path.write_text(page(records, command), encoding="utf-8")
