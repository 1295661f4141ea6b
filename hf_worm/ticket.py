"""A ticket: which units stay, and how that was found."""

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_worm.compact import cut_, left_pruned, require_larger_units
from hf_worm.config import WormConfig
from hf_worm.core.masks import pack, unpack
from hf_worm.core.sharding import full
from hf_worm.core.truncation import hooked
from hf_worm.core.window import Observation, read_observations
from hf_worm.files import find_file, parse_json, read_json, replace_file
from hf_worm.holding import Held, hold
from hf_worm.units import RepresentativeLayer, representative_layers, require_optimized
from hf_worm.units.layer import reshard

TICKET_NAME = "ticket.safetensors"
HISTORY_NAME = "worm_history.json"
FORMAT = "hf_worm.ticket.v1"


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class Ticket:
    """The masks at convergence, with the settings and the history of the search that found them.

    Args:
        masks (`dict[str, torch.Tensor]`):
            By parameter name: `bool` of the shape of the layer's units, on the CPU, `True` = keep.
        config (`WormConfig`): The settings of the search.
        history (`list[Observation]`, *optional*): What the search observed.
        converged (`bool`, *optional*, defaults to `False`): Whether the masks had stopped moving when it was drawn.
        parts (`dict[str, str]`, *optional*):
            Names of the search's `"score"`, `"select"`, `"schedule"` and `"treatment"`; empty where no search says them
            (tickets of version 0.1.0).
    """

    masks: dict[str, torch.Tensor]
    config: WormConfig
    history: list[Observation] = field(default_factory=list)
    converged: bool = False
    parts: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Without the masks and the history."""
        return (
            f"Ticket(layers={len(self.masks)}, sparsity={self.sparsity:.4g}, converged={self.converged}, {self.config})"
        )

    @property
    def sparsity(self) -> float:
        """Share of pruned units among all units of the representative layers, in [0, 1]."""
        units = sum(mask.numel() for mask in self.masks.values())
        return (units - sum(int(mask.count_nonzero()) for mask in self.masks.values())) / units

    @classmethod
    def from_zeros(cls, model: nn.Module, layers: Sequence[str] = ("query", "key")) -> "Ticket":
        """The ticket of a model whose pruned weights are 0 already, whatever pruned them.

        A neuron, a head or a channel is pruned if all its weights are exactly 0.

        Args:
            model (`nn.Module`): The model.
            layers (`Sequence[str]`): What to look at, as in [`WormConfig`].

        Returns:
            `Ticket`: With the share that is 0 as its `prune_ratio`, and without a history.

        Raises:
            ValueError: The model has no such layers, or nothing in them differs from 0.
        """
        reshard(model)
        masks = {layer.name: _differs_from_zero(layer) for layer in representative_layers(model, layers)}
        ticket = cls(masks, WormConfig(layers=list(layers)))
        if ticket.sparsity == 1:
            raise ValueError(
                f"All weights of {list(layers)} are 0 in this `{type(model).__name__}`: no ticket is left."
            )
        return replace(ticket, config=replace(ticket.config, prune_ratio=ticket.sparsity))

    def apply_(self, model: nn.Module) -> nn.Module:
        """Set what the ticket prunes to exactly 0, in place; everything else keeps its value.

        Args:
            model (`nn.Module`): The model the ticket was found on, or another with the same representative layers.

        Returns:
            `nn.Module`: `model`.

        Raises:
            ValueError: The model's representative layers are not those of the ticket.
        """
        for layer in self._layers(model):
            layer.zero_(self.masks[layer.name])
        return model

    def compact(self, model: nn.Module) -> nn.Module:
        """A smaller copy of the model, without the neurons, heads and channels that the ticket prunes.

        Its outputs are those of the model with the ticket applied. A family that is not in the tests may have parts
        that do not follow: run the copy once. (`WormTrainer` tries that before it searches.)

        Its `save_pretrained` leaves a checkpoint that plain `from_pretrained` loads, where the model's configuration
        can say the new shapes; [`~hf_worm.load_compact`] loads any.

        To train the copy with what could not be cut out held at 0, make an optimizer of its parameters:
        `ticket.rest(smaller).hold(smaller, optimizer)`.

        Args:
            model (`nn.Module`): The model, as for [`~Ticket.apply_`]; it stays as it is.

        Returns:
            `nn.Module`: The smaller copy, of the model's class. It is out of wrappers (`DistributedDataParallel`,
            `torch.compile`), which know the larger one: wrap it anew.

        Raises:
            ValueError:
                The ticket prunes scattered weights, which can't be cut out; the model's representative layers are not
                those of the ticket; or its heads can't be cut out, for a reason that the message names.
        """
        model = _bare(model)
        layers = self._layers(model)
        require_larger_units(model, layers)
        smaller = self.apply_(copy.deepcopy(model))
        cut_(smaller, self._layers(smaller), self.masks)
        return smaller

    def rest(self, compact: nn.Module) -> "Ticket":
        """The ticket of a compact model: it prunes what could not be cut out, so that it can be held.

        Args:
            compact (`nn.Module`): What [`~Ticket.compact`] made.

        Returns:
            `Ticket`: With masks of the compact model's units: all stay, but for what could not be cut out.

        Raises:
            ValueError: The model's representative layers are not those of the ticket.
        """
        layers = dict(_shapes(representative_layers(compact, self.config.layers)))
        if layers.keys() != self.masks.keys():
            raise ValueError(
                mismatch(f"`{type(compact).__name__}`", layers, "the ticket", dict(_mask_shapes(self.masks)))
            )
        return replace(self, masks=left_pruned(compact, self.config.layers, self.masks))

    def shuffled(self, seed: int) -> "Ticket":
        """A control for this ticket: it prunes as many units of each layer, but which ones is drawn at random.

        A model that ends as well with it owes nothing to how the units were ranked (Su et al., arXiv:2009.11094;
        Frankle et al., arXiv:2009.08576). With a `WormTrainer`, set `trainer.ticket` to it between `search_ticket()`
        and `retrain()`; its search must not truncate (`WormConfig.eb_train()`), or what it shrank is not what goes.

        Args:
            seed (`int`): Of the draw.

        Returns:
            `Ticket`: With the settings and the history of this one.
        """
        generator = torch.Generator().manual_seed(seed)
        shuffled = {}
        for name in sorted(self.masks):  # in an order that saving and loading doesn't change
            mask = self.masks[name]
            shuffled[name] = mask.flatten()[torch.randperm(mask.numel(), generator=generator)].view(mask.shape)
        return replace(self, masks={name: shuffled[name] for name in self.masks})

    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> "Held":
        """Apply the ticket now and again after every step of `optimizer`.

        Pruned weights stay exactly 0, whatever momentum and weight decay do. Their gradients are set to 0 before each
        step: what an optimizer gathers of them would reach the model where it keeps weights of its own (schedule-free
        ones), and enter statistics that kept weights share with pruned ones (Adafactor's rows and columns). What it has
        gathered of them so far is set to 0 as well.

        Where all gradients are clipped by their norm before the step, as by the Trainer, those of pruned weights count.
        In a loop of your own, call the handle's [`~Held.zero_gradients`] first, and they don't.

        Args:
            model (`nn.Module`): The model, as for [`~Ticket.apply_`].
            optimizer (`torch.optim.Optimizer`): The optimizer that trains it.

        Returns:
            `Held`: A handle whose `.remove()` ends it.

        Raises:
            ValueError:
                The model's representative layers are not those of the ticket, or the optimizer has none of them.
            TypeError: The optimizer's step has no hooks, nor has one that it wraps.
        """
        layers = self._layers(model)
        require_optimized(layers, hooked(optimizer))
        return hold(layers, self.masks, optimizer)

    def _layers(self, model: nn.Module) -> list[RepresentativeLayer]:
        """The model's representative layers, if they are those of the ticket."""
        reshard(model)
        layers = representative_layers(model, self.config.layers)
        found, wanted = ({n: tuple(s) for n, s in shapes} for shapes in (_shapes(layers), _mask_shapes(self.masks)))
        if found != wanted:
            problem = mismatch(f"`{type(model).__name__}`", found, "the ticket", wanted)
            if found == {name: (int(mask.sum()),) for name, mask in self.masks.items()}:
                problem += " It has as many units as the ticket keeps: what was pruned seems to be cut out already."
            raise ValueError(problem)
        return layers

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write `ticket.safetensors` (one bit per unit), `worm_config.json` and `worm_history.json`.

        Args:
            save_directory (`str` or `os.PathLike`): The folder, made where it is missing.
        """
        folder = Path(save_directory)
        shapes = json.dumps({name: list(mask.shape) for name, mask in self.masks.items()})
        packed = {name: pack(mask) for name, mask in self.masks.items()}
        replace_file(folder / TICKET_NAME, _sorted_header(save(packed, metadata={"format": FORMAT, "shapes": shapes})))
        self.config.save_pretrained(folder)
        history = {
            "converged": self.converged,
            "sparsity": self.sparsity,
            "parts": self.parts,
            "observations": [asdict(seen) for seen in self.history],
        }
        replace_file(folder / HISTORY_NAME, json.dumps(history, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, dir_or_repo: str | os.PathLike[str], **hub_options: Any) -> "Ticket":
        """Read a ticket from a folder or a Hub repository.

        Args:
            dir_or_repo (`str` or `os.PathLike`): A folder, or the id of a repository on the Hub.
            hub_options: As for `hf_hub_download` (`subfolder`, `revision`, `token`, ...).

        Raises:
            FileNotFoundError: The folder lacks one of the three files.
            TypeError: `hf_hub_download` has no such option.
            ValueError: A file is damaged, or is not what [`~Ticket.save_pretrained`] writes.
        """
        masks = read_masks(find_file(dir_or_repo, TICKET_NAME, **hub_options))
        config = WormConfig.from_pretrained(dir_or_repo, **hub_options)
        history = find_file(dir_or_repo, HISTORY_NAME, **hub_options)
        observations, converged = read_history(history)
        return cls(masks, config, observations, converged, read_parts(history))


def _bare(model: Any) -> nn.Module:
    """A model out of wrappers that know its parameters."""
    while hasattr(model, "_orig_mod") or isinstance(model, DistributedDataParallel):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    found: nn.Module = model
    return found


def shares_pruned(masks: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Share pruned of each mask's units, in [0, 1]."""
    return {name: 1 - int(mask.count_nonzero()) / mask.numel() for name, mask in masks.items()}


def read_history(path: Path) -> tuple[list[Observation], bool]:
    """The observations that a `worm_history.json` holds, and whether the masks had converged.

    Raises:
        ValueError: The file is damaged, or no history of a search.
    """
    history = read_json(path)
    try:
        converged = history["converged"]
        if not isinstance(converged, bool):
            raise TypeError(f"`converged` must be true or false, got {converged!r}")
        return read_observations(history["observations"]), converged
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the history of a search: {error!r}.") from error


def read_parts(path: Path) -> dict[str, str]:
    """The names of the search's parts that a `worm_history.json` holds; none in those of version 0.1.0.

    Raises:
        ValueError: They are no names.
    """
    parts = read_json(path).get("parts", {})
    if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts.values()):
        raise ValueError(f"{path} is not the history of a search: `parts` must hold names, got {parts!r}.")
    return parts


