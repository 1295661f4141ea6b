"""Treatments of the weights that the newest mask prunes: none, truncation, fading."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from hf_worm.config import WormConfig
from hf_worm.core.masks import pruned_share
from hf_worm.core.truncation import Scaled, fade_factor, fading, scale_gradients, scale_tensor
from hf_worm.scores import Magnitude
from hf_worm.units import RepresentativeLayer, View

Masked = Iterable[
    tuple[RepresentativeLayer, torch.Tensor]
]  # layers with their masks: `bool`, on the CPU, `True` = keep
FADE_BOUND = 0.03  # share of the layers' L1 norm that fading weights may hold when they are drawn


@runtime_checkable
class Treatment(Protocol):
    """Acts on the weights that the newest mask prunes. For one of your own, derive a class from this one.

    Attributes:
        name (`str`): Goes into tickets.
        scales_gradients (`bool`): It multiplies gradients: `gradients` is called at each step.
        scales_steps (`bool`): It acts on the optimizer's steps: `step` is asked, and an optimizer must be attached.
        needs_epochs (`bool`): `start` needs the optimizer's steps in an epoch.
    """

    name: str
    scales_gradients: bool = False
    scales_steps: bool = False
    needs_epochs: bool = False

    def start(self, layers: Sequence[RepresentativeLayer], steps_per_epoch: int | None) -> None:
        """Begin with an optimizer; `steps_per_epoch` where it is known."""
        return

    def renew(self, masked: Masked) -> None:
        """Go by these masks from now on: called before the first step after each observation; empty: by none."""
        return

    def gradients(self) -> None:
        """Change the gradients in place, before an optimizer step."""
        return

    def step(self) -> Scaled:
        """Say how the attached optimizer's step is changed; asked before and after it."""
        return Scaled()

    def share(self, masked: Masked) -> float | None:
        """Share of the L1 norm that weights hold which are to become 0 before they are drawn; `None`: none are."""
        return None

    def advice(self, share: float) -> list[str]:
        """Say what would make that share smaller, where it is too large for the draw."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """All that it has gathered, for a checkpoint: tensors, numbers, strings, lists and dictionaries."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        return


class Nothing(Treatment):
    """EB Train: the masks are watched, and no more."""

    name = "nothing"


class ScaleGradient(Treatment):
    """WORM: the gradients of what the newest mask prunes are multiplied by r.

    Args:
        truncation (`float`): r, in [0, 1].
    """

    name = "gradient"
    scales_gradients = True

    def __init__(self, truncation: float) -> None:
        self.truncation = truncation
        self.views: list[View] = []
        self.scales: list[torch.Tensor] = []  # for each view, of a shape that broadcasts to it

    def renew(self, masked: Masked) -> None:
        self.views, self.scales = scales_of(masked, self.truncation)

    def gradients(self) -> None:
        pairs = [(view.local_gradient, scale) for view, scale in zip(self.views, self.scales, strict=True)]
        scaled = [(gradient, scale) for gradient, scale in pairs if gradient is not None]
        if scaled:
            scale_gradients(*zip(*scaled, strict=True))


class ScaleUpdate(Treatment):
    """The optimizer's step on what the newest mask prunes is multiplied by r: w ← w_old + r · (w_new - w_old).

    Args:
        truncation (`float`): r, in [0, 1].
    """

    name = "update"
    scales_steps = True

    def __init__(self, truncation: float) -> None:
        self.truncation = truncation
        self.views: list[View] = []
        self.scales: list[torch.Tensor] = []

    def factors(self) -> tuple[float, float]:
        """Scale and `carried` of [`~hf_worm.core.truncation.Scaled`]."""
        return self.truncation, 1.0

    def renew(self, masked: Masked) -> None:
        self.views, self.scales = scales_of(masked, self.factors()[0])

    def step(self) -> Scaled:
        return Scaled([view.local_weight for view in self.views], self.scales, self.factors()[1])


class Fade(ScaleUpdate):
    """As [`ScaleUpdate`], and what the newest mask prunes becomes smaller with each step.

    Args:
        truncation (`float`): r, in [0, 1].
        fade_epochs (`float`): Epochs in which a weight falls to 1 % of its size.
    """

    name = "fade"
    needs_epochs = True

    def __init__(self, truncation: float, fade_epochs: float) -> None:
        super().__init__(truncation)
        self.fade_epochs = fade_epochs
        self._factor = 0.0  # on a weight, after each step

    def factors(self) -> tuple[float, float]:
        return fading(self.truncation, self._factor)

    def start(self, layers: Sequence[RepresentativeLayer], steps_per_epoch: int | None) -> None:
        if steps_per_epoch is None or steps_per_epoch < 1:
            raise ValueError(
                "`truncation_target='fade'` counts by epochs: `search.attach(optimizer, steps_per_epoch=...)` needs "
                f"the optimizer's steps in an epoch, got {steps_per_epoch!r}."
            )
        factor = fade_factor(self.fade_epochs * steps_per_epoch)
        for layer in layers:
            for view in layer.views:
                if 1 - factor < torch.finfo(view.parameter.dtype).eps:
                    narrow = view.parameter.element_size() < 4
                    raise ValueError(
                        f"`{layer.name}` is of {view.parameter.dtype}: the {1 - factor:.2g} of a weight by which it "
                        "fades in a step would be lost in rounding. "
                        f"{'Keep the weights in float32 (mixed precision does), or make' if narrow else 'Make'} "
                        f"`fade_epochs` (now {self.fade_epochs:g}) shorter."
                    )
        self._factor = factor

    def share(self, masked: Masked) -> float | None:
        magnitude = Magnitude()
        return pruned_share((magnitude.of(layer), mask) for layer, mask in masked)

    def advice(self, share: float) -> list[str]:
        faster = f"let them fade faster (`fade_epochs`, now {self.fade_epochs:g})"
        return [faster] if share >= FADE_BOUND else []


def scales_of(masked: Masked, factor: float) -> tuple[list[View], list[torch.Tensor]]:
    """The views of all layers, each with a tensor that is the factor where the mask prunes, and 1 elsewhere."""
    views, scales = [], []
    for layer, mask in masked:
        for view in layer.views:
            views.append(view)
            scales.append(scale_tensor(view.local_mask(mask), factor, view.local_weight))
    return views, scales


def treatment_of(config: WormConfig) -> Treatment:
    """Make the treatment that the settings name."""
    if not config.truncates:
        return Nothing()
    if config.truncation_target == "fade":
        return Fade(config.truncation, config.fade_epochs)
    return (ScaleUpdate if config.truncation_target == "update" else ScaleGradient)(config.truncation)
