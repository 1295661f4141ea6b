"""What pruning while training costs, against loops as one would write them and against limits.

    python benchmarks/speed/overhead.py [--out benchmarks/results]

Writes `overhead.json` and `overhead.md`: one table of ratios within one run, of CPU seconds, since other programs slow
the clock on the wall. Random weights do: no figure here depends on what a model has learned. Needs 16 GB of free memory
for the largest size (`--largest` sets a smaller one) and some minutes.
"""

import argparse
import copy
import gc
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

import torch
from machine import machine
from torch import nn
from torch.nn.utils import prune
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_worm import TicketSearch, WormConfig, WormTrainer
from hf_worm.core.window import MaskWindow

SIZES = [(10, 1024), (30, 1024), (24, 2048), (18, 4096), (60, 4096)]  # layers and their width: 10 M to 1 B weights
GROWTH_ROUNDS = 3  # of seconds each at the largest size
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}  # with BERT's 12 heads
AT_ONCE = {"stopping_point": 0.0, "margin": 1.0}  # truncates from the second mask on, and never converges
Times = dict[str, dict[str, float]]  # medians of CPU seconds, by what was measured together

NOTES = """\
- Met: the upper quartile is within the limit. Open: the limit lies between the quartiles.
- Forward and backward are the same work for all, and most of a step's noise: a row of steps takes their mean over all
  that is compared in the round, and adds what follows them in each. Rows timed whole are as the clock has them.
- The paper's own tables have WORM at 1.24 to 1.63 times EB Train's time on transformers, whole runs, of which some had
  more epochs; here it is the time of an optimizer step.
- A truncation takes as long for any batch: its share falls as the batch grows. With the targets `update` and `fade` it
  passes over the weights twice in a step (copy, mix), with target `gradient` over the gradients once.
- For that one pass, truncation keeps a factor of 4 bytes for each watched weight. EB Train keeps the masks alone.
- 10 M and 31 M are of layers 1,024 wide, 101 M of 2,048, 302 M and 1.01 B of 4,096, which leave the caches. The same
  time per weight is 1. The read allocates what it sums, which large layers pay for.
- The most while sampling: two copies of the largest layer and its mask, for each thread, and one bit per weight."""


class Seconds(NamedTuple):
    """What an action took: of all the process's threads, on the wall, and of the threads after the backward pass."""

    cpu: float
    wall: float
    after: float = 0.0


