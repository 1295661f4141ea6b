"""Damaged and malicious files for whatever hf_worm reads: each is read as what it says, or refused with a message.

    python benchmarks/robustness/fuzz.py [--cases 20000] [--seed 0] [--seconds 600] [--out benchmarks/results]
    python benchmarks/robustness/fuzz.py --replay 4711

A case is a number: it picks the reader and the file, and damages the file at random, by bytes or within its JSON. What
is read has to be the same when it is saved and read again. Any other exception than a `ValueError` or an `OSError`, a
case of more than ten seconds and one that takes gigabytes of memory are failures: the exit status is 1 then, and the
number of the case is printed. Writes `fuzz.json` and `fuzz.md`.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

import torch
from machine import machine
from torch import nn

from hf_worm import Ticket, TicketSearch, WormConfig
from hf_worm.checkpoint.state import load_state, save_state
from hf_worm.report.progress import Progress

CONFIG = WormConfig(window=2, stopping_point=0.5)
# What is put in the place of a value: other types, the ends of the ranges, what overflows, nests or multiplies.
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 8, 9, 255, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**30, 10**400,
    0.0, -0.5, 0.5, 1.0, 8.0, 1e308, float("nan"), float("inf"), float("-inf"), "", "0", "8", "true", "search",
    "retrain", "../../x", "/etc/passwd", "a\0b", "\ud800", "é" * 50, "[]", "{}", [], {}, [[]], [8], [16], [4, 4],
    [2, 8], [-4, -4], [-1], [0], [2**40, 2**40, 0], [2**62, 4], [3 * 10**9, "ab"], ["ab", 3 * 10**9], [[1], 10**10],
    [4, 4, True], [4.0, 4.0], {"": []}, {"a": 1}, [None], ["query", "key"], "hf_worm.ticket.v1", "hf_worm.state.v1",
]  # fmt: skip
NESTED = "[" * 100_000


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut, inserted, doubled or moved, once or a few times."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        start, length = rng.randrange(len(out) + 1), rng.choice((1, 2, 8, 64))
        piece = out[start : start + length]
        kind = rng.choice(("flip", "set", "cut", "insert", "double", "end", "move"))
        if kind == "flip" and start < len(out):
            out[start] ^= 1 << rng.randrange(8)
        elif kind == "set" and start < len(out):
            out[start] = rng.randrange(256)
        elif kind == "cut":
            del out[start : start + length]
        elif kind == "insert":
            out[start:start] = rng.randbytes(length)
        elif kind == "double":
            out[start:start] = piece
        elif kind == "end":
            del out[start:]
        else:
            del out[start : start + length]
            place = rng.randrange(len(out) + 1)
            out[place:place] = piece
    return bytes(out)


def mutated_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with something in it changed; a string that holds JSON may be changed within."""
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.9:
        return mutated_json(rng, value)
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return rng.choice(VALUES)
    if isinstance(value, list):
        items = list(value)
        place = rng.randrange(len(items))
        kind = rng.choice(("change", "change", "remove", "double"))
        if kind == "change":
            items[place] = mutated_value(rng, items[place])
        elif kind == "remove":
            del items[place]
        else:
            items.insert(place, items[place])
        return items
    changed = dict(value)
    name = rng.choice(sorted(changed))
    kind = rng.choice(("change", "change", "change", "remove", "rename", "add"))
    if kind == "change":
        changed[name] = mutated_value(rng, changed[name])
    elif kind == "add":
        changed[rng.choice(("", "more", name + "2", "../" + name))] = rng.choice([*VALUES, changed[name]])
    else:
        content = changed.pop(name)
        if kind == "rename":
            changed[rng.choice(("", "-1", "1", "00", "start/", "../" + name, name + "x"))] = content
    return changed


def mutated_json(rng: random.Random, text: str) -> str:
    """JSON text that says something else; at times nested too deep, with a name twice or with more behind it."""
    kind = rng.random()
    if kind < 0.02:
        return NESTED
    if kind < 0.05:
        return text + rng.choice((" ", "x", text, "\0"))
    if kind < 0.08 and text.startswith("{") and len(text) > 2:
        return text[:-1].rstrip() + "," + text[1:]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # it was damaged before
        return text
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = mutated_value(rng, value)
    return json.dumps(value)


