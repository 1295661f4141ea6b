"""Gathers the reports of runs of `glue_scripts/` into one table: EB Train and WORM, mean and range over seeds.

    python benchmarks/glue_table.py RUNS --model NAME --command COMMAND [--out benchmarks/results] [--name glue]

RUNS holds TASK/METHOD-SEED/worm_report.json, as the scripts leave them. Writes NAME.json and NAME.md.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

PRIMARY = {"mrpc": "accuracy", "rte": "accuracy", "sst2": "accuracy"}
STAGES = ("before_draw", "drawn", "retrained")
METHODS = {"eb_train": "EB Train", "worm": "WORM"}


def gather(runs: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Reports by task and method, each with its seed."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(runs.glob("*/*-*/worm_report.json")):
        method, _, seed = path.parent.name.rpartition("-")
        report = json.loads(path.read_text())
        if "retrained" not in report["metrics"]:
            continue  # still running
        for phase in ("search", "draw", "retrain"):
            del report[phase]["seconds"]  # runs side by side, or paused, say nothing of what a method costs
        found[path.parent.parent.name, method].append({**report, "seed": int(seed)})
    return found


def mean_and_range(values: list[float]) -> str:
    """`72.5 (71.1 to 74.0)`, in per cent; `72.5` of a single value."""
    percent = [100 * value for value in values]
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{statistics.mean(percent):.1f} ({min(percent):.1f} to {max(percent):.1f})"


def rows(found: dict[tuple[str, str], list[dict[str, Any]]]) -> list[list[str]]:
    table = []
    for (task, method), reports in found.items():
        metric = PRIMARY[task]
        accuracies = [mean_and_range([report["metrics"][stage][metric] for report in reports]) for stage in STAGES]
        drops = [report["metrics"]["before_draw"][metric] - report["metrics"]["drawn"][metric] for report in reports]
        largest = [max(seen["max_distance"] or 0 for seen in report["search"]["observations"]) for report in reports]
        table.append(
            [
                task.upper(),
                METHODS[method],
                ", ".join(str(report["seed"]) for report in reports),
                *accuracies,
                mean_and_range(drops),
                ", ".join(sorted({f"{report['search']['epochs']:g}" for report in reports})),
                f"{max(largest):.4f}",
                f"{reports[0]['account']['share_of_representative']:.1%}",
                f"{reports[0]['account']['share_of_model']:.1%}",
            ]
        )
    return table


HEAD = (
    "task",
    "method",
    "seeds",
    "before the draw, %",
    "pruned, %",
    "retrained 1 epoch, %",
    "drop at the draw, points",
    "search epochs",
    "largest distance",
    "of query and key",
    "of the model",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--model", required=True, help="what was fine-tuned, for the heading")
    parser.add_argument("--command", required=True, help="what produced the runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="glue")
    options = parser.parse_args()
    found = gather(options.runs)
    if not found:
        raise SystemExit(f"no finished runs in {options.runs}: expected TASK/METHOD-SEED/worm_report.json")
    lines = [HEAD, ["---"] * len(HEAD), *rows(found)]
    text = [
        f"# EB Train and WORM on GLUE: {options.model}",
        "",
        f"`{options.command}`. Accuracy on the validation set: mean (least to greatest) over the seeds. The settings "
        "are the paper's (p 0.5, s 0.01, δ 0.005, l 3, query and key; r 0.003, and 1 for EB Train).",
        "",
        "Accuracy only: seconds are left out, since the runs shared a machine.",
        "",
        *("| " + " | ".join(line) + " |" for line in lines),
        "",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text("\n".join(text))
    kept = ("seed", "metrics", "search", "draw", "retrain", "account", "config")
    data = {f"{task}/{method}": [{key: r[key] for key in kept} for r in rs] for (task, method), rs in found.items()}
    record = {"model": options.model, "command": options.command, "runs": data}
    (options.out / f"{options.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
