"""Kills training processes with SIGKILL at random moments, resumes them, and compares with the run that nobody killed.

    python benchmarks/robustness/kills.py [--kills 100] [--seed 0] [--out benchmarks/results]

BERT (under two schedules, under one, cut smaller, and cut to a speed) and CNN, search and retraining, each target,
masks sampled by epoch and by steps; every other kill comes while a checkpoint is written. Where the last checkpoint was
not whole, it is refused and the one that the message names is resumed from. Weights, masks, history and report have to
be equal to the last bit. Writes kills.md and kills.json; ends with 1 where a run differs.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from killing import Killer, Scenario
from machine import machine

SCENARIOS = [
    Scenario(model, target, sampling)
    for model, target, sampling in itertools.product(
        ("bert", "continued", "compact", "faster", "cnn"), ("gradient", "update", "fade"), ("epoch", "steps")
    )
]
KILLS_OF_A_RUN = 4


def measure(kills: int, seed: int) -> dict[str, Any]:
    killer = Killer(seed)
    runs = []
    with tempfile.TemporaryDirectory() as parent:
        expected = {
            scenario: killer.uninterrupted(Path(parent, f"whole-{number}"), scenario)
            for number, scenario in enumerate(SCENARIOS)
        }
        for number, scenario in enumerate(itertools.cycle(SCENARIOS)):
            if killer.tally.kills >= kills:
                break
            before = killer.tally.kills
            result = expected[scenario]
            found = killer.killed(Path(parent, f"killed-{number}"), scenario, KILLS_OF_A_RUN)
            differing = sorted(name for name in result if found[name] != result[name])
            runs.append({"scenario": str(scenario), "kills": killer.tally.kills - before, "differing": differing})
            print(f"{killer.tally.kills:4d} kills  {scenario}  {differing or 'equal'}", flush=True)
    return {"runs": runs, "tally": asdict(killer.tally)}


def table(results: dict[str, Any]) -> str:
    tally, rows = results["tally"], []
    for scenario in map(str, SCENARIOS):
        runs = [run for run in results["runs"] if run["scenario"] == scenario]
        equal = sum(not run["differing"] for run in runs)
        rows.append(f"| {scenario} | {len(runs)} | {sum(run['kills'] for run in runs)} | {equal} |")
    total = sum(run["kills"] for run in results["runs"])
    return "\n".join(
        [
            "# Killed and resumed",
            "",
            f"`{results['command']}` in {results['minutes']:.0f} minutes. {total} kills by SIGKILL: "
            f"{tally['before_a_checkpoint']} before the first checkpoint, {tally['between_checkpoints']} with the last "
            f"checkpoint whole, {tally['while_saving']} while one was written. {tally['refused']} times a checkpoint "
            "that was not whole was refused, and the one named in the message resumed from.",
            "",
            "| run | runs | kills | equal to the uninterrupted run: weights, masks, history, report |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="at the least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    options = parser.parse_args()
    begun = time.perf_counter()
    results = {
        "command": f"python benchmarks/robustness/kills.py --kills {options.kills} --seed {options.seed}",
        "machine": machine(),
        **measure(options.kills, options.seed),
    }
    results["minutes"] = (time.perf_counter() - begun) / 60
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kills.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "kills.md").write_text(table(results))
    print(table(results))
    return 1 if any(run["differing"] for run in results["runs"]) else 0


if __name__ == "__main__":
    sys.exit(main())
