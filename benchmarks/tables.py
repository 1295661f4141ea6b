"""Gathers the reports of runs into tables: accuracy by method, and the mask distances of every epoch.

    python benchmarks/tables.py RUNS NAME --title TITLE --command COMMAND [--note NOTE] [--out benchmarks/results]

RUNS holds TASK/METHOD-SEED/worm_report.json, as `glue_scripts/` and `benchmarks/cnn.sh` leave them, or is a NAME.json
that this wrote. Writes NAME.json and NAME.md: mean and range over seeds.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STAGES = ("before_draw", "drawn", "retrained")
KEPT = ("seed", "metrics", "search", "draw", "retrain", "account", "config")
METHODS = {
    "eb_train": "EB Train",
    "worm": "WORM",
    "eb_train_global": "EB Train, one threshold over all layers",
    "worm_global": "WORM, one threshold over all layers",
}
Runs = dict[tuple[str, str], list[dict[str, Any]]]


def gather(runs: Path) -> Runs:
    """Finished reports by task and method, each with its seed."""
    found: Runs = {}
    if runs.is_file():
        for name, reports in json.loads(runs.read_text())["runs"].items():
            found[tuple(name.split("/"))] = reports
        return found
    for path in sorted(runs.glob("*/*-*/worm_report.json")):
        method, _, seed = path.parent.name.rpartition("-")
        report = json.loads(path.read_text())
        if "retrained" not in report["metrics"]:
            continue  # still running
        for phase in ("search", "draw", "retrain"):
            del report[phase]["seconds"]  # runs side by side, or paused, say nothing of what a method costs
        del report["account"]["note"]
        kept = {name: value for name, value in {**report, "seed": int(seed)}.items() if name in KEPT}
        found.setdefault((path.parent.parent.name, method), []).append(kept)
    return found


def title_of(method: str) -> str:
    if method.startswith("start_"):
        return f"truncated from the first step, r = {method.removeprefix('start_')}"
    return METHODS[method]


def mean_and_range(values: Sequence[float], digits: int = 1) -> str:
    """`72.5 (71.1 to 74.0)`; `72.5` where all are the same."""
    mean, low, high = (f"{value:.{digits}f}" for value in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def accuracies(found: Runs) -> list[list[str]]:
    head = [
        "task",
        "method",
        "seeds",
        "before the draw, %",
        "pruned, %",
        "drop, points",
        "retrained, %",
        "epochs of search",
        "converged",
        "pruned of what is watched",
        "of the model",
    ]
    rows = []
    for (task, method), reports in found.items():
        percent = {stage: [100 * report["metrics"][stage]["accuracy"] for report in reports] for stage in STAGES}
        drops = [dense - drawn for dense, drawn in zip(percent["before_draw"], percent["drawn"], strict=True)]
        account = reports[0]["account"]
        rows.append(
            [
                task,
                title_of(method),
                str(len(reports)),
                mean_and_range(percent["before_draw"]),
                mean_and_range(percent["drawn"]),
                mean_and_range(drops),
                mean_and_range(percent["retrained"]),
                mean_and_range([report["search"]["epochs"] for report in reports]),
                f"{sum(report['search']['converged'] for report in reports)} of {len(reports)}",
                f"{account['share_of_representative']:.1%}",
                f"{account['share_of_model']:.2%}",
            ]
        )
    return [head, *rows]


def trajectories(found: Runs, which: str) -> list[list[str]]:
    """The largest or the mean distance at each observation, over the seeds that have come so far."""
    longest = max(len(report["search"]["observations"]) for reports in found.values() for report in reports)
    rows = [["task", "method", *(str(place) for place in range(2, longest + 1))]]
    for (task, method), reports in found.items():
        cells = []
        for place in range(1, longest):
            seen = [report["search"]["observations"] for report in reports]
            values = [observations[place][f"{which}_distance"] for observations in seen if len(observations) > place]
            cells.append(f"{statistics.mean(values):.4f}{'' if len(values) == len(seen) else '*'}" if values else "")
        rows.append([task, title_of(method), *cells])
    return rows


def settings(found: Runs) -> str:
    config = next(iter(found.values()))[0]["config"]
    names = {
        "prune_ratio": "p",
        "stopping_point": "s",
        "margin": "δ",
        "window": "l",
        "retrain_epochs": "epochs retrained",
    }
    values = ", ".join(f"{symbol} {config[name]:g}" for name, symbol in names.items())
    return f"{', '.join(config['layers'])}; {values}; r 0.003 for WORM and 1 for EB Train"


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def page(found: Runs, title: str, command: str, note: str) -> str:
    return "\n".join(
        [
            f"# {title}",
            "",
            f"`{command}`",
            "",
            f"Settings: {settings(found)}. Accuracy on the data that the runs evaluate on, in %: mean (least to "
            f"greatest) over the seeds. Seconds are left out: the runs shared a machine.{f' {note}' if note else ''}",
            "",
            *markdown(accuracies(found)),
            "",
            "## Mask distances",
            "",
            "Of the newest mask to each older one in the window, at each observation from the second on: the largest, "
            "which ends the search below s once the window is full, and the mean, which begins the truncation below "
            "s + δ. Means over seeds; * over those that were still searching.",
            "",
            "Largest:",
            "",
            *markdown(trajectories(found, "max")),
            "",
            "Mean:",
            "",
            *markdown(trajectories(found, "mean")),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("name")
    parser.add_argument("--title", required=True, help="the heading")
    parser.add_argument("--command", required=True, help="what produced the runs")
    parser.add_argument("--note", default="", help="what else a reader has to know")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    found = gather(options.runs)
    if not found:
        raise SystemExit(f"no finished runs in {options.runs}: expected TASK/METHOD-SEED/worm_report.json")
    text = page(found, options.title, options.command, options.note)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text(text)
    record = {"title": options.title, "command": options.command, "note": options.note}
    record["runs"] = {f"{task}/{method}": reports for (task, method), reports in found.items()}
    (options.out / f"{options.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
