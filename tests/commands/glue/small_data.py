"""A little data in files and folders."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset

from hf_worm.commands.glue.tasks import TASKS

GOOD = ("good", "fine", "great", "nice")
BAD = ("bad", "poor", "dull", "weak")
THINGS = ("film", "song", "meal", "room")

Rows = Sequence[Mapping[str, object]]


def judgements(count: int) -> list[dict[str, object]]:
    """Rows `sentence`, `label` (0 bad, 1 good), alternating; every row is another sentence for counts up to 32."""
    rows: list[dict[str, object]] = []
    for index in range(count):
        label = index % 2
        word = (BAD, GOOD)[label][index // 2 % 4]
        rows.append({"sentence": f"the {THINGS[index // 8 % 4]} was {word}", "label": label})
    return rows


def write_csv(path: Path, rows: Rows) -> Path:
    """Write rows with the columns of the first one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def glue_folder(parent: Path, task: str, rows: Rows) -> Path:
    """A folder laid out as GLUE is on the Hub, with one task: its classes, and `rows` in every split."""
    folder = parent / "glue"
    labels = TASKS[task].labels
    table = Dataset.from_list([dict(row) for row in rows])
    if labels:
        table = table.cast_column("label", ClassLabel(names=list(labels)))
    splits = ["train", *(split for _, split in TASKS[task].validation)]
    for split in splits:
        table.to_parquet(folder / task / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {task}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {task}/{split}-*\n" for split in splits)
        + "---\n"
    )
    return folder
