"""The whole method in a plain PyTorch loop: search, draw and retrain without any Trainer.

    python -m hf_worm.commands.image.loop

trains a narrow ResNet-18 on scikit-learn's digits. Take [`search_ticket`] and [`retrain`] for a loop of your own: on
the same batches they end with the weights of `WormTrainer`, bit for bit.
"""

from collections.abc import Sized
from typing import Any, cast

import torch
from torch import nn
from torch.optim import SGD
from torch.utils.data import DataLoader
from transformers import set_seed

from hf_worm.commands.image.arguments import DataArguments
from hf_worm.commands.image.augmentation import PadCropFlip
from hf_worm.commands.image.data import VALIDATION, decode, load_images, mean_and_std
from hf_worm.commands.image.dataset import ImageDataset
from hf_worm.commands.job.loading import TRAIN
from hf_worm.config import WormConfig
from hf_worm.models import CifarResNetConfig, CifarResNetForImageClassification
from hf_worm.search import TicketSearch
from hf_worm.ticket import Ticket

Loader = DataLoader[Any]


def search_ticket(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: Loader, config: WormConfig, epochs: int
) -> Ticket:
    """Train until the masks have converged, and draw the ticket.

    Args:
        model (`nn.Module`): Given a batch, it returns an output with a `loss`.
        optimizer (`torch.optim.Optimizer`): Of its parameters.
        loader (`DataLoader`): Batches of an [`ImageDataset`].
        config (`WormConfig`): The settings.
        epochs (`int`): At the most.
    """
    search = TicketSearch(model, config)
    search.attach(optimizer, len(loader))  # for `truncation_target` "update" and "fade"; nothing for "gradient"
    for epoch in range(epochs):
        cast(ImageDataset, loader.dataset).set_epoch(epoch)
        model.train()
        for batch in loader:
            model(**batch).loss.backward()
            search.truncate_gradients()  # nothing until the trigger point
            optimizer.step()
            optimizer.zero_grad()
        observation = search.observe()
        print(
            f"epoch {epoch + 1}: largest mask distance {observation.max_distance}, truncating: {observation.truncating}"
        )
        if observation.converged:
            break
    return search.draw()  # the pruned channels are silent from here on


def retrain(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Loader, ticket: Ticket, epochs: int) -> None:
    """Train on with the ticket held.

    Args:
        model (`nn.Module`): As the search left it.
        optimizer (`torch.optim.Optimizer`): A fresh one.
        loader (`DataLoader`): Batches of an [`ImageDataset`].
        ticket (`Ticket`): The ticket that was drawn.
        epochs (`int`): How many.
    """
    ticket.hold(model, optimizer)  # what it prunes is 0 after every step
    searched = len(ticket.history)  # epochs
    for epoch in range(searched, searched + epochs):
        cast(ImageDataset, loader.dataset).set_epoch(epoch)
        model.train()
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def accuracy(model: nn.Module, loader: Loader) -> float:
    """Measure the share of the images that the model knows."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(batch["pixel_values"]).logits.argmax(-1) == batch["labels"]).sum()) for batch in loader)
    return right / len(cast(Sized, loader.dataset))


def main() -> None:
    """Run WORM on the digits, and print the accuracy when drawn and after retraining."""
    set_seed(0)
    splits = load_images(DataArguments(), evaluate=True)
    images = {name: decode(split, name, channels=3, size=8) for name, split in splits.items()}
    mean, std = mean_and_std(images[TRAIN])
    shift = PadCropFlip(len(images[TRAIN]), padding=1, flip=False)
    loaders = {
        name: DataLoader(
            ImageDataset(
                images[name],
                torch.tensor(splits[name]["label"][:]),
                mean,
                std,
                augmentation=shift if name == TRAIN else None,
            ),
            batch_size=128,
            shuffle=name == TRAIN,
        )
        for name in splits
    }
    model = CifarResNetForImageClassification(CifarResNetConfig(width=16))
    ticket = search_ticket(model, SGD(model.parameters(), 0.01, 0.9), loaders[TRAIN], WormConfig.cnn(), epochs=20)
    drawn = accuracy(model, loaders[VALIDATION])
    retrain(model, SGD(model.parameters(), 0.01, 0.9), loaders[TRAIN], ticket, epochs=3)
    print(f"pruned {ticket.sparsity:.0%} of the channels, converged: {ticket.converged}")
    print(f"accuracy {drawn:.4f} when drawn, {accuracy(model, loaders[VALIDATION]):.4f} after 3 epochs of retraining")


if __name__ == "__main__":
    main()
