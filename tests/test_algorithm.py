"""`WormTrainer`, a plain loop with `TicketSearch`, and a line-by-line transcription of the paper's Algorithm 1."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import default_collate
from training import (
    BATCHNORMS,
    QUERY_AND_KEY,
    SequentialTrainer,
    examples,
    images,
    same_weights,
    weights,
    without_dropout,
    worm_trainer,
)
from transformers import BertForSequenceClassification, get_scheduler

from hf_worm import TicketSearch, WormConfig, WormTrainer

BATCH = 8
Rows = list[dict[str, Any]]
Masks = dict[str, torch.Tensor]


class Block:
    """A parameter, of which each unit owns some neighbouring rows, or columns."""

    def __init__(self, parameter: nn.Parameter, units: int, columns: bool = False) -> None:
        self.parameter, self.units, self.columns = parameter, units, columns

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.t() if self.columns else tensor
        return tensor.unflatten(0, (self.units, -1))

    @property
    def data(self) -> torch.Tensor:
        return self.of(self.parameter.data)

    @property
    def grad(self) -> torch.Tensor:
        return self.of(self.parameter.grad)

    def detach(self) -> torch.Tensor:
        return self.data


def neurons_and_heads(bert: nn.Module) -> dict[str, list[Block]]:
    found = {}
    for place, block in enumerate(bert.bert.encoder.layer):
        own, heads = block.attention.self, block.attention.self.num_attention_heads
        into = [p for projection in (own.query, own.key, own.value) for p in projection.parameters()]
        out = block.attention.output.dense.weight
        found[f"bert.encoder.layer.{place}.attention.self.query.weight"] = [Block(p, heads) for p in into]
        found[f"bert.encoder.layer.{place}.attention.self.query.weight"].append(Block(out, heads, columns=True))
        into, out = list(block.intermediate.dense.parameters()), block.output.dense.weight
        found[f"bert.encoder.layer.{place}.intermediate.dense.weight"] = [Block(p, len(p)) for p in into]
        found[f"bert.encoder.layer.{place}.intermediate.dense.weight"].append(Block(out, out.shape[1], columns=True))
    return found


def watched_units(model: nn.Module, config: WormConfig) -> dict[str, list[Any]]:
    """By the layer's name, what is truncated and drawn: a query or key alone, γ of a BatchNorm with its β, blocks."""
    if any("neurons" in entry for entry in config.layers):
        return neurons_and_heads(model)
    parameters = dict(model.named_parameters())
    parts = {name: [name] for name in QUERY_AND_KEY}
    parts |= {f"{norm}.weight": [f"{norm}.weight", f"{norm}.bias"] for norm in BATCHNORMS}
    return {name: [parameters[part] for part in parts[name]] for name in parts if name in parameters}


def naive_mask(weight: torch.Tensor, prune_ratio: float) -> torch.Tensor:
    order = weight.detach().abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[order[: round(prune_ratio * weight.numel())]] = False
    return mask.view(weight.shape)


def naive_scores(parts: list[Any]) -> torch.Tensor:
    if isinstance(parts[0], Block):
        return torch.stack([sum(part.data[unit].abs().sum() for part in parts) for unit in range(parts[0].units)])
    return parts[0].detach()


def naive_gates(parts: list[Any]) -> torch.Tensor:
    """The derivative of the loss by a factor on what each unit puts out."""
    if isinstance(parts[0], Block):  # the projection that leads out is the last
        weight, gradient = parts[-1].data, parts[-1].grad
        return torch.stack([(weight[unit] * gradient[unit]).sum() for unit in range(parts[0].units)])
    return sum(part.data * part.grad for part in parts)  # a weight alone, or γ and β


class NaiveScore:
    """What is ranked, before its absolute value: weights, or the mean of what gate gradients were in all steps."""

    def __init__(self, watched: dict[str, list[Any]], config: WormConfig) -> None:
        self.watched, self.config = watched, config
        self.steps: list[dict[str, torch.Tensor]] = []

    def gather(self) -> None:
        if self.config.score == "magnitude":
            return
        gates = {name: naive_gates(parts) for name, parts in self.watched.items()}
        self.steps.append(
            {name: gate**2 if self.config.score == "fisher" else gate.abs() for name, gate in gates.items()}
        )

    def of(self, name: str) -> torch.Tensor:
        if self.config.score == "magnitude":
            return naive_scores(self.watched[name])
        if self.config.score_decay is None:
            return sum(step[name] for step in self.steps) / len(self.steps)
        ages = range(len(self.steps) - 1, -1, -1)
        return sum(self.config.score_decay**age * step[name] for age, step in zip(ages, self.steps, strict=True))


