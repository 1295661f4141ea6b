"""How good models of a given speed are: tickets by several scores, from one search, against dense and random ones.

    python benchmarks/accuracy/speedups.py --data FOLDER [--tasks sst2 mrpc] [--seeds 1 2 3] [--methods dense fisher]

`FOLDER` holds `glue` and `banking77`, laid out as on the Hub. For each task and seed a dense model is searched once,
and every ticket is drawn from its kept weights and scores, cut out, and retrained. Each finished run is a line of
`--records`; what is there is not run again, so an interrupted command goes on where it was. Without `--tasks` nothing
is run, and the page is written from the lines that there are.

The loop is plain PyTorch over `TicketSearch`: AdamW, a linear schedule without warmup for each phase, gradients clipped
at norm 1, autocast to bfloat16, batches of rows of similar length.
"""

import argparse
import copy
import fcntl
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from sklearn.metrics import matthews_corrcoef
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

from machine import machine, packaged_model

from hf_worm import RepresentativeLayer, Ticket, TicketSearch, WormConfig
from hf_worm.core.budget import largest
from hf_worm.report.speed import counts

BATCH = 32
UNITS = ["heads", "neurons"]
Masks = dict[str, torch.Tensor]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """What is trained on, and for how long.

    Args:
        columns (`tuple[str, ...]`): Those of the texts.
        labels (`int`): How many classes there are.
        epochs (`int`): Epochs of training in all.
        search (`int`): Of these, epochs of the search.
        rows (`int`, *optional*): Rows that are trained on, if not all.
        held_out (`int`): Further rows of the training set that are evaluated on.
        length (`int`): Tokens of a row at the most.
        metric (`str`): `"accuracy"` or `"matthews"`.
    """

    columns: tuple[str, ...]
    labels: int
    epochs: int
    search: int
    rows: int | None = None
    held_out: int = 0
    length: int = 128
    metric: str = "accuracy"


TASKS = {
    "sst2": Task(("sentence",), 2, epochs=4, search=1, rows=8192, held_out=10_000),
    "mrpc": Task(("sentence1", "sentence2"), 2, epochs=6, search=2),
    "cola": Task(("sentence",), 2, epochs=8, search=2, held_out=2000, metric="matthews"),
    "banking77": Task(("text",), 77, epochs=8, search=2),
}


# Rows.


@dataclass
class Rows:
    """Tokenized rows: lists of `input_ids`, and labels."""

    inputs: list[dict[str, list[int]]]
    labels: list[int]

    def batches(self, pad: Callable[..., Any], shuffle: random.Random | None) -> Iterator[Batch]:
        """Batches of rows of similar length, padded; in an order of their own if shuffled."""
        order = list(range(len(self.labels)))
        if shuffle is not None:
            shuffle.shuffle(order)
        wide = BATCH * 50 if shuffle is not None else len(order)
        found = []
        for start in range(0, len(order), wide):
            some = sorted(order[start : start + wide], key=lambda row: -len(self.inputs[row]["input_ids"]))
            found += [some[first : first + BATCH] for first in range(0, len(some), BATCH)]
        if shuffle is not None:
            shuffle.shuffle(found)
        for rows in found:
            batch = dict(pad([self.inputs[row] for row in rows], return_tensors="pt"))
            yield {**batch, "labels": torch.tensor([self.labels[row] for row in rows])}


def read(name: str, data: Path, model: str) -> tuple[Rows, dict[str, Rows], Callable[..., Any]]:
    """The rows to train on, those to evaluate on by their name, and what pads them."""
    task = TASKS[name]
    folder = data / "banking77" if name == "banking77" else data / "glue"
    split = "test" if name == "banking77" else "validation"
    found = load_dataset(str(folder)) if name == "banking77" else load_dataset(str(folder), name)
    train = found["train"].shuffle(seed=0)  # the same rows for all seeds
    held = train.select(range(task.held_out))
    train = train.select(range(task.held_out, len(train) if task.rows is None else task.held_out + task.rows))
    tokenizer = AutoTokenizer.from_pretrained(model)

    def tokenized(rows: Dataset) -> Rows:
        texts = [list(rows[column]) for column in task.columns]
        made = tokenizer(*texts, truncation=True, max_length=task.length)
        inputs = [{key: made[key][row] for key in made} for row in range(len(rows))]
        return Rows(inputs, list(rows["label"]))

    evaluated = {split: tokenized(found[split])}
    if task.held_out:
        evaluated["held out"] = tokenized(held)
    return tokenized(train), evaluated, tokenizer.pad


