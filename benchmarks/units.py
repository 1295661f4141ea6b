"""The page on neurons and heads, from the finished runs of `reproduce.py --units`."""

from itertools import product
from pathlib import Path
from typing import Any

from protocol import FADING, METHODS, SCALES, UNIT_METHODS, UNIT_TASKS, UNITS, Scale
from summary import RETRAINED, STEPS, Records, after_an_epoch, begin, cells, group, of_part, stages, table

TITLES = {**METHODS, **FADING}


def tables(scale: Scale, records: Records) -> list[str]:
    """By task and kind of unit, a row for each method."""
    found = of_part("units", scale, records)
    head = ["method", "seeds", "before the draw, %", "drawn, %", "drop, points", "after an epoch, %"]
    lines: list[str] = []
    for task, (layers, ratio) in product(UNIT_TASKS, UNITS):
        rows = []
        for method in UNIT_METHODS:
            runs: list[dict[str, Any]] = group(found, task=task, layers=layers, prune_ratio=ratio, method=method)
            if runs:
                rows.append([TITLES[method], *cells(runs, *stages(method)[:3], after_an_epoch, RETRAINED, STEPS)])
        if rows:
            lines += [f"## {task}: {' and '.join(layers)}, p = {ratio:.2g}", ""]
            lines += table([*head, "after three epochs, %", "steps in all"], rows)
    return lines


def write(scale_name: str, records: Records, out: Path) -> Path | None:
    """Write the page, if there are runs for it."""
    scale = SCALES[scale_name]
    if not of_part("units", scale, records):
        return None
    lines = begin("Neurons and heads", " --units", scale_name, records, ("units",))
    lines += ["Three epochs of search at the most, and three of retraining after it.", "", *tables(scale, records)]
    page = out / f"units-{scale_name}.md"
    page.write_text("\n".join(lines))
    return page