def naive_ratio(name: str, config: WormConfig) -> float:
    """p, or what an entry such as `heads=0.5` says instead."""
    own = dict(entry.split("=") for entry in config.layers if "=" in entry)
    return float(own.get("neurons" if "intermediate" in name else "heads", config.prune_ratio))


def naive_masks(score: NaiveScore) -> Masks:
    config = score.config
    scored = {name: score.of(name) for name in score.watched}
    if config.scope == "layer":
        return {name: naive_mask(weight, naive_ratio(name, config)) for name, weight in scored.items()}
    together = naive_mask(torch.cat([weight.flatten() for weight in scored.values()]), config.prune_ratio)
    masks = together.split([weight.numel() for weight in scored.values()])
    return {name: mask.view(scored[name].shape) for name, mask in zip(scored, masks, strict=True)}


def naive_distance(first: Masks, second: Masks) -> float:
    differing = sum(int((first[name] != second[name]).sum()) for name in first)
    return differing / sum(mask.numel() for mask in first.values())


def batches_of(rows: Rows) -> list[dict[str, torch.Tensor]]:
    return [default_collate(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]


def decay(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=steps)


def algorithm_1(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    config: WormConfig,
    epochs: int,
    max_grad_norm: float,
) -> dict[str, Any]:
    batches = batches_of(rows)
    schedule = decay(optimizer, epochs * len(batches))
    watched = watched_units(model, config)
    score = NaiveScore(watched, config)
    truncating = config.truncate_from == "start"
    newest = naive_masks(score) if truncating else {}  # of the first weights
    converged = False
    window: list[Masks] = []
    all_distances, all_truncating = [], []
    model.train()
    for _ in range(epochs):
        for batch in batches:
            model(**batch)["loss"].backward()
            score.gather()
            old = {part: part.detach().clone() for parts in watched.values() for part in parts}
            if truncating and config.truncation_target == "gradient":
                for name, parts in watched.items():
                    for part in parts:
                        part.grad[~newest[name]] *= config.truncation
            if max_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            if truncating and config.truncation_target == "update":
                for name, parts in watched.items():
                    for part in parts:
                        small = old[part].lerp(part.data, config.truncation)  # old + r · (new - old)
                        part.data[~newest[name]] = small[~newest[name]]
            if truncating and config.truncation_target == "fade":
                fade = 0.01 ** (1 / (config.fade_epochs * len(batches)))
                scale = fade * config.truncation  # fade · (old + r · (new - old)), as `lerp` has it
                for name, parts in watched.items():
                    for part in parts:
                        small = (old[part] * (fade * (1 - config.truncation) / (1 - scale))).lerp(part.data, scale)
                        part.data[~newest[name]] = small[~newest[name]]
            schedule.step()
            optimizer.zero_grad()
        newest = naive_masks(score)
        window = [*window, newest][-config.window :]
        distances = [naive_distance(older, newest) for older in window[:-1]]
        if distances and sum(distances) / len(distances) < config.stopping_point + config.margin:
            truncating = True
        all_distances.append(tuple(distances))
        all_truncating.append(truncating)
        if len(window) == config.window and max(distances) < config.stopping_point:
            doomed = sum(naive_scores(parts)[~newest[name]].double().abs().sum() for name, parts in watched.items())
            whole = sum(naive_scores(parts).double().abs().sum() for parts in watched.values())
            converged = config.truncation_target != "fade" or bool(doomed / whole < 0.03)
            if converged:
                break
    return {"masks": newest, "distances": all_distances, "truncating": all_truncating, "converged": converged}


def draw_and_retrain(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    masks: Masks,
    config: WormConfig,
    max_grad_norm: float,
) -> None:
    """The lines after the algorithm's loop, with an epoch of retraining."""
    batches = batches_of(rows)
    schedule = decay(optimizer, len(batches))
    watched = watched_units(model, config)
    for batch in [None, *batches]:  # the draw, and a draw after every step
        if batch is not None:
            model(**batch)["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        for name, parts in watched.items():
            for part in parts:
                part.data[~masks[name]] = 0


def plain_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    epochs: int,
    max_grad_norm: float,
    search: TicketSearch | None = None,
) -> None:
    """As a user writes it; without a search it is the loop of the retraining."""
    batches = batches_of(rows)
    schedule = decay(optimizer, epochs * len(batches))
    if search is not None:
        search.attach(optimizer, steps_per_epoch=len(batches))
    model.train()
    for _ in range(epochs):
        for batch in batches:
            model(**batch)["loss"].backward()
            if search is not None:
                search.truncate_gradients()
            if max_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if search is not None and search.observe().converged:
            break


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    transformer = isinstance(model, BertForSequenceClassification)
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=2e-3 if transformer else 0.01, weight_decay=0.01)
    watched = [part for parts in watched_units(model, WormConfig()).values() for part in parts]
    others = [parameter for parameter in model.parameters() if all(parameter is not part for part in watched)]
    rates = (1.0, 1e-3) if transformer else (0.05, 0.05)  # SGD moves BERT's queries and keys at a rate of their own
    groups = [{"params": parameters, "lr": rate} for parameters, rate in zip((watched, others), rates, strict=True)]
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4)


