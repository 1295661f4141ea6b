"""What cutting out gains: compact models against dense ones, in one run, with random weights.

    python benchmarks/speed/compact.py [--layers 12] [--rows 32] [--length 128] [--rounds 9] [--threads N]
                                       [--device cpu | cuda] [--dtype float32 | bfloat16] [--out benchmarks/results]

A BERT of BERT-base's shape without half of its FFN neurons, and without three quarters of them and half of its heads;
ResNet-18 and VGG-11 for 32×32 images without half of their channels. In each round all models of a kind take their
turn, and a ratio is of that round. Writes compact.json and compact.md; on a GPU, which is taken if there is one, and
in bfloat16 if nothing else is asked for, compact-NAME.json and .md by the device's name.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

import torch
from machine import machine, slug
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from hf_worm import Ticket, TicketSearch, WormConfig
from hf_worm.models import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    VggBnConfig,
    VggBnForImageClassification,
)
from hf_worm.report.speed import counts, forward, race, repeated, training_step

ACTIONS = {"forward": forward, "training step": training_step}
LIMITS = {"neurons 0.5": 1.35, "neurons 0.75, heads 0.5": 2.0, "channels 0.5": 2.0}  # of the forward pass


def compact(model: nn.Module, *layers: str) -> nn.Module:
    """A smaller copy, without the share given of each kind of unit."""
    config = WormConfig(layers=list(layers))
    search = TicketSearch(model, config)
    search.observe()
    return Ticket(search.masks, config).compact(model)


def scattered(model: nn.Module) -> nn.Module:
    """Scales that rank the channels; as they are made all are 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight)
    return model


def kinds(rows: int, length: int, layers: int) -> dict[str, tuple[dict[str, nn.Module], dict[str, torch.Tensor]]]:
    """By kind, the models, the dense one first, and what they are called with."""
    bert = BertForSequenceClassification(BertConfig(num_hidden_layers=layers))
    resnet = scattered(CifarResNetForImageClassification(CifarResNetConfig()))
    vgg = scattered(VggBnForImageClassification(VggBnConfig(classifier="slim")))
    labels = torch.arange(rows) % 2
    sentences = {"input_ids": torch.randint(1000, 30000, (rows, length)), "labels": labels}
    images = {"pixel_values": torch.randn(rows, 3, 32, 32), "labels": labels}
    return {
        f"BERT-base's shape, {layers} blocks, {rows} × {length}": (
            {
                "dense": bert,
                "neurons 0.5": compact(bert, "neurons=0.5"),
                "neurons 0.75, heads 0.5": compact(bert, "neurons=0.75", "heads=0.5"),
            },
            sentences,
        ),
        f"ResNet-18, {rows} images": ({"dense": resnet, "channels 0.5": compact(resnet, "batchnorm=0.5")}, images),
        f"VGG-11, slim, {rows} images": ({"dense": vgg, "channels 0.5": compact(vgg, "batchnorm=0.5")}, images),
    }


def measure(
    models: Mapping[str, nn.Module], batch: Mapping[str, torch.Tensor], device: str, dtype: torch.dtype, rounds: int
) -> dict[str, Any]:
    """Size of each model, and its seconds in each round."""
    for model in models.values():
        model.to(device, dtype)
    batch = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in batch.items()}
    size = {name: counts(model, repeated(batch, 1)) for name, model in models.items()}
    times = {name: race(models, batch, action, rounds, math.inf) for name, action in ACTIONS.items()}
    return {"size": size, "seconds": times}


def quartiles(dense: list[float], smaller: list[float]) -> str:
    """Of the rounds' ratios, the median first."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(dense, smaller, strict=True)], n=4)
    return f"{middle:.2f}× ({low:.2f} to {high:.2f})"


def page(results: dict[str, Any]) -> str:
    lines = [
        "# What cutting out gains",
        "",
        f"`{results['command']}` on {results['device']}, torch {results['machine']['torch']}, {results['dtype']}, "
        "random weights. *Faster*: seconds of the dense model by those of this one in the same round, median and "
        "quartiles over the rounds. A training step is forward and backward.",
        "",
    ]
    head = ["model", "parameters, M", "multiply-adds of a row, M", "rounds", "forward, faster", "limit", "met"]
    for kind, found in results["kinds"].items():
        rows = []
        for name, size in found["size"].items():
            times = {action: (found["seconds"][action]["dense"], found["seconds"][action][name]) for action in ACTIONS}
            ratio, limit = statistics.median([a / b for a, b in zip(*times["forward"], strict=True)]), LIMITS.get(name)
            row = [name, f"{size['parameters'] / 1e6:.1f}", f"{size['multiply_adds'] / 1e6:,.0f}"]
            row += [str(len(times["forward"][0])), quartiles(*times["forward"])]
            row += ["", ""] if limit is None else [f"{limit:g}×", "yes" if ratio >= limit else "**no**"]
            rows.append([*row, quartiles(*times["training step"])])
        lines += [f"## {kind}", "", "| " + " | ".join([*head, "training step, faster"]) + " |"]
        lines += ["|" + " --- |" * (len(head) + 1), *("| " + " | ".join(row) + " |" for row in rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="blocks of the BERT")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, on a CPU")
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda") if cuda else ("cpu",), default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    dtype = options.dtype or ("bfloat16" if on_gpu else "float32")
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    made = kinds(options.rows, options.length, options.layers)
    measured = {
        kind: measure(models, batch, options.device, getattr(torch, dtype), options.rounds)
        for kind, (models, batch) in made.items()
    }
    name = torch.cuda.get_device_name() if on_gpu else machine()["cpu"]
    results = {
        "command": f"python benchmarks/speed/compact.py --layers {options.layers} --rows {options.rows} --length "
        f"{options.length} --rounds {options.rounds} "
        + ("--device cuda" if on_gpu else f"--threads {options.threads}")
        + (f" --dtype {options.dtype}" if options.dtype else ""),
        "device": name if on_gpu else f"{name}, {options.threads} threads",
        "dtype": dtype,
        "machine": machine(),
        "kinds": measured,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"compact-{slug(name)}" if on_gpu else "compact"
    (options.out / f"{stem}.json").write_text(json.dumps(results) + "\n")
    (options.out / f"{stem}.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
