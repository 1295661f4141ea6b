"""What the tests of the trainer share: a task, a trainer on it, and ways to look at a run."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import BertConfig, TrainerCallback, TrainingArguments

from hf_worm import Ticket, WormConfig, WormTrainer, representative_layers

QUERY_AND_KEY = [f"bert.encoder.layer.{i}.attention.self.{role}.weight" for i in range(2) for role in ("query", "key")]
BATCHNORMS = ["norm1", "norm2", "norm3"]  # of the `cnn` fixture
SETTINGS = {  # of quick, quiet trainings
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 4,
}


def small_bert(**changes: Any) -> BertConfig:
    """Of two blocks with two heads, 16 features, 32 neurons, 64 words and two labels."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(**{"vocab_size": 64, **sizes, **changes})


def examples(count: int = 64, length: int = 12) -> list[dict[str, Any]]:
    """Token ids whose label is whether the first id is greater than the last: order matters."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 64, (count, length), generator=generator)
    return [{"input_ids": row, "labels": int(row[0] > row[-1])} for row in ids]


def images(count: int = 64) -> list[dict[str, Any]]:
    """Stripes in noise, whose label is whether they are upright."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    phases = torch.randint(0, 8, (count,), generator=generator)
    stripes = ((torch.arange(8) + phases[:, None]) // 2 % 2 * 2 - 1).view(count, 1, 1, 8).expand(-1, -1, 8, -1)
    upright = torch.randint(0, 2, (count,), generator=generator)
    pixels = 2 * noise + torch.where(upright.view(-1, 1, 1, 1) == 1, stripes, stripes.transpose(2, 3))
    return [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, upright, strict=True)]


class SmallCNN(nn.Module):
    """A convolution and a residual block of two, each with its BatchNorm: `(batch, 1, 8, 8)` to two labels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.convolution2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.convolution3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16, 2)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = self.norm1(self.convolution1(pixel_values)).relu()
        x = (x + self.norm3(self.convolution3(self.norm2(self.convolution2(x)).relu()))).relu()
        logits = self.classifier(x.mean((2, 3)))
        return (
            {"logits": logits}
            if labels is None
            else {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}
        )


def sum_over_items(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """The mean loss of a step, whatever its batch is split into; BERT's own loss is the mean of each part."""
    return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def arguments(folder: Path | str, **changes: Any) -> TrainingArguments:
    return TrainingArguments(str(folder), **{**SETTINGS, "num_train_epochs": 5, **changes})


class SequentialTrainer(WormTrainer):
    """Takes the rows in their order; `train_sampling_strategy="sequential"` would, but not in transformers 5.0."""

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


def worm_trainer(
    model: nn.Module,
    folder: Path | str,
    config: WormConfig | None = None,
    kind: type[WormTrainer] = WormTrainer,
    **changes: Any,
) -> WormTrainer:
    """A trainer whose ticket emerges as soon as the window is full; `changes` go to the `TrainingArguments`."""
    parts = {
        name: changes.pop(name)
        for name in (
            "callbacks",
            "model_init",
            "optimizers",
            "compute_loss_func",
            "compute_metrics",
            "train_dataset",
            "eval_dataset",
        )
        if name in changes
    }
    return kind(
        model=None if "model_init" in parts else model,
        args=arguments(folder, **changes),
        worm_config=config if config is not None else WormConfig(stopping_point=0.5),
        **{"train_dataset": examples(), **parts},
    )


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def pruned_are_zero(folder: Path, ticket: Ticket) -> bool:
    """Whether what the ticket prunes is exactly 0 in the saved weights, and what it keeps is not."""
    saved = load_file(folder / "model.safetensors")
    return all(
        bool((saved[name][~mask] == 0).all()) and bool((saved[name][mask] != 0).all())
        for name, mask in ticket.masks.items()
    )


def by_weights(ticket: Ticket, model: nn.Module) -> Ticket:
    """The ticket with a mask of the shape of each parameter that its units own a part of."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    masks: dict[str, torch.Tensor] = {}
    for layer in representative_layers(model, ticket.config.layers):
        for view in layer.views:
            whole = masks.setdefault(names[view.parameter], torch.ones(view.parameter.shape, dtype=torch.bool))
            view.part(whole)[~ticket.masks[layer.name]] = False
    return dataclasses.replace(ticket, masks=masks)


def loaded_by(card: str) -> nn.Module:
    """The model that the loading code of a model card makes."""
    namespace: dict[str, Any] = {}
    exec(card.partition("### Loading")[2].split("```python\n")[1].partition("```")[0], namespace)
    return namespace["model"]


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "worm_report.json").read_text())


class Gradients(TrainerCallback):
    """Keeps the gradients of every optimizer step as the optimizer gets to see them."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