def awake(bert: BertForSequenceClassification) -> BertForSequenceClassification:
    """Without dropout, and with the weights around queries and keys so large that these have gradients to move by."""
    for name, module in bert.named_modules():
        if isinstance(module, nn.Linear) and f"{name}.weight" not in QUERY_AND_KEY:
            module.weight.data.mul_(10)
    return without_dropout(bert)


def rows_for(model: nn.Module) -> Rows:
    return examples() if isinstance(model, BertForSequenceClassification) else images()


def sequential_trainer(
    model: nn.Module, folder: Path, config: WormConfig, optimizer: str, epochs: int, max_grad_norm: float
) -> WormTrainer:
    return worm_trainer(
        model,
        folder,
        config,
        SequentialTrainer,
        train_dataset=rows_for(model),
        optimizers=(make_optimizer(optimizer, model), None),
        num_train_epochs=epochs,
        max_grad_norm=max_grad_norm,
    )


def check_three_ways(
    model: nn.Module, folder: Path, config: WormConfig, optimizer: str, epochs: int, max_grad_norm: float
) -> None:
    by_the_paper, by_hand = copy.deepcopy(model), copy.deepcopy(model)
    rows = rows_for(model)
    plain = make_optimizer(optimizer, by_the_paper)
    expected = algorithm_1(by_the_paper, plain, rows, config, epochs, max_grad_norm)
    search = TicketSearch(by_hand, config)
    plain_loop(by_hand, make_optimizer(optimizer, by_hand), rows, epochs, max_grad_norm, search)
    trainer = sequential_trainer(model, folder, config, optimizer, epochs, max_grad_norm)
    trainer.search_ticket()

    assert any(max(distances, default=0) > 0 for distances in expected["distances"]), "no mask moved"
    assert any(expected["truncating"][:-1]), "no step was truncated: the settings show nothing"
    for found in (search, trainer.search):
        assert [seen.distances for seen in found.history] == expected["distances"]
        assert [seen.truncating for seen in found.history] == expected["truncating"]
        assert [seen.converged for seen in found.history[:-1]] == [False] * (len(expected["distances"]) - 1)
        assert found.converged == expected["converged"]
        assert found.masks.keys() == expected["masks"].keys()
        assert all(torch.equal(mask, expected["masks"][name]) for name, mask in found.masks.items())
    assert same_weights(weights(model), weights(by_hand))
    assert same_weights(weights(model), weights(by_the_paper))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": 0.003},
        {"truncation": 1.0},
        {"truncation": 0.003, "scope": "global", "prune_ratio": 0.8},
        {"truncation": 0.003, "truncation_target": "update"},
        {"truncation": 0.003, "truncate_from": "start"},
        {"truncation_target": "fade", "fade_epochs": 2.0},
        {"score": "fisher", "stopping_point": 0.1, "margin": 0.15},
        {"score": "taylor", "score_decay": 0.9, "stopping_point": 0.1, "margin": 0.3},
    ],
    ids=["worm", "eb-train", "global", "update", "start", "fade", "fisher", "taylor-decay"],
)
@pytest.mark.parametrize("max_grad_norm", [0.0, 3.0], ids=["unclipped", "clipped"])
def test_bert_goes_the_same_three_ways_bit_for_bit(
    bert: BertForSequenceClassification, tmp_path: Path, optimizer: str, changes: dict[str, Any], max_grad_norm: float
) -> None:
    config = WormConfig(**{"stopping_point": 0.04, "margin": 0.02, **changes})
    check_three_ways(awake(bert), tmp_path, config, optimizer, epochs=6, max_grad_norm=max_grad_norm)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncation": 1.0},
        {"scope": "global", "prune_ratio": 0.7},
        {"truncation_target": "update"},
        {"truncate_from": "start"},
        {"truncation_target": "fade", "fade_epochs": 1.5},
        {"layers": ["neurons=0.75", "heads"]},
        {"score": "fisher", "prune_ratio": 0.6},
        {"score": "fisher", "truncation": 1.0, "score_decay": 0.9},
        {"score": "fisher", "truncation_target": "update"},
        {"score": "fisher", "truncation_target": "fade", "fade_epochs": 1.5},
        {"score": "taylor", "scope": "global", "prune_ratio": 0.4},
    ],
    ids=[
        *("worm", "eb-train", "global", "update", "start", "fade", "own-ratio"),
        *("fisher", "fisher-decay-eb-train", "fisher-update", "fisher-fade", "taylor-global"),
    ],
)
def test_neurons_and_heads_go_the_same_three_ways_bit_for_bit(
    bert: BertForSequenceClassification, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = WormConfig(**{"layers": ["neurons", "heads"], "stopping_point": 0.15, "margin": 0.3, **changes})
    check_three_ways(without_dropout(bert), tmp_path, config, "adamw", epochs=6, max_grad_norm=1.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncation": 1.0, "scope": "global"},
        {"scope": "global", "prune_ratio": 0.7},
        {"truncation_target": "update"},
        {"truncate_from": "start"},
        {"truncate_from": "start", "scope": "global", "truncation_target": "update"},
        {"truncation_target": "fade", "fade_epochs": 1.5, "truncation": 1.0, "prune_ratio": 0.6},
        {"score": "fisher", "stopping_point": 0.2, "margin": 0.2},
        {"score": "taylor", "scope": "global", "stopping_point": 0.2, "margin": 0.2},
    ],
    ids=["worm", "eb-train", "global", "update", "start", "start-global-update", "fade", "fisher", "taylor-global"],
)
def test_a_cnn_goes_the_same_three_ways_bit_for_bit(
    cnn: nn.Module, tmp_path: Path, optimizer: str, changes: dict[str, Any]
) -> None:
    check_three_ways(cnn, tmp_path, WormConfig.cnn(**changes), optimizer, epochs=9, max_grad_norm=1.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["bert", "cnn"])
