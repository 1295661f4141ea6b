"""Does the data keep up with the training? Images per second of the pipeline, and of a ResNet-18 step, in one run.

    python benchmarks/speed/data_pipeline.py [--batches 200] [--steps 6] [--out benchmarks/results]

Both read 32 × 32 images in batches of 128 on the same threads: the pipeline gathers, crops, flips and normalizes them
(in this process, without workers); the step is forward, backward and SGD of the real ResNet-18 on a batch that is
ready. In turns, since the speed of a machine wanders. Writes data_pipeline.json and data_pipeline.md.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

import torch
from machine import machine
from torch.utils.data import DataLoader
from transformers import default_data_collator

from hf_worm.commands.image.augmentation import PadCropFlip
from hf_worm.commands.image.dataset import ImageDataset
from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification

ROWS, BATCH, LIMIT = 50_000, 128, 5.0


def seconds(work: Callable[[], object], repetitions: int) -> list[float]:
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return times


def measure(batches: int, steps: int) -> dict[str, Any]:
    images = torch.randint(0, 256, (ROWS, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (ROWS,))
    data = ImageDataset(images, labels, [0.5] * 3, [0.25] * 3, augmentation=PadCropFlip(ROWS, padding=4, flip=True))
    loader = DataLoader(data, BATCH, shuffle=True, drop_last=True, collate_fn=default_data_collator)
    model = CifarResNetForImageClassification(CifarResNetConfig())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ready = next(iter(loader))

    def step() -> None:
        model(**ready).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    pipeline: list[float] = []
    training: list[float] = []
    for _ in range(steps):
        stream = iter(loader)
        next(stream)  # begins an epoch: draws the order of its rows
        pipeline += seconds(lambda stream=stream: next(stream), max(1, min(batches // steps, len(loader) - 1)))
        training += seconds(step, 1)
    per_second = {
        name: BATCH / statistics.median(times) for name, times in (("pipeline", pipeline), ("step", training))
    }
    slow, fast = (statistics.quantiles(times, n=4) for times in (training, pipeline))
    return {
        "images_per_second": per_second,
        "ratio": per_second["pipeline"] / per_second["step"],
        # The least favourable quartiles: a slow pipeline against a fast step.
        "ratio_at_worst_quartiles": slow[0] / fast[2],
    }


def table(results: dict[str, Any]) -> str:
    on, speed = results["machine"], results["images_per_second"]
    return "\n".join(
        [
            "# Data pipeline against training step",
            "",
            f"`{results['command']}` on {on['cpu']}, {on['threads']} threads, torch {on['torch']}, fp32, batches of "
            f"{BATCH} images of 32 × 32 pixels; medians of turns in one run.",
            "",
            "| what | images per second |",
            "| --- | --- |",
            f"| the pipeline: gather, pad-crop, flip, normalize, collate; no workers | {speed['pipeline']:,.0f} |",
            f"| what a training step of ResNet-18 (11.2 M parameters) takes | {speed['step']:,.0f} |",
            f"| ratio (at least {LIMIT:g}) | {results['ratio']:,.0f} |",
            f"| ratio of the slowest quarter of batches to the fastest quarter of steps | "
            f"{results['ratio_at_worst_quartiles']:,.0f} |",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200, help="timed batches of the pipeline")
    parser.add_argument("--steps", type=int, default=6, help="timed training steps")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    options = parser.parse_args()
    torch.manual_seed(0)
    command = f"python benchmarks/speed/data_pipeline.py --batches {options.batches} --steps {options.steps}"
    results = {"command": command, "machine": machine(), **measure(options.batches, options.steps)}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "data_pipeline.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "data_pipeline.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
