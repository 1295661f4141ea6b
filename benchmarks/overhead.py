"""What pruning while training costs: ratios of medians within one run, on a model of BERT-base's size.

    python benchmarks/overhead.py [--out benchmarks/results]

Writes `overhead.json` and `overhead.md`. Random weights do: no figure here depends on what the model has learned.
"""

import argparse
import copy
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from machine import machine
from torch import nn
from torch.nn.utils import prune
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from hf_worm import TicketSearch, WormConfig, WormTrainer

LIMITS = {"step": 1.01, "prune_over_sampling": 10.0, "sampling_over_read": 4.0, "bits_per_weight": 1.0}


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def interleaved(actions: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each action, by turns in an order drawn anew each time.

    Whatever slows the machine slows all of them, and none always finds in the caches what another has left there.
    """
    rng = random.Random(0)
    for action in actions.values():
        action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions):
        for name in rng.sample(list(actions), len(actions)):
            times[name].append(seconds(actions[name]))
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Ratio of medians, and the quartiles of the ratios of neighbouring repetitions."""
    pairs = [a / b for a, b in zip(times[above], times[below], strict=True)]
    low, _, high = statistics.quantiles(pairs, n=4)
    return {
        "ratio": statistics.median(times[above]) / statistics.median(times[below]),
        "paired_median": statistics.median(pairs),
        "paired_quartiles": [low, high],
    }


def query_and_key(model: nn.Module) -> list[nn.Parameter]:
    return [layer.parameter for layer in TicketSearch(model, WormConfig()).layers]


def prune_on_copies(weights: list[nn.Parameter]) -> None:
    """The straightforward sampling: `prune.l1_unstructured` on a copy of each matrix."""
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight.detach().clone())
        prune.l1_unstructured(layer, "weight", 0.5)


