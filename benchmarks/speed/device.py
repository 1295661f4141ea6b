"""What truncating and sampling cost on a GPU: seconds of a bf16 training step and of a sampling, in one process.

    python benchmarks/speed/device.py [--batch 32] [--length 128] [--layers 12] [--rounds 30] [--out benchmarks/results]

A BERT of BERT-base's width with AdamW; steps of EB Train, WORM and WORM with target `"update"` in turn, in an order
drawn anew each round; the device is waited for before each reading of the clock. Without a GPU it runs on the CPU,
which only shows that it runs. Writes device-NAME.json and device-NAME.md, by the device's name.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

import torch
from machine import machine, slug
from transformers import BertConfig, BertForSequenceClassification

from hf_worm import TicketSearch, WormConfig

AT_ONCE = {"stopping_point": 0.0, "margin": 1.0}  # truncates from the second mask on, and never converges
CONFIGS = {
    "EB Train": WormConfig.eb_train(**AT_ONCE),
    "WORM": WormConfig(**AT_ONCE),
    "WORM, target `update`": WormConfig(truncation_target="update", **AT_ONCE),
    "WORM, target `fade`": WormConfig(truncation_target="fade", **AT_ONCE),
}


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(action: Callable[[], object]) -> float:
    wait()
    begun = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - begun


def measure(batch: int, length: int, layers: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each action, one entry a round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers)).to(device).train()
    inputs = torch.randint(1000, 30000, (batch, length), device=device)
    labels = torch.randint(0, 2, (batch,), device=device)
    actions: dict[str, Callable[[], object]] = {}

    def step(search: TicketSearch, optimizer: torch.optim.Optimizer) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        search.truncate_gradients()
        optimizer.step()
        optimizer.zero_grad()

    for name, config in CONFIGS.items():
        # All train the one model, so that they do the same work; each with an optimizer and a search of its own.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        search = TicketSearch(model, config)
        search.attach(optimizer, steps_per_epoch=1000)
        search.observe()
        search.observe()
        assert search.truncating
        actions[name] = lambda search=search, optimizer=optimizer: step(search, optimizer)
    sampled = TicketSearch(model, WormConfig())
    weights = [layer.parameter.detach() for layer in sampled.layers]
    actions["sampling"] = sampled.observe
    actions["one read"] = lambda: [weight.abs().sum() for weight in weights]
    for action in actions.values():
        for _ in range(3):
            action()
    times: dict[str, list[float]] = {name: [] for name in actions}
    order = list(actions)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(seconds(actions[name]))
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> str:
    """Median and quartiles over the rounds."""
    low, middle, high = statistics.quantiles(
        [mine / other for mine, other in zip(times[name], times[to], strict=True)], n=4
    )
    return f"{middle:.4f} ({low:.4f} to {high:.4f})"


def page(results: dict[str, Any]) -> str:
    times = results["seconds"]
    milliseconds = {name: f"{1000 * statistics.median(values):.2f}" for name, values in times.items()}
    lines = [
        f"# Costs on {results['device']}",
        "",
        f"`{results['command']}`, torch {results['machine']['torch']}, bf16 autocast, fused AdamW. Medians of "
        f"{len(times['EB Train'])} rounds, ratios with quartiles.",
        "",
        "| what | milliseconds | ratio |",
        "| --- | --- | --- |",
        f"| step of EB Train | {milliseconds['EB Train']} | 1 |",
    ]
    for name in list(CONFIGS)[1:]:
        lines.append(f"| step of {name} ÷ of EB Train | {milliseconds[name]} | {ratio(times, name, 'EB Train')} |")
    lines.append(
        f"| sampling ÷ one read of the weights | {milliseconds['sampling']} | {ratio(times, 'sampling', 'one read')} |"
    )
    if results["memory_gib"] is not None:
        lines += ["", f"Most memory: {results['memory_gib']:.1f} GiB."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--layers", type=int, default=12, help="blocks of the model")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else "the CPU"
    shape = f"--batch {options.batch} --length {options.length} --layers {options.layers} --rounds {options.rounds}"
    results = {
        "command": f"python benchmarks/speed/device.py {shape}",
        "device": name,
        "machine": machine(),
        "seconds": measure(options.batch, options.length, options.layers, options.rounds),
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }
    path = options.out / f"device-{slug(name)}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results) + "\n")
    path.with_suffix(".md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