def test_the_draw_and_the_retraining_go_the_same_three_ways_bit_for_bit(
    bert: BertForSequenceClassification, cnn: nn.Module, tmp_path: Path, kind: str, optimizer: str
) -> None:
    model, preset = {"bert": (awake(bert), WormConfig), "cnn": (cnn, WormConfig.cnn)}[kind]
    config = preset(stopping_point=0.9, window=3)  # a short search
    by_the_paper, by_hand = copy.deepcopy(model), copy.deepcopy(model)
    rows = rows_for(model)
    searched = algorithm_1(by_the_paper, make_optimizer(optimizer, by_the_paper), rows, config, 4, 1.0)
    draw_and_retrain(by_the_paper, make_optimizer(optimizer, by_the_paper), rows, searched["masks"], config, 1.0)

    search = TicketSearch(by_hand, config)
    plain_loop(by_hand, make_optimizer(optimizer, by_hand), rows, 4, 1.0, search)
    ticket, fresh = search.draw(), make_optimizer(optimizer, by_hand)
    drawn = weights(by_hand)
    ticket.hold(by_hand, fresh)
    plain_loop(by_hand, fresh, rows, 1, 1.0)

    trainer = sequential_trainer(model, tmp_path, config, optimizer, 4, 1.0)
    trainer.search_ticket()
    trainer.draw_ticket()
    assert same_weights(weights(model), drawn)
    trainer.retrain()
    assert same_weights(weights(model), weights(by_hand))
    assert same_weights(weights(model), weights(by_the_paper))
    assert not same_weights(weights(model), drawn)
    assert trainer.ticket.history == ticket.history and trainer.ticket.converged and ticket.converged
    for name, mask in searched["masks"].items():
        assert torch.equal(trainer.ticket.masks[name], mask) and torch.equal(ticket.masks[name], mask)