# Training.


@dataclass
class Work:
    """One task and seed.

    Args:
        name (`str`): The task.
        seed (`int`): Of the head's weights, the order of the rows and dropout.
        data, model: Where they are.
        kept (`Path`): The folder of kept searches.
        rate (`float`): The learning rate.
    """

    name: str
    seed: int
    data: Path
    model: str
    kept: Path
    rate: float

    def __post_init__(self) -> None:
        self.task = TASKS[self.name]
        self.train_rows, self.evaluated, self.pad = read(self.name, self.data, self.model)

    def fresh(self) -> nn.Module:
        """The pretrained model, with a head of the seed."""
        torch.manual_seed(self.seed)
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
            self.model, num_labels=self.task.labels, dtype=torch.float32
        )
        return model

    def train(
        self,
        model: nn.Module,
        epochs: int,
        phase: int = 0,
        before_step: Callable[[torch.optim.Optimizer], None] | None = None,
        loss_of: Callable[[Batch, Any], torch.Tensor] = lambda batch, outputs: outputs.loss,
        begin: Callable[[torch.optim.Optimizer], None] | None = None,
        epoch_end: Callable[[int], None] | None = None,
    ) -> float:
        """Train for so many epochs; CPU seconds that it took."""
        begun = time.process_time()
        torch.manual_seed(1000 * self.seed + phase)
        shuffle = random.Random(1000 * self.seed + phase)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=0.0, fused=True)
        steps = epochs * math.ceil(len(self.train_rows.labels) / BATCH)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0))
        if begin is not None:
            begin(optimizer)
        model.train()
        for epoch in range(epochs):
            for batch in self.train_rows.batches(self.pad, shuffle):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_of(batch, model(**batch))
                loss.backward()
                if before_step is not None:
                    before_step(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            if epoch_end is not None:
                epoch_end(epoch)
        return time.process_time() - begun

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The metric, in percent, on each set of rows; and on all of them together."""
        model.eval()
        found, right, truth = {}, [], []
        for name, rows in self.evaluated.items():
            said, labels = [], []
            for batch in rows.batches(self.pad, None):
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                    logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
                said += logits.argmax(-1).tolist()
                labels += batch["labels"].tolist()
            found[name] = self._metric(labels, said)
            right, truth = right + said, truth + labels
        return {**found, "all": self._metric(truth, right)}

    def _metric(self, labels: list[int], said: list[int]) -> float:
        if self.task.metric == "matthews":
            return 100 * float(matthews_corrcoef(labels, said))
        return 100 * sum(one == other for one, other in zip(labels, said, strict=True)) / len(labels)

    def searched(self, epochs: int) -> dict[str, Any]:
        """The weights and the states of the scores after a search of so many epochs, which is run once."""
        path = self.kept / f"{self.name}-{self.seed}-{epochs}-{self.rate:g}.pt"
        if not path.exists():
            model = self.fresh()
            searches = {name: search(model, score=score, **more) for name, (score, more) in GATHERED.items()}

            def gather(optimizer: torch.optim.Optimizer) -> None:
                for one in searches.values():
                    one.truncate_gradients()

            masks: list[Masks] = []

            def observe(epoch: int) -> None:
                masks.append(searches["fisher"].tickets(speedups=[2.0])[0].masks)

            seconds = self.train(model, epochs, before_step=gather, epoch_end=observe)
            moved = [_distance(one, other) for one, other in pairwise(masks)]
            path.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "weights": model.state_dict(),
                "scores": {name: one.state_dict() for name, one in searches.items()},
                "seconds": seconds,
                "metrics": self.evaluate(model),
                "moved": moved,
            }
            torch.save(state, path.with_suffix(f".{os.getpid()}"))
            os.replace(path.with_suffix(f".{os.getpid()}"), path)
        found: dict[str, Any] = torch.load(path)
        return found


GATHERED: dict[str, tuple[str, dict[str, Any]]] = {
    "fisher": ("fisher", {}),
    "taylor": ("taylor", {}),
    "fisher late": ("fisher", {"score_decay": 0.99}),
}


def search(model: nn.Module, **settings: Any) -> TicketSearch:
    """A search for heads and neurons that truncates nothing."""
    return TicketSearch(model, WormConfig.eb_train(**{"layers": UNITS, "speedup": 2.0, "scope": "global", **settings}))


def _distance(one: Masks, other: Masks) -> float:
    units = sum(mask.numel() for mask in one.values())
    return sum(int((mask != other[name]).sum()) for name, mask in one.items()) / units


# Tickets.


class Given:
    """Scores that are given: for random units, or those of one kind by another rule."""

    def __init__(self, name: str, values: Callable[[RepresentativeLayer], torch.Tensor]) -> None:
        self.name, self._values = name, values

    def accumulate(self, layers: Sequence[RepresentativeLayer]) -> None:
        """Nothing."""

    def of(self, layer: RepresentativeLayer) -> torch.Tensor:
        return self._values(layer)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Method:
    """How a ticket is made, and how it is retrained.

    Args:
        title (`str`): For the tables.
        score (`str`): One of `GATHERED`, `"magnitude"` or `"random"`.
        scope (`str`): Of the budget: `"global"` or `"layer"`; or `"as fisher"`: each layer keeps as many units as by
            Fisher over all layers.
        before (`bool`): The ticket is that of the weights before fine-tuning, and is trained for all epochs.
        distillation (`float`): Share of the loss that is the distance to the model before the draw.
        repair (`str`): What is done to the weights that stay at the draw: nothing, `"bias"` or `"squares"`.
        search (`int`, *optional*): Epochs of the search, if not the task's.
    """

    title: str
    score: str
    scope: str = "global"
    before: bool = False
    distillation: float = 0.0
    repair: str = ""
    search: int | None = None


METHODS = {
    "fisher": Method("Fisher, over all layers", "fisher"),
    "fisher each": Method("Fisher, the same share of each layer", "fisher", "layer"),
    "magnitude": Method("L1 norm, the same share of each layer", "magnitude", "layer"),
    "random": Method("random units, the same share of each layer", "random", "layer"),
    "taylor": Method("Taylor, over all layers", "taylor"),
    "fisher late": Method("Fisher of the last hundred steps, over all layers", "fisher late"),
    "magnitude as fisher": Method("L1 norm, as many of each layer as by Fisher", "magnitude", "as fisher"),
    "random as fisher": Method("random units, as many of each layer as by Fisher", "random", "as fisher"),
    "fisher, bias repaired": Method("Fisher, biases repaired", "fisher", repair="bias"),
    "fisher, least squares": Method("Fisher, weights by least squares", "fisher", repair="squares"),
    "random, least squares": Method("random units, weights by least squares", "random", "layer", repair="squares"),
    "before": Method("L1 norm before fine-tuning, the same share", "magnitude", "layer", before=True),
    "fisher, distilled": Method("Fisher, distilled", "fisher", distillation=0.5),
    "random, distilled": Method("random units, distilled", "random", "layer", distillation=0.5),
    "magnitude, distilled": Method("L1 norm, distilled", "magnitude", "layer", distillation=0.5),
}
# What is asked for, by its name: a speed, or a share of each kind.
ASKED: dict[str, dict[str, Any]] = {
    "2x": {"speedup": 2.25},  # by multiply-adds: what is not a product of matrices stays as slow as it was
    "3x": {"speedup": 3.5},
    "neurons 0.75, heads 0.5": {"heads": 0.5, "neurons": 0.75},
    "neurons 0.75": {"neurons": 0.75},
    "neurons 0.5": {"neurons": 0.5},
    "heads 0.5": {"heads": 0.5},
}


def masks_of(
    model: nn.Module, method: Method, asked: Mapping[str, float], scores: Mapping[str, Any], seed: int
) -> Masks:
    """The masks of the ticket that a method makes of a searched model."""
    if method.scope == "as fisher":
        like = masks_of(model, METHODS["fisher"], asked, scores, seed)
        layers = search(model).layers
        values = {layer.name: _scores(model, method, scores, seed, layer) for layer in layers}
        return {name: largest(values[name].flatten().cpu(), int(mask.sum())) for name, mask in like.items()}
    given = Given(method.score, lambda layer: _scores(model, method, scores, seed, layer))
    if "speedup" in asked:
        settings: dict[str, Any] = {"speedup": asked["speedup"], "scope": method.scope}
    else:
        settings = {"speedup": None, "scope": "layer", "layers": [f"{kind}={share}" for kind, share in asked.items()]}
    config = WormConfig.eb_train(**{"layers": UNITS, **settings})
    if method.score == "random" and "speedup" in asked:  # the same share of heads and of neurons
        return _random_masks(model, asked["speedup"], seed)
    one = TicketSearch(model, config, score=given)
    one.observe()
    return {name: mask.cpu() for name, mask in one.masks.items()}


def _random_masks(model: nn.Module, speedup: float, seed: int) -> Masks:
    """Random units: of heads and neurons the same share, so large that the multiply-adds fit."""
    goal = search(model, speedup=speedup, scope="layer", score="magnitude")
    goal.observe()
    layers = {layer.name: layer for layer in goal.layers}
    weights = {
        name: sum(view.weight.numel() for view in layer.views) / layer.shape.numel() for name, layer in layers.items()
    }
    budget = sum(weights[name] * int(mask.sum()) for name, mask in goal.masks.items())
    share = budget / sum(weights[name] * layer.shape.numel() for name, layer in layers.items())
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name, layer in layers.items():
        heads = layer.granularity == "head"
        count = layer.shape.numel() * share
        kept[name] = largest(
            torch.rand(layer.shape, generator=generator), max(round(count) if heads else int(count), 1)
        )
    return kept


def _scores(
    model: nn.Module, method: Method, scores: Mapping[str, Any], seed: int, layer: RepresentativeLayer
) -> torch.Tensor:
    if method.score == "random":
        own = sum(map(ord, layer.name))
        return torch.rand(layer.shape, generator=torch.Generator().manual_seed(1000 * seed + own))
    if method.score == "magnitude":
        return search(model, score="magnitude", speedup=None, prune_ratio=0.5, scope="layer").score.of(layer)
    kind, more = GATHERED[method.score]
    one = search(model, score=kind, **more)
    one.score.load_state_dict(scores[method.score]["score"])
    return one.score.of(layer)


def repair_(work: Work, model: nn.Module, masks: Masks, how: str, rows: int = 1024) -> None:
    """Have the units that stay take up what goes, in place, before it is set to 0.

    `"bias"`: the bias of the projection that leads out takes up the mean of what goes (FLAP, arXiv:2312.11983).
    `"squares"`: its weights of what stays, and the bias, are those of the least squares over the rows' tokens.
    """
    layers = {layer.views[-1].parameter: layer for layer in search(model).layers}
    outputs = {module: layers[module.weight] for module in model.modules() if getattr(module, "weight", None) in layers}
    sums: dict[nn.Module, list[torch.Tensor]] = {}

    def gather(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen = inputs[0].detach()[mask].double()
        found = [seen.sum(0), seen.T @ seen, torch.tensor(float(len(seen)))]
        sums[module] = [one + other for one, other in zip(sums.get(module, [0.0] * 3), found, strict=True)]

    hooks = [module.register_forward_pre_hook(gather) for module in outputs]
    model.eval()
    some = Rows(work.train_rows.inputs[:rows], work.train_rows.labels[:rows])
    for batch in some.batches(work.pad, None):
        mask = batch["attention_mask"].bool()
        with torch.inference_mode():
            model(**batch)
    for hook in hooks:
        hook.remove()
    for module, layer in outputs.items():
        units = masks[layer.name].repeat_interleave(module.in_features // layer.shape.numel())
        total, squares, count = sums[module]
        mean, weight = total / count, module.weight.data.double()
        covariance = squares / count - mean[:, None] * mean
        kept = weight.clone()
        if how == "squares":
            within = covariance[units][:, units]
            within += 0.01 * within.diagonal().mean() * torch.eye(len(within))
            kept[:, units] += torch.linalg.solve(within, covariance[units][:, ~units] @ weight[:, ~units].T).T
        kept[:, ~units] = 0
        module.bias.data += ((weight - kept) @ mean).float()
        module.weight.data.copy_(kept.float())


def distilled(teacher: nn.Module, share: float, temperature: float = 2.0) -> Callable[[Batch, Any], torch.Tensor]:
    """The loss with a share of the distance to a teacher's outputs: KL of logits, times the squared temperature."""
    teacher.eval()

    def loss_of(batch: Batch, outputs: Any) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher(**{key: value for key, value in batch.items() if key != "labels"}).logits.float()
        said = outputs.logits.float()
        distance = nn.functional.kl_div(
            (said / temperature).log_softmax(-1),
            (wanted / temperature).log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - share) * outputs.loss + share * temperature**2 * distance

    return loss_of


def run(work: Work, method_name: str, asked_name: str) -> dict[str, Any]:
    """One run: what it ends at, and what it took."""
    method = METHODS[method_name]
    epochs = work.task.search if method.search is None else method.search
    model = work.fresh()
    found: dict[str, Any] = {"seconds": 0.0, "metrics": None, "moved": []}
    if not method.before:
        found = work.searched(epochs)
        model.load_state_dict(found["weights"])
    dense = copy.deepcopy(model)
    masks = masks_of(model, method, ASKED[asked_name], found.get("scores", {}), work.seed)
    if method.repair:
        repair_(work, model, masks, method.repair)
    ticket = Ticket(masks, WormConfig.eb_train(layers=UNITS))
    ticket.apply_(model)
    model = ticket.compact(model)
    drawn = work.evaluate(model)
    loss = {} if not method.distillation else {"loss_of": distilled(dense, method.distillation)}
    seconds = work.train(model, work.task.epochs - (0 if method.before else epochs), phase=1, **loss)
    row = {key: torch.tensor([[101] * 24]) for key in ("input_ids",)}
    fewer = counts(dense, row)["multiply_adds"] / counts(model, row)["multiply_adds"]
    return {
        "search_metrics": found["metrics"],
        "drawn": drawn,
        "end": work.evaluate(model),
        "search_seconds": found["seconds"],
        "seconds": seconds,
        "fewer_multiply_adds": fewer,
        "kept": {name: int(mask.sum()) for name, mask in masks.items()},
        "moved": found["moved"],
        "search_epochs": epochs,
    }


def dense_run(work: Work) -> dict[str, Any]:
    """Dense fine-tuning at the same number of epochs, in one schedule."""
    model = work.fresh()
    seconds = work.train(model, work.task.epochs)
    return {"end": work.evaluate(model), "seconds": seconds, "search_seconds": 0.0}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--tasks", nargs="*", default=[], choices=list(TASKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="*", default=["dense", "fisher", "magnitude", "random"])
    parser.add_argument("--asked", nargs="*", default=["2x"], choices=list(ASKED))
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--records", type=Path, default=Path(__file__).parent.parent / "results" / "speedups.jsonl")
    parser.add_argument("--kept", type=Path, default=Path("runs") / "speedups")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = given.model or packaged_model()
    for seed in given.seeds:
        for name in given.tasks:
            work: Work | None = None
            wanted = [
                (method, asked)
                for method in given.methods
                for asked in (["dense"] if method == "dense" else given.asked)
            ]
            for method, asked in wanted:
                key = {"task": name, "seed": seed, "method": method, "asked": asked, "rate": given.rate}
                if _is_done(given.records, key):
                    continue
                work = work or Work(name, seed, given.data, model, given.kept, given.rate)
                record = {
                    **key,
                    "machine": machine(),
                    "fused": True,
                    **(dense_run(work) if method == "dense" else run(work, method, asked)),
                }
                _append(given.records, record)
                print(json.dumps({**key, "drawn": record.get("drawn"), "end": record["end"]}), flush=True)
    if not given.tasks and given.records.exists():
        import speed_page  # it takes the tables of what is run from here

        records = [json.loads(line) for line in given.records.read_text().splitlines()]
        speed_page.write(
            records,
            given.records.with_suffix(".md"),
            "python benchmarks/accuracy/speedups.py --data FOLDER --tasks TASK --seeds SEED --methods METHOD",
        )


def _is_done(path: Path, key: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    records = map(json.loads, path.read_text().splitlines())
    return any(all(record[name] == value for name, value in key.items()) for record in records)


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
