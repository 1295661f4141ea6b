"""The plain loop: as good as `WormTrainer`, on the same batches."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.utils.data import DataLoader
from training import SequentialTrainer, arguments, same_weights, weights
from transformers import default_data_collator

from hf_worm import WormConfig
from hf_worm.commands.image import loop
from hf_worm.commands.image.arguments import DataArguments
from hf_worm.commands.image.augmentation import PadCropFlip
from hf_worm.commands.image.data import decode, load_images, mean_and_std
from hf_worm.commands.image.dataset import EpochCallback, ImageDataset
from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification


def digits() -> ImageDataset:
    split = load_images(DataArguments(max_train_samples=160), evaluate=False)["train"]
    images = decode(split, "train", 3, 8)
    return ImageDataset(
        images, torch.tensor(split["label"][:]), *mean_and_std(images), augmentation=PadCropFlip(160, 1, True)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncation": 1.0, "scope": "global"},
        {"truncate_from": "start", "truncation": 0.01},
        {"truncation_target": "update"},
        {"truncation_target": "fade", "fade_epochs": 2.0},
    ],
    ids=["worm", "eb-train", "from the start", "update", "fade"],
)
def test_the_loop_equals_the_trainer_bit_for_bit(
    tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = WormConfig.cnn(window=3, stopping_point=0.09, margin=0.02, retrain_epochs=2.0, **changes)
    model = CifarResNetForImageClassification(CifarResNetConfig(width=8, depths=(1, 1)))
    twin = copy.deepcopy(model)

    loader = DataLoader(digits(), batch_size=32)
    ticket = loop.search_ticket(model, SGD(model.parameters(), 0.03, 0.9), loader, config, epochs=12)
    searched = weights(model)
    loop.retrain(model, SGD(model.parameters(), 0.03, 0.9), loader, ticket, epochs=2)

    dataset = digits()
    trainer = SequentialTrainer(
        model=twin,
        args=arguments(
            tmp_path,
            num_train_epochs=12,
            per_device_train_batch_size=32,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
        ),
        train_dataset=dataset,
        data_collator=default_data_collator,
        callbacks=[EpochCallback(dataset)],
        optimizers=(SGD(twin.parameters(), 0.03, 0.9), None),
        worm_config=config,
    )
    trainer.search_ticket()
    assert trainer.draw_ticket().history == ticket.history
    assert ticket.converged and 3 < len(ticket.history) < 12, "neither at once nor never"
    if ticket.config.truncation < 1:
        assert any(seen.truncating for seen in ticket.history[:-1]), "or nothing was truncated"
    assert ticket.masks.keys() == trainer.ticket.masks.keys()
    assert all(torch.equal(mask, trainer.ticket.masks[name]) for name, mask in ticket.masks.items())
    assert same_weights(searched, weights(twin))
    trainer.retrain()
    assert same_weights(weights(model), weights(twin))
    assert not same_weights(searched, weights(model))
    printed = capsys.readouterr().out
    assert f"epoch {len(ticket.history)}: largest mask distance" in printed


def test_the_example_runs_as_it_stands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = CifarResNetConfig(width=4)
    monkeypatch.setattr(loop, "CifarResNetConfig", lambda width: narrow)
    loop.main()
    *_, pruned, last = capsys.readouterr().out.splitlines()
    assert pruned.startswith("pruned 50% of the channels")
    drawn, retrained = (float(word) for word in last.replace(",", "").split() if word.startswith("0."))
    assert retrained > max(drawn, 0.2)