@dataclass
class Row:
    """A line of the table: a quantity of ours and of the loop that one would write, one entry for each round."""

    what: str
    ours: list[float]
    usual: list[float] | None = None
    limit: float | None = None

    @property
    def met(self) -> str:
        if self.limit is None:
            return ""
        low, high = self.ours * 2 if len(self.ours) == 1 else statistics.quantiles(self.ours)[::2]
        return "yes" if high <= self.limit else "no" if low > self.limit else "open"

    def __str__(self) -> str:
        ratio = [] if self.usual is None else over(self.ours, self.usual)
        limit = "" if self.limit is None else f"{self.limit:g}"
        met = self.met.replace("no", "**no**")
        cells = [self.what, spread(self.ours), spread(self.usual or []), spread(ratio), limit, met]
        return f"| {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """Median, quartiles and number."""
    of = values if len(values) < 2 else statistics.quantiles(values)
    figures = [f"{value:.3f}" if value >= 0.1 else f"{value:.2g}" for value in of]
    return "".join(figures) if len(values) < 2 else f"{figures[1]} ({figures[0]} to {figures[2]}; {len(values)})"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# The clock.


def timed(action: Callable[[], object]) -> Callable[[], Seconds]:
    """The action, as one that returns what it took."""

    def measured() -> Seconds:
        cpu, wall = time.process_time(), time.perf_counter()
        action()
        return Seconds(time.process_time() - cpu, time.perf_counter() - wall)

    return measured


def interleaved(actions: Mapping[str, Callable[[], Seconds]], rounds: int) -> dict[str, list[Seconds]]:
    """Seconds of each action, of one round after another.

    A round takes the actions in an order drawn anew, then in the reverse, and gives the mean of the two: a machine that
    grows slower within it slows all of them alike, and none always finds in the caches what another has left there.
    """
    rng = random.Random(0)
    for action in actions.values():
        action()
    times: dict[str, list[Seconds]] = {name: [] for name in actions}
    for _ in range(rounds):
        order = rng.sample(list(actions), len(actions))
        spent: dict[str, list[Seconds]] = {name: [] for name in actions}
        for name in [*order, *reversed(order)]:
            spent[name].append(actions[name]())
        for name, (first, second) in spent.items():
            times[name].append(Seconds(*((a + b) / 2 for a, b in zip(first, second, strict=True))))
    return times


def cpu(times: list[Seconds]) -> list[float]:
    return [seconds.cpu for seconds in times]


def steps_of(times: Mapping[str, list[Seconds]]) -> dict[str, list[float]]:
    """CPU seconds of a step: the mean of all in the round up to the backward pass, and what each takes after it."""
    common = [statistics.mean(step.cpu - step.after for step in steps) for steps in zip(*times.values(), strict=True)]
    return {name: [a + step.after for a, step in zip(common, steps, strict=True)] for name, steps in times.items()}


def medians(values: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(of) for name, of in values.items()}


def over(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


# As one would write it.


def prune_on_copies(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Masks by `prune.l1_unstructured` on a copy of each matrix; it leaves them as floats."""
    masks = {}
    for name, weight in weights.items():
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight.detach().clone())
        prune.l1_unstructured(layer, "weight", 0.5)
        masks[name] = layer.weight_mask
    return masks


def compare(newest: Mapping[str, torch.Tensor], older: list[Mapping[str, torch.Tensor]]) -> list[float]:
    """Distances of boolean masks, the newest to each older."""
    units = sum(mask.numel() for mask in newest.values())
    return [sum(int((mask[name] != newest[name]).sum()) for name in newest) / units for mask in older]


def multiply_gradients(gradients: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor], r: float) -> None:
    """Truncation by a factor made at each step."""
    for name, gradient in gradients.items():
        gradient.mul_(torch.where(masks[name], 1.0, r))


def index_gradients(gradients: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor], r: float) -> None:
    """Truncation by an index, as the formula reads."""
    for name, gradient in gradients.items():
        gradient[~masks[name]] *= r


# What is measured.


def query_and_key(model: nn.Module) -> dict[str, torch.Tensor]:
    return {layer.name: layer.parameter for layer in TicketSearch(model, WormConfig()).layers}


def observed(model: nn.Module, config: WormConfig, times: int) -> TicketSearch:
    search = TicketSearch(model, config)
    for _ in range(times):
        search.observe()
    return search