def mutated_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, still JSON for the most part, with its length right or wrong."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length].decode(), data[8 + length :]
    if rng.random() < 0.6:  # what safetensors takes for a text and hf_worm reads
        whole = json.loads(header)
        texts = whole["__metadata__"]
        name = rng.choice(sorted(name for name in texts if name != "format"))
        texts[name] = mutated_json(rng, texts[name])
        head = json.dumps(whole).encode()
    else:
        head = mutated_json(rng, header).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        rest = mutated_bytes(rng, rest)
    said = len(head) if rng.random() < 0.95 else rng.choice((0, 1, length + 1, 10**8, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", said) + head + rest


def mutated(rng: random.Random, name: str, data: bytes) -> bytes:
    """The content of a file, damaged in the one way or the other."""
    kind = rng.random()
    if kind < 0.03:
        return rng.randbytes(rng.choice((0, 1, 7, 8, 9, 100, 1000)))
    if kind < 0.3:
        return mutated_bytes(rng, data)
    if name.endswith(".json"):
        return mutated_json(rng, data.decode()).encode("utf-8", "surrogatepass")
    return mutated_safetensors(rng, data)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"query": nn.Linear(4, 4), "key": nn.Linear(4, 3)})


def small_search() -> TicketSearch:
    """A search with two observations behind it."""
    model = small_model()
    search = TicketSearch(model, CONFIG)
    for _ in range(2):
        search.observe()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
    return search


def write_ticket(folder: Path) -> None:
    small_search().draw().save_pretrained(folder)


def write_config(folder: Path) -> None:
    WormConfig(sample_strategy="steps", sample_steps=7).save_pretrained(folder)


def write_state(folder: Path) -> None:
    progress = Progress(steps={"search": 4}, epochs={"search": 1.0}, metrics={"drawn": {"loss": 0.5}})
    save_state(folder, progress, small_search().state_dict())


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else bool(first == second)


def check_history(history: list[Any]) -> None:
    """Whether the observations are such as a search makes."""
    for seen in history:
        numbers = [*seen.distances, *(x for x in (seen.max_distance, seen.mean_distance) if x is not None)]
        assert all(type(x) in (int, float) and 0 <= x <= 1 for x in numbers), f"no distances: {numbers}"
        assert type(seen.distances) is tuple and type(seen.index) is int, f"no observation: {seen}"
        assert type(seen.truncating) is bool and type(seen.converged) is bool, f"no observation: {seen}"


def read_ticket(folder: Path, other: Path) -> None:
    ticket = Ticket.from_pretrained(folder)
    assert 0 <= ticket.sparsity <= 1
    check_history(ticket.history)
    ticket.save_pretrained(other)
    again = Ticket.from_pretrained(other)
    assert same(again.masks, ticket.masks), "other masks when read again"
    assert (again.config, again.history, again.converged) == (ticket.config, ticket.history, ticket.converged)
    assert type(ticket.converged) is bool


def read_config(folder: Path, other: Path) -> None:
    config = WormConfig.from_pretrained(folder)
    config.save_pretrained(other)
    assert WormConfig.from_pretrained(other) == config, "other settings when read again"


def read_state(folder: Path, other: Path) -> None:
    progress, state = load_state(folder)
    search = TicketSearch(small_model(), CONFIG)
    search.load_state_dict(state)
    assert search.masks.keys() <= {layer.name for layer in search.layers} and 0 <= search.sparsity <= 1
    check_history(search.history)
    save_state(other, progress, search.state_dict())
    again, same_state = load_state(other)
    assert again.phase in ("search", "draw", "retrain"), "a phase that there is not"
    assert (again.steps, again.epochs, again.metrics) == (progress.steps, progress.epochs, progress.metrics)
    resumed = TicketSearch(small_model(), CONFIG)
    resumed.load_state_dict(same_state)
    assert resumed.history == search.history and same(resumed.masks, search.masks), "another search when read again"
    search.observe()


@dataclass(frozen=True)
class Reader:
    """What is read, and how it is written.

    Args:
        write (`Callable`): Writes valid files into a folder.
        read (`Callable`): Reads them, writes what it read into another folder, and reads that.
        damaged (`tuple[str, ...]`): The files to damage.
    """

    write: Callable[[Path], None]
    read: Callable[[Path, Path], None]
    damaged: tuple[str, ...]


READERS = {
    "Ticket.from_pretrained": Reader(
        write_ticket, read_ticket, ("ticket.safetensors", "ticket.safetensors", "worm_history.json", "worm_config.json")
    ),
    "WormConfig.from_pretrained": Reader(write_config, read_config, ("worm_config.json",)),
    "load_state, load_state_dict": Reader(write_state, read_state, ("worm_state.safetensors",)),
}


