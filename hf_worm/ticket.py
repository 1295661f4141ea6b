"""A ticket: which units stay, and how that was found."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from hf_worm.config import WormConfig, find_file, read_json, replace_file
from hf_worm.core.masks import pack, unpack
from hf_worm.core.window import Observation
from hf_worm.layers import RepresentativeLayer, representative_layers

TICKET_NAME = "ticket.safetensors"
HISTORY_NAME = "worm_history.json"
FORMAT = "hf_worm.ticket.v1"


@dataclass(frozen=True)
class Ticket:
    """The masks at convergence, with the settings and the history of the search that found them.

    Args:
        masks (`dict[str, torch.Tensor]`):
            By parameter name: `bool` of the shape of the layer's units, on the CPU, `True` = keep.
        config (`WormConfig`): The settings of the search.
        history (`list[Observation]`, *optional*): What the search observed.
        converged (`bool`, *optional*, defaults to `False`): Whether the masks had stopped moving when it was drawn.
    """

    masks: dict[str, torch.Tensor]
    config: WormConfig
    history: list[Observation] = field(default_factory=list)
    converged: bool = False

    @property
    def sparsity(self) -> float:
        """Share of pruned units among all units of the representative layers, in [0, 1]."""
        units = sum(mask.numel() for mask in self.masks.values())
        return (units - sum(int(mask.count_nonzero()) for mask in self.masks.values())) / units

    def apply_(self, model: nn.Module) -> nn.Module:
        """Set what the ticket prunes to exactly 0, in place; everything else keeps its value.

        Args:
            model (`nn.Module`): The model the ticket was found on, or another with the same representative layers.

        Returns:
            `nn.Module`: `model`.

        Raises:
            ValueError: The model's representative layers are not those of the ticket.
        """
        self._zeroing(model)()
        return model

    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.utils.hooks.RemovableHandle:
        """Apply the ticket now and again after every step of `optimizer`.

        Pruned weights stay exactly 0, whatever momentum and weight decay do.

        Args:
            model (`nn.Module`): The model, as for [`~Ticket.apply_`].
            optimizer (`torch.optim.Optimizer`): The optimizer that trains it.

        Returns:
            A handle whose `.remove()` ends it.

        Raises:
            ValueError: The model's representative layers are not those of the ticket.
        """
        zero = self._zeroing(model)
        zero()
        return optimizer.register_step_post_hook(lambda *_: zero())

    def _zeroing(self, model: nn.Module) -> Callable[[], None]:
        layers = representative_layers(model, self.config.layers)
        found, wanted = ({n: tuple(s) for n, s in shapes} for shapes in (_shapes(layers), _mask_shapes(self.masks)))
        if found != wanted:
            raise ValueError(mismatch(f"`{type(model).__name__}`", found, "the ticket", wanted))
        pruned = [~self.masks[layer.name].to(layer.parameter.device) for layer in layers]

        def zero() -> None:
            for layer, mask in zip(layers, pruned, strict=True):
                zero_units(layer, mask)

        return zero

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write `ticket.safetensors` (one bit per unit), `worm_config.json` and `worm_history.json`.

        Args:
            save_directory (`str` or `os.PathLike`): The folder, made where it is missing.
        """
        folder = Path(save_directory)
        shapes = json.dumps({name: list(mask.shape) for name, mask in self.masks.items()})
        packed = {name: pack(mask) for name, mask in self.masks.items()}
        replace_file(folder / TICKET_NAME, save(packed, metadata={"format": FORMAT, "shapes": shapes}))
        self.config.save_pretrained(folder)
        history = {
            "converged": self.converged,
            "sparsity": self.sparsity,
            "observations": [asdict(seen) for seen in self.history],
        }
        replace_file(folder / HISTORY_NAME, json.dumps(history, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, dir_or_repo: str | os.PathLike[str], **hub_options: Any) -> "Ticket":
        """Read a ticket from a folder or a Hub repository.

        Args:
            dir_or_repo (`str` or `os.PathLike`): A folder, or the id of a repository on the Hub.
            hub_options: Passed on to `hf_hub_download` (`revision`, `token`, `cache_dir`, ...).

        Raises:
            FileNotFoundError: The folder lacks one of the three files.
            ValueError: A file is damaged, or is not what [`~Ticket.save_pretrained`] writes.
        """
        masks = _read_masks(find_file(dir_or_repo, TICKET_NAME, **hub_options))
        config = WormConfig.from_pretrained(dir_or_repo, **hub_options)
        path = find_file(dir_or_repo, HISTORY_NAME, **hub_options)
        history = read_json(path)
        try:
            observations = read_observations(history["observations"])
            converged = bool(history["converged"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the history of a search: {error!r}.") from error
        return cls(masks, config, observations, converged)


def zero_units(layer: RepresentativeLayer, pruned: torch.Tensor) -> None:
    """Set every part of the units marked in `pruned` (`bool`, the layer's shape) to exactly 0."""
    for view in layer.views:
        weight = view.weight
        weight.masked_fill_(pruned.view(*pruned.shape, *[1] * (weight.dim() - pruned.dim())), 0)


def read_observations(records: Iterable[dict[str, Any]]) -> list[Observation]:
    """Observations from the dictionaries that `dataclasses.asdict` made of them.

    Raises:
        TypeError: A record lacks a field or has one too many.
    """
    names = {known.name for known in fields(Observation)}
    observations = []
    for record in records:
        if not isinstance(record, dict) or set(record) != names:
            raise TypeError(f"an observation needs {sorted(names)}, got {record!r}")
        observations.append(Observation(**{**record, "distances": tuple(record["distances"])}))
    return observations


def mismatch(first: str, shapes: dict[str, tuple[int, ...]], second: str, others: dict[str, tuple[int, ...]]) -> str:
    """Say in which layers two sets of masks or layers, each a shape by name, do not fit."""

    def differing(one: dict[str, tuple[int, ...]], other: dict[str, tuple[int, ...]]) -> str:
        names = [f"`{name}` {shape}" for name, shape in one.items() if other.get(name) != shape]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing more"

    return (
        f"The representative layers of {first} are not those of {second}: "
        f"{first} has {differing(shapes, others)}; {second} has {differing(others, shapes)}."
    )


def _shapes(layers: Iterable[RepresentativeLayer]) -> Iterator[tuple[str, torch.Size]]:
    return ((layer.name, layer.shape) for layer in layers)


def _mask_shapes(masks: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Size]]:
    return ((name, mask.shape) for name, mask in masks.items())


def _read_masks(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a ticket: its format is {metadata.get('format')!r}, not {FORMAT!r}.")
    try:
        shapes = json.loads(metadata["shapes"])
        if not packed or not isinstance(shapes, dict) or shapes.keys() != packed.keys():
            raise ValueError("its shapes do not name its masks")
        return {name: unpack(packed[name], shape) for name, shape in shapes.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