def read_once(weights: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for weight in weights:
            weight.abs().sum()


def sampling(model: nn.Module, repetitions: int) -> dict[str, Any]:
    weights = query_and_key(model)
    search = TicketSearch(model, WormConfig(stopping_point=0.0, margin=0.0))
    for _ in range(search.config.window):
        search.observe()
    times = interleaved(
        {
            "sampling": search.observe,
            "prune": lambda: prune_on_copies(weights),
            "read": lambda: read_once(weights),
        },
        repetitions,
    )
    truncating = TicketSearch(model, WormConfig(stopping_point=0.0, margin=1.0))
    for _ in range(2):
        truncating.observe()
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    scales = interleaved({"first": lambda: (truncating.observe(), truncating.truncate_gradients())}, repetitions)
    window = search.state_dict()["window"]
    packed = sum(mask.numel() * mask.element_size() for masks in window for mask in masks.values())
    return {
        "weights": sum(weight.numel() for weight in weights),
        "medians": {name: statistics.median(of) for name, of in {**times, **scales}.items()},
        "prune_over_sampling": ratio(times, "prune", "sampling"),
        "sampling_over_read": ratio(times, "sampling", "read"),
        "bits_per_weight": 8 * packed / len(window) / sum(weight.numel() for weight in weights),
    }


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step, from its first forward pass to the update's end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


class AtTheTrigger(TrainerCallback):
    """Takes two masks when a search begins: the trigger point is behind it, and no sampling falls into a timed step.

    Times the truncation of each step by itself as well: its share of the step is known better than the ratio of steps.
    """

    trainer: WormTrainer

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        search = self.trainer.search
        assert search is not None
        for _ in range(2):
            search.observe()
        assert search.truncating
        truncate = search.truncate_gradients
        search.truncate_gradients = lambda: self.seconds.append(seconds(truncate))  # type: ignore[method-assign]


def steps(model: BertForSequenceClassification, blocks: int, batch: int, length: int) -> dict[str, Any]:
    """Steps of a truncating `WormTrainer` and of the plain `Trainer`, in blocks of four by turns on equal models."""
    ids = torch.randint(0, model.config.vocab_size, (4 * batch, length))
    rows = [{"input_ids": row, "labels": i % 2} for i, row in enumerate(ids)]
    never = WormConfig(stopping_point=0.0, margin=1.0, sample_strategy="steps", sample_steps=10**6)
    times: dict[str, list[float]] = {"plain": [], "truncating": []}
    truncations: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=4,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        clocks = {name: StepTimes() for name in times}
        plain = Trainer(model=copy.deepcopy(model), args=args, train_dataset=rows, callbacks=[clocks["plain"]])
        worm = WormTrainer(
            model=copy.deepcopy(model),
            args=args,
            train_dataset=rows,
            worm_config=never,
            callbacks=[clocks["truncating"]],
        )
        begin = AtTheTrigger()
        begin.trainer = worm
        worm.add_callback(begin)
        for block in range(blocks + 1):
            in_turn = {"plain": plain.train, "truncating": worm.search_ticket}
            for name in in_turn if block % 2 else reversed(in_turn):
                clocks[name].seconds.clear()
                begin.seconds.clear()
                in_turn[name]()
                if block:  # the first block warms up, as does the first step of each, which makes the optimizer's state
                    times[name] += clocks[name].seconds[1:]
                    truncations += begin.seconds[1:]
    return {
        "batch": batch,
        "length": length,
        "medians": {name: statistics.median(of) for name, of in {**times, "truncation": truncations}.items()},
        "step": ratio(times, "truncating", "plain"),
        "share": statistics.median(truncations) / statistics.median(times["plain"]),
    }


def table(results: dict[str, Any]) -> str:
    sampled, step = results["sampling"], results["steps"]

    def row(what: str, found: dict[str, float], limit: str) -> str:
        low, high = found["paired_quartiles"]
        return f"| {what} | {found['ratio']:.3f} | {low:.3f} to {high:.3f} | {limit} |"

    medians = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in sampled["medians"].items())
    return "\n".join(
        [
            "# Overhead",
            "",
            f"`{results['command']}` on {results['machine']['cpu']}, {results['machine']['threads']} threads, "
            f"torch {results['machine']['torch']}, transformers {results['machine']['transformers']}: ratios of "
            "medians of interleaved repetitions in one run, a BERT-base with random weights, fp32.",
            "",
            "| what | ratio | quartiles of neighbours' ratios | limit |",
            "| --- | --- | --- | --- |",
            row(
                f"truncating `WormTrainer` step ÷ plain `Trainer` step, {step['batch']} × {step['length']}",
                step["step"],
                f"at most {LIMITS['step']}",
            ),
            f"| the truncation alone ÷ plain step | {step['share']:.4f} | | at most {LIMITS['step'] - 1:.2f} |",
            row(
                "`prune.l1_unstructured` on copies ÷ one sampling",
                sampled["prune_over_sampling"],
                f"at least {LIMITS['prune_over_sampling']:g}",
            ),
            row(
                "one sampling ÷ one read of the weights (`abs().sum()`)",
                sampled["sampling_over_read"],
                f"at most {LIMITS['sampling_over_read']:g}",
            ),
            f"| window memory, bits per weight and mask | {sampled['bits_per_weight']:.3f} | | "
            f"{LIMITS['bits_per_weight']:g} |",
            "",
            f"Medians over {sampled['weights']:,} watched weights: {medians} (`sampling`: masks, distances, "
            "bookkeeping, window full; `first`: a sampling and the truncation after it, which makes the new factors). "
            "Steps: " + ", ".join(f"{name} {value:.4f} s" for name, value in step["medians"].items()) + ".",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--blocks", type=int, default=12, help="blocks of three timed steps of each kind")
    parser.add_argument("--repetitions", type=int, default=30, help="repetitions of each sampling")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=2))
    command = f"python benchmarks/overhead.py --blocks {options.blocks} --repetitions {options.repetitions}"
    results = {
        "command": f"{command} --batch {options.batch} --length {options.length}",
        "machine": machine(),
        "sampling": sampling(model, options.repetitions),
        "steps": steps(model, options.blocks, options.batch, options.length),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "overhead.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "overhead.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