def read_once(weights: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for weight in weights.values():
            weight.abs().sum()


def time_hooks(optimizer: torch.optim.Optimizer, clocked: Callable[[Callable[[], object]], Callable[[], None]]) -> None:
    """Have the hooks around an optimizer's step timed."""

    def of(hook: Callable[..., object]) -> Callable[..., None]:
        return lambda *given: clocked(lambda: hook(*given))()

    for hooks in (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks):
        hooks.update({key: of(hook) for key, hook in hooks.items()})


def steps(model: BertForSequenceClassification, rounds: int, batch: int, length: int) -> tuple[list[Row], Times]:
    """Whole optimizer steps of loops over one model: forward, backward, truncation, AdamW."""
    ids, labels = torch.randint(0, model.config.vocab_size, (batch, length)), torch.arange(batch) % 2
    weights = query_and_key(model)
    optimizers: list[torch.optim.Optimizer] = []

    def optimizer() -> torch.optim.Optimizer:
        """AdamW over the same state as the others; hooks on it are its own."""
        optimizers.append(torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True))
        optimizers[-1].state = optimizers[0].state
        return optimizers[-1]

    calls = {"gradient": 1, "update": 2, "fade": 2, "loop": 1, "fisher": 1, "weights": 1}  # in a step
    alone: dict[str, list[float]] = {name: [] for name in calls}

    def clocked(name: str, action: Callable[[], object]) -> Callable[[], None]:
        measured = timed(action)
        return lambda: alone[name].append(measured().cpu)

    def step(truncate: Callable[[], object], optimizer: torch.optim.Optimizer) -> Callable[[], Seconds]:
        def rest() -> None:
            truncate()
            optimizer.step()
            optimizer.zero_grad()

        common, own = timed(lambda: model(input_ids=ids, labels=labels).loss.backward()), timed(rest)

        def once() -> Seconds:
            first, then = common(), own()
            return Seconds(first.cpu + then.cpu, first.wall + then.wall, then.cpu)

        return once

    plain, of_eb_train = optimizer(), optimizer()
    eb_train = observed(model, WormConfig.eb_train(**AT_ONCE), 2)
    eb_train.attach(of_eb_train)
    gradient = observed(model, WormConfig(**AT_ONCE), 2)
    of_target = {}
    for target in ("update", "fade"):
        search, own_optimizer = observed(model, WormConfig(truncation_target=target, **AT_ONCE), 2), optimizer()
        search.attach(own_optimizer, steps_per_epoch=1000)
        time_hooks(own_optimizer, partial(clocked, target))
        of_target[target] = step(search.truncate_gradients, own_optimizer)
    fisher = TicketSearch(model, WormConfig.eb_train(score="fisher", layers=["heads", "neurons"]))
    by_weights = TicketSearch(model, WormConfig.eb_train(score="fisher"))
    masks = gradient.masks

    def loop() -> None:
        multiply_gradients({name: weight.grad for name, weight in weights.items()}, masks, 0.003)

    times = interleaved(
        {
            "plain": step(lambda: None, plain),
            "EB Train": step(eb_train.truncate_gradients, of_eb_train),
            "gradient": step(clocked("gradient", gradient.truncate_gradients), plain),
            **of_target,
            "loop": step(clocked("loop", loop), plain),
            "fisher": step(clocked("fisher", fisher.truncate_gradients), plain),
            "weights": step(clocked("weights", by_weights.truncate_gradients), plain),
        },
        rounds,
    )
    step_of, whole = steps_of(times), {name: cpu(seconds) for name, seconds in times.items()}
    walls = {name: [seconds.wall for seconds in of] for name, of in times.items()}
    own = {
        name: [sum(alone[name][i : i + 2 * n]) / 2 for i in range(n, len(alone[name]), 2 * n)]
        for name, n in calls.items()
    }
    kind = f"BERT-base, {batch} × {length} tokens: "

    def row(what: str, of: Mapping[str, list[float]], ours: str, usual: str | None, limit: float | None = None) -> Row:
        base = of["EB Train"] if "EB Train" in of else step_of["EB Train"]
        ratios = None if usual is None else over(of[usual], base)
        return Row(f"{kind}{what}", over(of[ours], base), ratios, limit)

    rows = [
        Row(f"{kind}step of EB Train ÷ plain step", over(step_of["EB Train"], step_of["plain"]), limit=1.01),
        row("step of WORM ÷ of EB Train", step_of, "gradient", "loop", 1.01),
        row("step of WORM, target `update` ÷ of EB Train", step_of, "update", None, 1.01),
        row("step of WORM, target `fade` ÷ of EB Train", step_of, "fade", None, 1.01),
        row("step of WORM ÷ of EB Train, timed whole", whole, "gradient", "loop"),
        row("the same on the wall's clock", walls, "gradient", "loop"),
        row("the truncation alone ÷ step of EB Train", own, "gradient", "loop", 0.01),
        row("the same, target `update`", own, "update", None, 0.01),
        row("the same, target `fade`", own, "fade", None, 0.01),
        row("step with Fisher scores of heads and neurons ÷ of EB Train", step_of, "fisher", None, 1.01),
        row("the gathering alone ÷ step of EB Train", own, "fisher", None, 0.01),
        row("the same, of query's and key's single weights", own, "weights", None, 0.01),
    ]
    truncations = {f"truncation, {name}": values for name, values in own.items()}
    return rows, {f"steps of {batch} rows": medians({**whole, **truncations})}