class Fuzzer:
    """Valid files in a folder, which every case damages and puts right again."""

    def __init__(self, folder: Path) -> None:
        self.other = folder / "other"
        self.folders = {name: folder / str(place) for place, name in enumerate(READERS)}
        self.valid: dict[str, dict[str, bytes]] = {}
        for name, reader in READERS.items():
            reader.write(self.folders[name])
            reader.read(self.folders[name], self.other)
            self.valid[name] = {file: (self.folders[name] / file).read_bytes() for file in reader.damaged}

    def case(self, number: int) -> tuple[str, str, bytes]:
        """The reader, the file and its content in a case."""
        name = list(READERS)[number % len(READERS)]
        rng = random.Random(number)
        file = rng.choice(READERS[name].damaged)
        return name, file, mutated(rng, file, self.valid[name][file])

    def read(self, name: str, file: str, content: bytes) -> str:
        """How it went: `"read"` or `"refused"`. All other exceptions are failures."""
        path = self.folders[name] / file
        path.write_bytes(content)
        try:
            READERS[name].read(self.folders[name], self.other)
        except (ValueError, OSError) as error:  # an empty or a bare message helps nobody
            if len(str(error)) < 20 or isinstance(error, json.JSONDecodeError):
                raise AssertionError(f"a message that says too little: {error!r}") from error
            return "refused"
        finally:
            path.write_bytes(self.valid[name][file])
        return "read"


def limit_memory(gibibytes: float) -> tuple[int, int]:
    """Let this process take so much memory beyond what it has; returns the limits that it had."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(gibibytes * 2**30), before[1]))
    return before


def hang(*_: Any) -> None:
    raise AssertionError("more than ten seconds")


def table(results: dict[str, Any]) -> str:
    machine = results["machine"]
    rows = [
        f"| `{name}` | {counts['cases']:,} | {counts['read']:,} | {counts['refused']:,} | {counts['failed']:,} |"
        for name, counts in results["readers"].items()
    ]
    return "\n".join(
        [
            "# Damaged files",
            "",
            f"`{results['command']}` on {machine['cpu']}, torch {machine['torch']}, Python {machine['python']}: "
            f"{results['cases']:,} files damaged at random in {results['seconds']:.0f} s, 2 GiB of memory beyond the "
            "libraries' and ten seconds each. Read: a valid object, the same when saved and read again. Refused: a "
            "`ValueError` or an `OSError` with a message. Failed: anything else.",
            "",
            "| reader | files | read | refused | failed |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="number of damaged files")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many seconds")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case, in millions")
    parser.add_argument("--replay", type=int, metavar="CASE", help="read the file of one case, with its traceback")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        fuzzer = Fuzzer(folder)
        limit_memory(2)
        if options.replay is not None:
            name, file, content = fuzzer.case(options.replay)
            print(f"{name}, {file}, {len(content)} bytes:\n{content[:2000]!r}")
            print(fuzzer.read(name, file, content))
            return 0
        return fuzz(fuzzer, options)
    finally:
        shutil.rmtree(folder)


def fuzz(fuzzer: Fuzzer, options: argparse.Namespace) -> int:
    outcomes = {name: Counter[str]() for name in READERS}
    failures: dict[str, list[int]] = {}
    signal.signal(signal.SIGALRM, hang)
    begun = time.perf_counter()
    for number in range(options.seed * 10**6, options.seed * 10**6 + options.cases):
        if time.perf_counter() - begun > options.seconds:
            break
        name, file, content = fuzzer.case(number)
        signal.alarm(10)
        try:
            outcome = fuzzer.read(name, file, content)
        except Exception as error:
            outcome = "failed"
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{name}, {file}: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
            if kind not in failures:
                print(f"case {number}: {kind}: {str(error)[:200]}\n  --replay {number}", file=sys.stderr)
            failures.setdefault(kind, []).append(number)
        finally:
            signal.alarm(0)
        outcomes[name][outcome] += 1
    results = {
        "command": f"python benchmarks/robustness/fuzz.py --cases {options.cases} --seed {options.seed}",
        "machine": machine(),
        "cases": sum(counts.total() for counts in outcomes.values()),
        "seconds": time.perf_counter() - begun,
        "readers": {
            name: {"cases": counts.total(), **{kind: counts[kind] for kind in ("read", "refused", "failed")}}
            for name, counts in outcomes.items()
        },
        "failures": {kind: numbers[:10] for kind, numbers in failures.items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "fuzz.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "fuzz.md").write_text(table(results))
    print(table(results))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
