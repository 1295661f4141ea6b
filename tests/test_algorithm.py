"""`WormTrainer` against a line-by-line transcription of the paper's Algorithm 1 in plain PyTorch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import QUERY_AND_KEY, examples, same_weights, weights, without_dropout, worm_trainer
from transformers import BertForSequenceClassification, get_scheduler

from hf_worm import WormConfig

BATCH = 8


def naive_mask(weight: torch.Tensor, prune_ratio: float) -> torch.Tensor:
    order = weight.detach().abs().flatten().argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[order[: round(prune_ratio * weight.numel())]] = False
    return mask.view(weight.shape)


def naive_masks(watched: dict[str, nn.Parameter], config: WormConfig) -> dict[str, torch.Tensor]:
    if config.scope == "layer":
        return {name: naive_mask(weight, config.prune_ratio) for name, weight in watched.items()}
    together = naive_mask(torch.cat([weight.detach().flatten() for weight in watched.values()]), config.prune_ratio)
    parts = together.split([weight.numel() for weight in watched.values()])
    return {name: part.view(watched[name].shape) for name, part in zip(watched, parts, strict=True)}


def naive_distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    differing = sum(int((first[name] != second[name]).sum()) for name in first)
    return differing / sum(mask.numel() for mask in first.values())


def algorithm_1(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: WormConfig,
    epochs: int,
    max_grad_norm: float,
) -> dict[str, Any]:
    rows = examples()
    batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=epochs * len(batches))
    watched = {name: parameter for name, parameter in model.named_parameters() if name in QUERY_AND_KEY}
    masks: list[dict[str, torch.Tensor]] = []
    all_distances = []
    trigger = None
    model.train()
    for epoch in range(epochs):
        for batch in batches:
            ids = torch.stack([row["input_ids"] for row in batch])
            labels = torch.tensor([row["labels"] for row in batch])
            model(input_ids=ids, labels=labels).loss.backward()
            old = {name: weight.detach().clone() for name, weight in watched.items()}
            if trigger is not None and config.truncation_target == "gradient":
                for name, weight in watched.items():
                    weight.grad[~masks[-1][name]] *= config.truncation
            if max_grad_norm:
                nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            if trigger is not None and config.truncation_target == "update":
                for name, weight in watched.items():
                    pruned = ~masks[-1][name]
                    small = old[name] + config.truncation * (weight.data - old[name])
                    weight.data[pruned] = small[pruned]
            schedule.step()
            optimizer.zero_grad()
        masks = [*masks, naive_masks(watched, config)][-config.window :]
        distances = [naive_distance(older, masks[-1]) for older in masks[:-1]]
        all_distances.append(tuple(distances))
        if distances and sum(distances) / len(distances) < config.stopping_point + config.margin and trigger is None:
            trigger = epoch
        if len(masks) == config.window and max(distances) < config.stopping_point:
            break
    return {"masks": masks[-1], "distances": all_distances, "trigger": trigger, "epochs": epoch + 1}


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": 0.003},
        {"truncation": 1.0},
        {"truncation": 0.003, "scope": "global", "prune_ratio": 0.8},
        {"truncation": 0.003, "truncation_target": "update"},
    ],
    ids=["worm", "eb-train", "global", "update"],
)
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0], ids=["unclipped", "clipped"])
def test_trainer_equals_the_transcription_bit_for_bit(
    bert: BertForSequenceClassification, tmp_path: Path, optimizer: str, changes: dict[str, Any], max_grad_norm: float
) -> None:
    config = WormConfig(stopping_point=0.04, margin=0.06, retrain_epochs=0, **changes)
    without_dropout(bert)
    twin = copy.deepcopy(bert)
    plain = make_optimizer(optimizer, twin)
    expected = algorithm_1(twin, plain, config, epochs=6, max_grad_norm=max_grad_norm)

    hooked = make_optimizer(optimizer, bert)
    trainer = worm_trainer(
        bert,
        tmp_path,
        config,
        optimizers=(hooked, None),
        num_train_epochs=6,
        max_grad_norm=max_grad_norm,
        train_sampling_strategy="sequential",
    )
    trainer.search_ticket()

    history = trainer.search.history
    assert [seen.distances for seen in history] == expected["distances"]
    assert len(history) == expected["epochs"]
    assert expected["epochs"] > 1, "a search of one epoch would show nothing"
    assert next(seen.index for seen in history if seen.truncating) == expected["trigger"]
    assert expected["trigger"] + 1 < expected["epochs"], "nothing was truncated: the settings show nothing"
    assert all(torch.equal(trainer.search.masks[name], expected["masks"][name]) for name in QUERY_AND_KEY)
    if config.truncation_target == "gradient":
        assert same_weights(weights(bert), weights(twin))
    else:  # lerp and the formula round differently
        torch.testing.assert_close(weights(bert), weights(twin), rtol=1e-5, atol=1e-7)