def mismatch(
    first: str, shapes: Mapping[str, tuple[int, ...]], second: str, others: Mapping[str, tuple[int, ...]]
) -> str:
    """Say in which layers two sets of masks or layers, each a shape by name, do not fit."""

    def differing(one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]]) -> str:
        names = [f"`{name}` {shape}" for name, shape in one.items() if other.get(name) != shape]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing more"

    return (
        f"The representative layers of {first} are not those of {second}: "
        f"{first} has {differing(shapes, others)}; {second} has {differing(others, shapes)}."
    )


def _differs_from_zero(layer: RepresentativeLayer) -> torch.Tensor:
    """The mask of the units of which a weight is not 0."""
    masks = [full(view.weight) != 0 for view in layer.views]
    if layer.summed:
        masks = [mask.flatten(1).any(1) for mask in masks]
    return torch.stack(masks).any(0).cpu()


def _shapes(layers: Iterable[RepresentativeLayer]) -> Iterator[tuple[str, torch.Size]]:
    return ((layer.name, layer.shape) for layer in layers)


def _mask_shapes(masks: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Size]]:
    return ((name, mask.shape) for name, mask in masks.items())


def _sorted_header(file: bytes) -> bytes:
    """A safetensors file with its header in order: as it is saved, the metadata comes in another order each time.

    The file begins with the header's length in 8 bytes; the header is compact JSON, filled up with spaces.
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8:end]), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return file[:8] + header.encode().ljust(end - 8) + file[end:]


def read_masks(path: Path) -> dict[str, torch.Tensor]:
    """The masks that a `ticket.safetensors` holds, by parameter name: `bool`, `True` = keep, on the CPU.

    Raises:
        ValueError: The file is damaged, or no ticket.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a ticket: its format is {metadata.get('format')!r}, not {FORMAT!r}.")
    try:
        shapes = parse_json(metadata["shapes"])
        if not packed or not isinstance(shapes, dict) or shapes.keys() != packed.keys():
            raise ValueError("its shapes do not name its masks")
        if any(not isinstance(shape, list) or 0 in shape for shape in shapes.values()):
            raise ValueError(f"a shape is a list of numbers of at least 1, got {list(shapes.values())}")
        return {name: unpack(packed[name], shape) for name, shape in shapes.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
