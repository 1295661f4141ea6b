"""Reproduces the paper's tables and figures, and compares the baselines, at a small or at the paper's own scale.

    python benchmarks/accuracy/reproduce.py [--table 1 2 ...] [--figure 1 2] [--baselines] [--sampling] [--start]
                                            [--drift] [--schedules] [--fading] [--comparison] [--earlier] [--units]
                                            [--scores] [--scale small | full] [--task mrpc ...]
                                            [--method eb_train ...] [--seeds N] [--model FOLDER] [--data FOLDER]
                                            [--workers N] [--minutes M] [--out benchmarks/results]

Nothing named: all of it. A finished run is a line of OUT/reproduce-SCALE.jsonl, and is not repeated: interrupted and
started again, it goes on where it was. The pages are made anew from those lines at the end (`--pages`: only that).
`small` fits two CPU cores: all-MiniLM-L6 on parts of MRPC, RTE and SST-2; narrow CNNs on scikit-learn's digits.
`full` is the paper's own: bert-base-uncased, ResNet-18 and VGG-11 on all of CIFAR-10; it wants a GPU. `dry` shows that
everything runs, and nothing else.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import redirect_stdout
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fading import write as write_fading
from pages import write as write_page
from protocol import FADING, IMAGES, MEASURED, METHODS, PARTS, SCALES, TEXT, UNIT_SCORES, Scale, Setting, settings_of
from units import write as write_units

Records = dict[Setting, dict[str, Any]]


def load(path: Path, scale: Scale) -> Records:
    """The finished runs; a last line that was cut off while it was written doesn't count.

    Raises:
        ValueError: There are runs of another model, of other rows or with other arguments.
    """
    records: Records = {}
    if path.exists():
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                record = json.loads(line)
                setting = Setting.from_dict(record["setting"])
                wanted, found = scale.circumstances(setting.task), record["circumstances"]
                if found != wanted:
                    raise ValueError(f"{path} has {setting.task} with {found}, not {wanted}: name another --out.")
                records[setting] = record
    return records


def append(path: Path, setting: Setting, scale: Scale, outcome: dict[str, Any]) -> None:
    record = {"setting": setting.as_dict(), "circumstances": scale.circumstances(setting.task), **outcome}
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def same_run(setting: Setting, records: Records) -> dict[str, Any] | None:
    """EB Train that searched for all its epochs has trained, pruned and retrained: it is the one-shot baseline."""
    found = records.get(replace(setting, method="eb_train"))
    if setting.method == "one_shot" and found is not None and found["search_epochs"] == setting.search_epochs:
        outcome = {name: value for name, value in found.items() if name not in ("setting", "circumstances")}
        return {**outcome, "same_run_as": "eb_train", "converged": False}
    return None


def run_quietly(setting: Setting, scale: Scale, data: Path | None, cache: Path, threads: int) -> dict[str, Any]:
    """One run in a process of its own pool."""
    if data is not None:
        os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from methods import run
    from transformers.utils.logging import set_verbosity_error

    torch.set_num_threads(threads)
    set_verbosity_error()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        return run(setting, scale, data, cache)


def complete(
    settings: Iterable[Setting], scale: Scale, data: Path | None, path: Path, workers: int, minutes: float = math.inf
) -> Records:
    """Run what is missing, several runs side by side, and return all records; begin none after so many minutes."""
    records = load(path, scale)
    missing = [setting for setting in dict.fromkeys(settings) if setting not in records]
    later = [setting for setting in missing if setting.method == "one_shot"]  # perhaps another's run already
    first = [setting for setting in missing if setting.method != "one_shot"]
    cache = path.with_suffix(".cache")
    threads = max((os.cpu_count() or 1) // workers, 1)
    begun, done = time.perf_counter(), 0

    def passed() -> float:
        return (time.perf_counter() - begun) / 60

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for batch in (first, later):
                waiting: dict[Future[dict[str, Any]], Setting] = {}
                while batch or waiting:
                    while batch and len(waiting) < workers and passed() < minutes:
                        setting = batch.pop(0)
                        known = same_run(setting, records)
                        if known is None:
                            waiting[pool.submit(run_quietly, setting, scale, data, cache, threads)] = setting
                        else:
                            append(path, setting, scale, known)
                    if not waiting:
                        break
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        setting = waiting.pop(future)
                        append(path, setting, scale, future.result())
                        done += 1
                        print(f"{done} of {len(missing)} after {passed():.0f} min: {setting}", file=sys.stderr)
                records = load(path, scale)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"Interrupted: {done} more runs are in {path}; the same command goes on.", file=sys.stderr)
            raise SystemExit(130) from None
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=int, nargs="+", choices=range(1, 7), default=[], help="of the paper")
    parser.add_argument("--figure", type=int, nargs="+", choices=(1, 2), default=[], help="of the paper")
    parser.add_argument("--baselines", action="store_true", help="eight other ways to the same sparsity")
    parser.add_argument("--sampling", action="store_true", help="masks taken within an epoch")
    parser.add_argument("--start", action="store_true", help="truncation from the first step on")
    parser.add_argument("--drift", action="store_true", help="how far fine-tuning moves the masks")
    parser.add_argument(
        "--schedules", action="store_true", help="one learning rate schedule, or one after the draw too"
    )
    parser.add_argument("--fading", action="store_true", help="how fast, by which curve, from when on weights fade")
    parser.add_argument("--comparison", action="store_true", help="fading beside the baselines, at more seeds")
    parser.add_argument("--earlier", action="store_true", help="fading earlier, where a baseline ended above it")
    parser.add_argument("--units", action="store_true", help="neurons and heads instead of single weights")
    parser.add_argument("--scores", action="store_true", help="what units are ranked by, drawn and not retrained")
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--task", nargs="+", choices=(*TEXT, *IMAGES), default=[*TEXT, *IMAGES], help="only these")
    methods = (*METHODS, *FADING, *UNIT_SCORES, *MEASURED)
    parser.add_argument("--method", nargs="+", choices=methods, default=methods, metavar="METHOD", help="only these")
    parser.add_argument("--model", help="Hub id or folder of the model for GLUE, instead of the scale's own")
    parser.add_argument("--seeds", type=int, help="runs of each kind; by default the scale's own number")
    parser.add_argument("--data", type=Path, help="folder with glue/ and cifar10/ as on the Hub; default: the Hub")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after that")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    parser.add_argument("--pages", action="store_true", help="make the pages from the runs that there are")
    options = parser.parse_args()
    parts = [f"table {number}" for number in options.table] + [f"figure {number}" for number in options.figure]
    parts += [part for part in PARTS if part.isalpha() and getattr(options, part)]
    scale = SCALES[options.scale]
    if options.model is not None:
        scale = replace(scale, text_model=options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"reproduce-{options.scale}.jsonl"
    settings = [setting for part in parts or PARTS for setting in settings_of(part, scale, options.seeds)]
    settings = [setting for setting in settings if setting.task in options.task and setting.method in options.method]
    settings.sort(key=lambda setting: setting.seed)  # one seed of all, then the next
    try:
        if options.pages:
            records = load(path, scale)
        else:
            records = complete(settings, scale, options.data, path, options.workers, options.minutes)
    except (ValueError, OSError, ImportError) as error:  # no data, no model: what the commands answer in a line too
        raise SystemExit(f"reproduce.py: error: {' '.join(str(error).split())}") from error
    written = [write_page(options.scale, records, options.out)]
    for write in (write_fading, write_units):
        page = write(options.scale, records, options.out)
        written += [] if page is None else [page]
    print(f"{len(records)} runs in {path}; pages: {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
