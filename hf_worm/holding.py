"""Hold pruned weights at 0: after each step of an optimizer, whatever momentum and weight decay do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from hf_worm.core.sharding import local
from hf_worm.core.truncation import StepTruncation, hooked
from hf_worm.units import RepresentativeLayer, View


def hold(
    layers: Sequence[RepresentativeLayer], masks: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> "Held":
    """Set what the masks prune to 0, now and after every step of `optimizer`.

    Args:
        layers (`Sequence[RepresentativeLayer]`): The layers.
        masks (`Mapping[str, torch.Tensor]`): For each by its name, `bool` of its shape, `True` = keep.
        optimizer (`torch.optim.Optimizer`): The optimizer that trains them.
    """
    return Held([(view, ~view.local_mask(masks[layer.name])) for layer in layers for view in layer.views], optimizer)


class Held:
    """A ticket that is held, until it is removed.

    Args:
        pruned (`list[tuple[View, torch.Tensor]]`): Parts of parameters, each with a `bool` of what is pruned of it.
        optimizer (`torch.optim.Optimizer`): Its `step` is hooked.
    """

    def __init__(self, pruned: list[tuple[View, torch.Tensor]], optimizer: torch.optim.Optimizer) -> None:
        self._pruned = pruned
        stepping = hooked(optimizer)  # one that is refused leaves the weights as they are
        self._hooks = [
            stepping.register_step_pre_hook(self._before_step),
            stepping.register_step_post_hook(self._zero_weights),
        ]
        self._zero_weights()
        for within in _nested(optimizer):
            self._zero_states(within)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no optimizer: copies of an optimizer are without its hooks."""
        return {**self.__dict__, "_hooks": []}

    def zero_gradients(self) -> None:
        """Set the gradients of pruned weights to 0, as happens before each step: call it before they are clipped."""
        for view, mask in self._pruned:
            gradient = view.local_gradient
            if gradient is not None and not gradient.is_sparse:
                gradient.masked_fill_(mask, 0)

    def remove(self) -> None:
        """Hold it no longer: the next step may move what it prunes."""
        for hook in self._hooks:
            hook.remove()

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Zero the gradients that there are, and those that a closure will compute: `optimizer.step(closure)`."""
        self.zero_gradients()
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # the first is the optimizer
        if closure is None:
            return None

        def held() -> Any:
            loss = closure()
            self.zero_gradients()
            return loss

        return (*args[:1], held), {name: value for name, value in kwargs.items() if name != "closure"}

    def _zero_weights(self, *of_the_hook: Any) -> None:
        for view, mask in self._pruned:
            view.local_weight.masked_fill_(mask, 0)

    def _zero_states(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero what the optimizer keeps for each pruned weight: momentum, or a weight of its own."""
        if isinstance(optimizer, torch.optim.LBFGS):  # it keeps directions of all weights in one
            optimizer.state.clear()
        for view, mask in self._pruned:
            for state in optimizer.state.get(view.parameter, {}).values():
                # Of others, such as quantized ones, 0 may mean something else.
                if isinstance(state, torch.Tensor) and state.shape == view.parameter.shape and _is_plain(state):
                    view.local_part(state).masked_fill_(mask, 0)


class Attached:
    """The optimizer whose steps a search acts on, until it is removed.

    Args:
        optimizer (`torch.optim.Optimizer`): The optimizer.
        truncation (`StepTruncation`): What truncates its steps.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, truncation: StepTruncation) -> None:
        self._optimizer: torch.optim.Optimizer | None = optimizer
        self._truncation = truncation
        self._held: Held | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no optimizer: copies of an optimizer are without its hooks."""
        return {**self.__dict__, "_optimizer": None, "_held": None}

    @property
    def active(self) -> bool:
        """True if it has not been removed."""
        return self._truncation.active

    def hold(self, layers: Sequence[RepresentativeLayer], masks: Mapping[str, torch.Tensor]) -> None:
        """Set what the masks prune to 0 now and after each step, until the next masks or the release."""
        self.release()
        if self._optimizer is not None:
            self._held = hold(layers, masks, self._optimizer)

    def release(self) -> None:
        """Hold nothing any more."""
        if self._held is not None:
            self._held.remove()
            self._held = None

    def remove(self) -> None:
        """Take all hooks off the optimizer."""
        self.release()
        self._truncation.remove()
        self._optimizer = None


def _nested(optimizer: Any) -> Iterator[torch.optim.Optimizer]:
    """An optimizer, and those within it that take its steps: Accelerate's, those of Lookahead and the like."""
    seen: list[torch.optim.Optimizer] = []
    while isinstance(getattr(optimizer, "state", None), Mapping) and not any(optimizer is one for one in seen):
        seen.append(optimizer)
        yield optimizer
        inside = (getattr(optimizer, name, None) for name in ("optimizer", "base_optimizer", "_base_optimizer", "base"))
        optimizer = next((one for one in inside if one is not None), None)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(local(tensor)) is torch.Tensor and tensor.is_floating_point()
