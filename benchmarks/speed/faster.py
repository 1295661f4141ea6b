"""What a run for a speed costs and gains, against dense fine-tuning with as many steps, in one run.

    python benchmarks/speed/faster.py [--model FOLDER] [--speedup 2] [--length 32] [--steps 40] [--threads 2]

Trains on random tokens: what is measured is time. Each row is a ratio of wall-clock seconds, median and quartiles over
the rounds, in each of which all take their turn: whole runs, and single steps.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))
from machine import machine, packaged_model

from hf_worm import TicketSearch, WormConfig, WormTrainer
from hf_worm.report.speed import LARGE_BATCH, forward, race
from hf_worm.trainer.distillation import Teacher

RESULTS = Path(__file__).parent.parent / "results"
Ratios = list[float]


class Clock(TrainerCallback):
    """The seconds of each step of a training."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(time.perf_counter() - self._begun)


def rows_of(length: int, steps: int) -> list[dict[str, Any]]:
    """Rows of random tokens for so many steps."""
    ids = torch.randint(1000, 30_000, (steps * LARGE_BATCH, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]


def whole_runs(model: nn.Module, speedup: float, rows: list[dict[str, Any]], rounds: int) -> dict[str, Ratios]:
    """Seconds of runs for a speed ÷ those of dense runs with as many steps."""
    found: dict[str, Ratios] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            usual: dict[str, Any] = {"train_dataset": rows, "callbacks": [clock]}
            args = TrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=LARGE_BATCH,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
                logging_strategy="no",
            )
            Trainer(model=copy.deepcopy(model), args=args, **usual).train()
            dense, clock.steps = clock.steps, []
            trainer = WormTrainer(
                model=copy.deepcopy(model), args=args, worm_config=WormConfig.faster(speedup), **usual
            )
            trainer.train()
        searched = trainer.progress.steps["search"]
        search, retraining = clock.steps[1:searched], clock.steps[searched + 1 :]
        step = statistics.median(dense[1:])
        ratios = {
            "all steps of a run for the speed ÷ all of a dense run": sum(clock.steps) / sum(dense),
            "the same, with the draw and its measurements": (sum(clock.steps) + trainer.progress.seconds["draw"])
            / sum(dense),
            "a step of the search, which gathers Fisher scores ÷ a dense step": statistics.median(search) / step,
            "a step of the smaller model ÷ a dense step": statistics.median(retraining) / step,
        }
        speed = trainer.progress.speed
        ratios |= {
            f"speed that a run for {speedup:g}× measured: dense forward pass ÷ that of its model": speed["measured"],
            "multiply-adds of the dense model ÷ those of that model": speed["multiply_adds"],
        }
        for name, ratio in ratios.items():
            found.setdefault(name, []).append(ratio)
    return found


def parts(model: nn.Module, speedup: float, rows: list[dict[str, Any]], rounds: int) -> dict[str, Ratios]:
    """Seconds of a distilled step, of the curve, and of a forward pass, each by what it is added to or replaces."""
    batch = {
        "input_ids": torch.stack([row["input_ids"] for row in rows[:LARGE_BATCH]]),
        "labels": torch.tensor([row["labels"] for row in rows[:LARGE_BATCH]]),
    }
    search = TicketSearch(model, WormConfig.faster(speedup))
    model(**batch).loss.backward()
    search.truncate_gradients()
    model.zero_grad()
    (ticket,) = search.tickets(speedups=[speedup])
    drawn = copy.deepcopy(model)
    ticket.apply_(drawn)
    smaller, teacher = ticket.compact(drawn), Teacher(copy.deepcopy(model), 0.5, 2.0)
    for one in (model, smaller):
        one.train()

    def step(one: nn.Module, distilled: bool = False) -> None:
        outputs = one(**batch)
        loss = teacher.mixed(outputs.loss, outputs, batch) if distilled else outputs.loss
        loss.backward()
        one.zero_grad()

    actions: dict[str, Callable[[], object]] = {
        "dense step": lambda: step(model),
        "step": lambda: step(smaller),
        "distilled step": lambda: step(smaller, distilled=True),
        "masks": lambda: search.tickets(speedups=[speedup]),
    }
    times: dict[str, Ratios] = {name: [] for name in actions}
    for _ in range(rounds + 1):
        for name, action in actions.items():
            begun = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - begun)
    times = {name: values[1:] for name, values in times.items()}
    inputs = {"input_ids": batch["input_ids"]}
    passes = race({"dense": copy.deepcopy(model), "compact": copy.deepcopy(smaller)}, inputs, forward, rounds)

    def ratio(above: str, below: str) -> Ratios:
        return [one / other for one, other in zip(times[above], times[below], strict=True)]

    return {
        "a distilled step of the smaller model ÷ its plain step": ratio("distilled step", "step"),
        "a distilled step of the smaller model ÷ a dense step": ratio("distilled step", "dense step"),
        "masks of one more speed, as each point of the curve takes ÷ a dense step": ratio("masks", "dense step"),
        "dense forward pass ÷ that of a model of so many times fewer multiply-adds": [
            one / other for one, other in zip(passes["dense"], passes["compact"], strict=True)
        ],
    }


def page(found: Mapping[str, Ratios], given: argparse.Namespace, name: str) -> str:
    """The page of the results."""
    lines = [
        "# What a run for a speed costs",
        "",
        f"`python benchmarks/speed/faster.py --speedup {given.speedup:g} --length {given.length} --steps {given.steps} "
        f"--threads {given.threads}` on {machine()['cpu']}, torch {torch.__version__}, fp32. {name}, "
        f"{LARGE_BATCH} × {given.length} random tokens. Median of each ratio, and its quartiles over the rounds. The "
        f"draw takes as long in a short run as in a long one: its share is that of a run of {given.steps} steps.",
        "",
        "| | ratio | rounds |",
        "| --- | --- | --- |",
    ]
    for what, values in found.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        lines.append(f"| {what} | {median:.3f} ({low:.3f} to {high:.3f}) | {len(values)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="")
    parser.add_argument("--speedup", type=float, default=2.0)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = given.model or packaged_model()
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    rows = rows_of(given.length, given.steps)
    found = whole_runs(model, given.speedup, rows, given.rounds)
    found |= parts(model, given.speedup, rows, 5 * given.rounds)
    blocks, width = model.config.num_hidden_layers, model.config.hidden_size
    text = page(found, given, f"A BERT of {blocks} blocks, {width} wide")
    (given.out / "faster.md").write_text(text, encoding="utf-8")
    record = {"machine": machine(), "settings": {**vars(given), "out": None, "model": None}, "ratios": found}
    (given.out / "faster.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
