"""Scores rank units: by their magnitude, or by how much the loss depends on their output."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import torch

from hf_worm.config import WormConfig
from hf_worm.core.compat import multiply_, norms
from hf_worm.core.masks import NotFiniteError
from hf_worm.core.sharding import full, is_sharded, local, on_every_process, shard_like, sharded_as
from hf_worm.units import RepresentativeLayer, View


@runtime_checkable
class Score(Protocol):
    """Ranks the units of a layer; those of the smallest scores go.

    Attributes:
        name (`str`): Goes into tickets and checkpoints; a search is resumed with a score of the same name alone.
    """

    name: str

    def accumulate(self, layers: Sequence[RepresentativeLayer]) -> None:
        """Gather from the gradients, once per optimizer step; as they are before clipping and truncation."""
        ...

    def of(self, layer: RepresentativeLayer) -> torch.Tensor:
        """Return the scores of a layer's units: finite, at least 0, of `layer.shape`."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that was gathered, for a checkpoint: tensors, numbers, strings, lists and dictionaries."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, or raise a `ValueError` and stay as it was."""
        ...


class Magnitude:
    """The paper's score: the absolute value of a weight or of γ; of a neuron or head the L1 norm of all its weights."""

    name = "magnitude"

    def accumulate(self, layers: Sequence[RepresentativeLayer]) -> None:
        """Nothing: the weights are all it takes."""

    def of(self, layer: RepresentativeLayer) -> torch.Tensor:
        """Return the magnitudes as they are now, of `layer.shape`."""
        if not layer.summed:
            return layer.weight.detach().abs()
        dtype = reduce(torch.promote_types, (view.weight.dtype for view in layer.views), torch.float32)
        norms = [view.weight.detach().abs().flatten(1).sum(1, dtype=dtype) for view in layer.views]
        return torch.stack(norms).sum(0)

    def state_dict(self) -> dict[str, Any]:
        """Empty: nothing is gathered."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class GateGradient(ABC):
    """Base of the scores that average a function of the gate gradient a over optimizer steps.

    The gate gradient is the loss's derivative by a factor on all that a unit puts out, at 1: Σ w·∂w over the column of
    a neuron, or the columns of a head, in the projection that leads out; γ·∂γ + β·∂β of a channel; w·∂w of a weight.

    A step in which a unit has NaN or infinite gradients, as a `GradScaler` skips, does not enter. Nothing is read back
    from the device, and one number for each unit is kept (float32; of float64 weights float64).

    Args:
        decay (`float`, *optional*):
            d, in [0, 1): the mean is exponential, and what a step enters with falls by d at each further step. `None`:
            all steps count alike.
        every (`int`, *optional*, defaults to 1): Gather at the first of each so many steps.
    """

    name: str

    def __init__(self, decay: float | None = None, every: int = 1) -> None:
        self.decay, self.every = decay, every
        self._step = 0
        self._count = torch.zeros((), dtype=torch.int64)  # steps that have entered; on the device of the first layer
        self._totals: dict[str, torch.Tensor] = {}  # sharded as the weights are
        self._loaded: dict[str, torch.Tensor] = {}  # whole, on the CPU, until its layer is seen

    @abstractmethod
    def entry(self, gates: torch.Tensor) -> torch.Tensor:
        """Return the values that are averaged, of gate gradients; may work in place."""

    @torch.no_grad()
    def accumulate(self, layers: Sequence[RepresentativeLayer]) -> None:
        """Take in the gate gradients of one optimizer step."""
        step, self._step = self._step, self._step + 1
        parameters = dict.fromkeys(view.parameter for layer in layers for view in layer.views)
        if step % self.every or all(parameter.grad is None for parameter in parameters):
            return
        finite = all_finite(list(parameters))
        self._count = self._count.to(finite.device) + finite
        for layer in layers:
            self._enter(layer, gate_gradients(layer), finite.to(layer.parameter.device))

    def _enter(self, layer: RepresentativeLayer, gates: torch.Tensor | None, finite: torch.Tensor) -> None:
        total = local(self._total(layer))
        if self.decay is not None:
            total.mul_(1 - (1 - self.decay) * finite)
        if gates is not None:
            entered = self.entry(gates).masked_fill_(~finite, 0)
            total.add_(entered, alpha=1 if self.decay is None else 1 - self.decay)

    def _total(self, layer: RepresentativeLayer) -> torch.Tensor:
        """Return the sum that has been gathered of a layer; zeros at first."""
        if layer.name not in self._totals:
            whole, weight = self._loaded.pop(layer.name, None), layer.weight
            like = weight.flatten(1)[:, 0] if layer.summed else weight
            if whole is None:
                total = torch.zeros_like(local(like), dtype=torch.promote_types(weight.dtype, torch.float32))
            else:
                total = shard_like(whole.to(weight.device), like)
            self._totals[layer.name] = sharded_as(total.contiguous(), like)
        return self._totals[layer.name]

    def of(self, layer: RepresentativeLayer) -> torch.Tensor:
        """Return the mean over the steps that entered, of `layer.shape`.

        Raises:
            RuntimeError: Nothing was gathered yet, or nothing that is finite.
            NotFiniteError: The weights are not finite, so that their gradients never enter.
        """
        if layer.name not in self._totals and layer.name not in self._loaded:
            raise RuntimeError(
                f"The score `{self.name}` of `{layer.name}` has no gradients to go by yet: call "
                "`search.truncate_gradients()` at each optimizer step, between the backward pass and the step."
            )
        if not all(full(view.weight).isfinite().all() for view in layer.views):
            raise NotFiniteError(f"`{layer.name}` holds NaN or infinite weights.")
        count = int(self._count)
        if not count:
            raise RuntimeError(
                f"In all {self._step} steps so far the gradients were NaN or infinite: the score `{self.name}` has "
                "none to go by. Lower the loss scale, or train in bf16 instead of fp16."
            )
        return self._total(layer) / (count if self.decay is None else 1 - self.decay**count)

    def state_dict(self) -> dict[str, Any]:
        """Return all sums, whole and on the CPU; under FSDP2 to be called by all processes at once."""
        totals = {**self._loaded, **{name: full(total).cpu().clone() for name, total in self._totals.items()}}
        return {"step": self._step, "count": int(self._count), "decay": self.decay, "totals": totals}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, or raise a `ValueError` and stay as it was."""
        try:
            step, count, decay, totals = (state[key] for key in ("step", "count", "decay", "totals"))
            loaded = {name: total.detach().cpu().clone() for name, total in totals.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The state of the score `{self.name}` is damaged: {error!r}.") from error
        if not all(type(number) is int and number >= 0 for number in (step, count)):
            raise ValueError(f"The state of the score `{self.name}` is damaged: step {step!r}, count {count!r}.")
        if decay != self.decay:
            raise ValueError(
                f"The saved search ran with `score_decay={decay!r}`, this one has {self.decay!r}: their means do not "
                "compare. Resume with the saved setting, or start anew."
            )
        self._step, self._count, self._totals, self._loaded = step, torch.tensor(count), {}, loaded


class Taylor(GateGradient):
    """The mean size of the gate gradient, |a| (Molchanov et al., arXiv:1906.10771, with the absolute value)."""

    name = "taylor"

    def entry(self, gates: torch.Tensor) -> torch.Tensor:
        return gates.abs_()


class Fisher(GateGradient):
    """The mean square of the gate gradient, a² (Theis et al., arXiv:1801.05787)."""

    name = "fisher"

    def entry(self, gates: torch.Tensor) -> torch.Tensor:
        return gates.square_()


def all_finite(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """True if no process has NaN or infinite gradients: a `bool` tensor, on the device of the first parameter."""
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    wide = [gradient.float() if gradient.dtype == torch.float16 else gradient for gradient in dense]
    sizes = norms([gradient for gradient in wide if gradient.numel()])  # the fastest that shows NaN
    finite = torch.stack([norm.to(parameters[0].device, torch.float32) for norm in sizes]).isfinite().all()
    sharded = [parameter for parameter in parameters if is_sharded(parameter)]
    return on_every_process(finite, sharded[0]) if sharded else finite


def gate_gradients(layer: RepresentativeLayer) -> torch.Tensor | None:
    """The gate gradients of what this process holds of a layer's units, in new memory; `None` without gradients."""
    if layer.summed:
        product = _product(layer.views[-1])  # the projection that leads out
        return None if product is None else product.sum(tuple(range(1, product.dim())))
    products = [
        product if view.sharded == layer.views[0].sharded else _placed_as(layer.weight, product, view)
        for view in layer.views
        if (product := _product(view)) is not None
    ]
    return reduce(torch.add, products) if products else None


def _placed_as(weight: torch.Tensor, product: torch.Tensor, view: View) -> torch.Tensor:
    """Place a view's product as the layer's first view is, where only one of them is sharded."""
    return shard_like(full(sharded_as(product, view.weight)), weight)


def _product(view: View) -> torch.Tensor | None:
    """w·∂w of what this process holds, at least in float32."""
    weight, gradient = view.local_weight, view.local_gradient
    if gradient is None:
        return None
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return weight.to(torch.promote_types(weight.dtype, torch.float32)) * dense


def accumulate(
    score: Score, layers: Sequence[RepresentativeLayer], loss_scale: float | torch.Tensor | None = None
) -> None:
    """Have a score gather from gradients without the factor of the loss, which they have again afterwards.

    Args:
        score (`Score`): The score.
        layers (`Sequence[RepresentativeLayer]`): The layers.
        loss_scale (`float` or `torch.Tensor`, *optional*): What the loss was multiplied by: powers of two are exact.
    """
    owned = dict.fromkeys(view.parameter for layer in layers for view in layer.views)
    gradients = [local(parameter.grad) for parameter in owned if parameter.grad is not None]
    if loss_scale is None or not gradients:
        score.accumulate(layers)
        return
    multiply_(gradients, 1 / loss_scale)
    score.accumulate(layers)
    multiply_(gradients, loss_scale)


def score_of(config: WormConfig) -> Score:
    """Make the score that the settings name."""
    if config.score == "magnitude":
        return Magnitude()
    return (Taylor if config.score == "taylor" else Fisher)(config.score_decay)