class StepTimes(TrainerCallback):
    """What each optimizer step takes, from its first forward pass to the update's end."""

    def __init__(self) -> None:
        self.steps: list[Seconds] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def on_backward(self) -> None:
        self.after = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.steps.append(Seconds(cpu - self.cpu, wall - self.wall, cpu - self.after))


class AtTheTrigger(TrainerCallback):
    """Takes two masks when a search begins: the trigger point is behind it, and no sampling falls into a timed step."""

    def __init__(self, trainer: WormTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        search = self.trainer.search
        assert search is not None
        for _ in range(2):
            search.observe()


def trainers(model: BertForSequenceClassification, rounds: int, batch: int, length: int) -> tuple[list[Row], Times]:
    """Steps of `WormTrainer` and of the plain `Trainer`, in blocks of three on equal models."""
    ids = torch.randint(0, model.config.vocab_size, (3 * batch, length))
    data = [{"input_ids": row, "labels": i % 2} for i, row in enumerate(ids)]

    def block(folder: str, config: WormConfig | None) -> Callable[[], Seconds]:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            max_steps=3,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        clock = StepTimes()
        given: dict[str, Any] = {
            "model": copy.deepcopy(model),
            "args": args,
            "train_dataset": data,
            "callbacks": [clock],
        }
        trainer = Trainer(**given) if config is None else WormTrainer(worm_config=config, **given)
        trainer.remove_callback(PrinterCallback)
        if isinstance(trainer, WormTrainer):
            trainer.add_callback(AtTheTrigger(trainer))
        train = trainer.search_ticket if isinstance(trainer, WormTrainer) else trainer.train
        backward = trainer.accelerator.backward
        trainer.accelerator.backward = lambda *args, **kwargs: (backward(*args, **kwargs), clock.on_backward())

        def run() -> Seconds:
            clock.steps.clear()
            train()
            warm = clock.steps[1:]  # the first makes the optimizer's state and the factors
            return Seconds(*map(statistics.mean, zip(*warm, strict=True)))

        return run

    never = {**AT_ONCE, "sample_strategy": "steps", "sample_steps": 10**6}
    configs = {"plain": None, "EB Train": WormConfig.eb_train(**never), "gradient": WormConfig(**never)}
    with tempfile.TemporaryDirectory() as folder:
        times = interleaved({name: block(folder, config) for name, config in configs.items()}, rounds)
    of, whole = steps_of(times), {name: cpu(seconds) for name, seconds in times.items()}
    kind = f"all-MiniLM-L6, {batch} × {length} tokens, `WormTrainer`: "
    rows = [
        Row(f"{kind}step of EB Train ÷ of plain `Trainer`", over(of["EB Train"], of["plain"]), limit=1.01),
        Row(f"{kind}step of WORM ÷ of EB Train", over(of["gradient"], of["EB Train"]), limit=1.01),
        Row(f"{kind}step of WORM ÷ of EB Train, timed whole", over(whole["gradient"], whole["EB Train"])),
    ]
    return rows, {f"trainers, {batch} rows": medians(whole)}


def sampling(model: nn.Module, rounds: int) -> tuple[list[Row], Times]:
    """Masks, distances and truncations by themselves, on the query and key matrices of a BERT-base."""
    weights = query_and_key(model)
    search = observed(model, WormConfig(stopping_point=0.0, margin=0.0), 3)
    truncating = observed(model, WormConfig(truncation=0.9, **AT_ONCE), 2)
    window = MaskWindow(3)
    packed, masks = search.state_dict()["window"], search.masks
    units = sum(weight.numel() for weight in weights.values())
    for older in packed:
        window.push(older, units)
    unpacked = [{name: mask.clone() for name, mask in masks.items()} for _ in range(2)]
    gradients = {name: torch.ones_like(weight) for name, weight in weights.items()}
    others = [torch.ones_like(weight) for weight in weights.values()]
    for name, weight in weights.items():
        weight.grad = gradients[name]

    def sample_and_truncate() -> None:
        truncating.observe()
        truncating.truncate_gradients()

    times = interleaved(
        {
            "read": timed(lambda: read_once(weights)),
            "sampling": timed(search.observe),
            "sampling, new factors, truncation": timed(sample_and_truncate),
            "distances": timed(lambda: window.push(packed[-1], units)),
            "truncation": timed(truncating.truncate_gradients),
            "multiply-add": timed(lambda: torch._foreach_add_(list(gradients.values()), others, alpha=1e-3)),
            "loop: sampling": timed(lambda: prune_on_copies(weights)),
            "loop: distances": timed(lambda: compare(masks, unpacked)),
            "loop: truncation": timed(lambda: multiply_gradients(gradients, masks, 0.9)),
            "loop: truncation by index": timed(lambda: index_gradients(gradients, masks, 0.9)),
        },
        rounds,
    )
    for weight in weights.values():
        weight.grad = None
    of = {name: cpu(seconds) for name, seconds in times.items()}

    def row(what: str, name: str, loop: str, base: str = "read", limit: float | None = None) -> Row:
        return Row(f"BERT-base: {what}", over(of[name], of[base]), over(of[f"loop: {loop}"], of[base]), limit)

    first, index = "sampling, new factors, truncation", "straightforward by an index, `grad[~mask] *= r`"
    rows = [
        row("sampling ÷ one read of the weights (`abs().sum()`)", "sampling", "sampling", limit=4),
        row("sampling, new factors and a truncation ÷ one read", first, "sampling"),
        row("distances to two older masks ÷ one read", "distances", "distances"),
        row("truncation ÷ one multiply-add pass over the gradients", "truncation", "truncation", "multiply-add", 1),
        row(f"the same; {index}", "truncation", "truncation by index", "multiply-add"),
    ]
    return rows, {"sampling": medians(of)}


def nbytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def memory(model: nn.Module) -> list[Row]:
    """Bytes per watched weight: held by a search with a full window, and above that while masks are sampled."""
    weights = query_and_key(model)
    units = sum(weight.numel() for weight in weights.values())
    search = observed(model, WormConfig(truncation_target="update", **AT_ONCE), 3)
    window = nbytes(mask for masks in search.state_dict()["window"] for mask in masks.values()) / units
    search._renew_treatment()
    factors = nbytes(search.treatment.scales) / units
    copies = nbytes(weights.values()) / units  # kept from step to step, where the loop makes them at each
    masks = 3 * nbytes(search.masks.values()) / units
    rows = [
        Row("bytes per weight: window of 3 masks", [window], [masks], 3 / 8),
        Row("bytes per weight: window, and what truncation keeps", [window + factors], [masks]),
        Row("bytes per weight: the same, target `update`", [window + factors + copies], [masks + copies]),
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.map(peak, [(name, torch.get_num_threads()) for name in ("ours", "loop")], chunksize=1)
    if None not in peaks:
        rows.append(Row("bytes per weight: most while sampling the first mask", *([value] for value in peaks)))
    return rows


def peak(job: tuple[str, int]) -> float | None:
    """In a process of its own: the most memory taken while one mask is sampled, in bytes per weight."""
    name, threads = job
    torch.set_num_threads(threads)

    def sample(model: nn.Sequential) -> object:
        if name == "ours":
            return observed(model, WormConfig(layers=["*"]), 1)
        return prune_on_copies(dict(model.named_parameters()))

    sample(squares(2, 64))  # loads what is loaded on first use
    model = squares(24, 768)
    before = resident("VmRSS", reset=True)
    kept = sample(model)
    most = resident("VmHWM")
    del kept
    return None if before is None or most is None else (most - before) / (24 * 768**2)


def resident(line: str, reset: bool = False) -> int | None:
    """Bytes of memory in use (`"VmRSS"`), or the most since the last reset (`"VmHWM"`); `None` where not Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * proc("/proc/self/status")[line]


def proc(path: str) -> dict[str, int]:
    """Lines such as `MemAvailable:  123 kB` of a file."""
    fields = (line.partition(":") for line in Path(path).read_text().splitlines())
    return {name: int(value.split()[0]) for name, _, value in fields if value.endswith("kB")}


def squares(count: int, width: int) -> nn.Sequential:
    """So many layers of `width` by `width` weights, which are alike, as each is ranked by itself."""
    values = torch.randn(width, width).mul_(0.02)
    layers = [nn.utils.skip_init(nn.Linear, width, width, bias=False) for _ in range(count)]
    for layer in layers:
        layer.weight.data.copy_(values)
    return nn.Sequential(*layers)


class Watched:
    """A model that is watched whole, with gradients, a full window and factors."""

    def __init__(self, count: int, width: int) -> None:
        self.model = squares(count, width)
        self.weights = dict(self.model.named_parameters())
        self.units = count * width**2
        self.search = observed(self.model, WormConfig(layers=["*"], stopping_point=0.0, margin=0.0), 2)
        before = resident("VmRSS", reset=True)
        self.search.observe()
        most = resident("VmHWM")
        self.peak = None if before is None or most is None else (most - before) / self.units
        for weight in self.weights.values():
            weight.grad = torch.ones_like(weight)
        self.truncating = TicketSearch(
            self.model, WormConfig(layers=["*"], truncation=0.9, truncate_from="start", **AT_ONCE)
        )
        self.window = MaskWindow(3)
        for masks in self.search.state_dict()["window"]:
            self.window.push(masks, self.units)

    def actions(self) -> dict[str, Callable[[], object]]:
        newest = self.window.masks[-1]
        return {
            "sampling": self.search.observe,
            "distances": lambda: self.window.push(newest, self.units),
            "truncation": self.truncating.truncate_gradients,
            "one read": lambda: read_once(self.weights),
        }

    def held(self) -> float:
        """Bytes per weight."""
        window = (mask for masks in self.search.state_dict()["window"] for mask in masks.values())
        self.truncating._renew_treatment()
        return (nbytes(window) + nbytes(self.truncating.treatment.scales)) / self.units


def growth(largest: float) -> tuple[list[Row], Times]:
    """What sampling, distances and truncation take per weight, from 10 M to 1 B of them, by turns with 10 M."""
    small = Watched(*SIZES[0])
    found: dict[str, dict[str, list[float]]] = {}  # what is measured → size → ratio of each round
    spent: Times = {}
    left_out: list[Row] = []
    sizes = [(count, width) for count, width in SIZES[1:] if count * width**2 <= largest * 1.1e6]
    for count, width in sizes:
        units = count * width**2
        size = f"{units / 1e6:.0f} M" if units < 1e9 else f"{units / 1e9:.2f} B"
        free = proc("/proc/meminfo")["MemAvailable"] * 1024 if Path("/proc/meminfo").exists() else None
        if free is not None and free < 13 * units + 2**31:  # weights, gradients, factors, masks; and some to spare
            why = f"left out, {free / 1e9:.1f} GB of memory free, {(13 * units + 2**31) / 1e9:.1f} GB needed"
            left_out.append(Row(f"{size} watched: {why}", []))
            continue
        say(f"growth: {size}")
        large = Watched(count, width)
        actions = {("large", name): timed(action) for name, action in large.actions().items()}
        actions |= {("small", name): timed(action) for name, action in small.actions().items()}
        times = interleaved({" ".join(name): action for name, action in actions.items()}, GROWTH_ROUNDS)
        for name in large.actions():
            ratios = over(cpu(times[f"large {name}"]), cpu(times[f"small {name}"]))
            per_weight = [ratio * small.units / units for ratio in ratios]
            found.setdefault(f"{name}, seconds per weight ÷ at 10 M", {})[size] = per_weight
        found.setdefault("bytes per weight, held while truncating", {})[size] = [large.held()]
        if large.peak is not None:
            found["bytes per weight, most while sampling"] = {size: [large.peak]}
        spent[f"growth, {size}"] = medians({name: cpu(seconds) for name, seconds in times.items()})
        del large, actions, times
        gc.collect()
    rows: list[Row] = []
    for what, by_size in found.items():
        *smaller, last = by_size
        others = ", ".join(f"{statistics.median(by_size[size]):.2f} at {size}" for size in smaller)
        rows.append(Row(f"{last} watched: {what}" + (f" ({others})" if others else ""), by_size[last]))
    return rows + left_out, spent


def table(results: dict[str, Any], rows: list[Row]) -> str:
    on, (before, after) = results["machine"], results["load_averages"]
    busy = "it was not idle, and seconds mean little." if before > 0.3 else "it was idle before."
    times = "; ".join(
        f"{block}: " + ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in of.items())
        for block, of in results["median_cpu_seconds"].items()
    )
    return "\n".join(
        [
            "# Overhead",
            "",
            f"`{results['command']}` on {on['cpu']}, {on['threads']} thread{'s' * (on['threads'] > 1)}, torch "
            f"{on['torch']}, transformers {on['transformers']}, fp32, random weights. The load average of the machine "
            f"was {before:.1f} at the beginning and {after:.1f} at the end, on {on['cores']} cores: {busy} Ratios are "
            "of CPU seconds, save where the wall's clock is named.",
            "",
            "Medians, with quartiles and the number of rounds. A round runs all that is compared in one process, in an "
            "order drawn anew and once more in the reverse, and gives a ratio. *Straightforward*: "
            "`prune.l1_unstructured` on copies, boolean masks, `grad.mul_(where(mask, 1, r))` for each parameter.",
            "",
            "| what | ours | straightforward | ours ÷ straightforward | limit | met |",
            "| --- | --- | --- | --- | --- | --- |",
            *map(str, rows),
            "",
            NOTES,
            "",
            f"Medians of CPU time: {times}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", help="folder of the results")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of whole steps; of what is short twice as many")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="rows of a step, one size after another")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--largest", type=float, default=1000, help="the largest size to grow to, in million weights")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch: idle ones of several count as work")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    given = (
        f"--rounds {options.rounds} --batch {' '.join(map(str, options.batch))} --length {options.length} "
        f"--largest {options.largest:g} --threads {options.threads}"
    )
    load = os.getloadavg()[0]
    model = BertForSequenceClassification(BertConfig(num_labels=2))
    say("sampling, distances, truncation")
    rows, spent = sampling(model, 2 * options.rounds)
    say("memory")
    rows += memory(model)
    of_steps: list[Row] = []
    for batch in options.batch:
        say(f"steps of a BERT-base, {batch} rows")
        found, seconds = steps(model, options.rounds, batch, options.length)
        of_steps, spent = [*of_steps, *found], {**spent, **seconds}
    model = BertForSequenceClassification(BertConfig(num_labels=2, **MINILM))
    for batch in options.batch:
        say(f"steps of an all-MiniLM-L6 in the Trainer, {batch} rows")
        found, seconds = trainers(model, options.rounds, batch, options.length)
        of_steps, spent = [*of_steps, *found], {**spent, **seconds}
    del model
    say("growth")
    of_growth, spent_on_growth = growth(options.largest)
    rows = [*of_steps, *rows, *of_growth]
    results = {
        "command": f"python benchmarks/speed/overhead.py {given}",
        "machine": {**machine(), "cores": os.cpu_count()},
        "load_averages": [load, os.getloadavg()[0]],
        "rows": [{**asdict(row), "met": row.met} for row in rows],
        "median_cpu_seconds": {**spent, **spent_on_growth},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "overhead.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.out / "overhead.md").write_text(table(results, rows))
    print(table(results, rows))


if __name__ == "__main__":
    main()
