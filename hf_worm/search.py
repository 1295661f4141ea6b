"""The search for an early-bird ticket: Algorithm 1 of arXiv:2406.11872, for any PyTorch loop."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from hf_worm.config import WormConfig
from hf_worm.core.masks import NotFiniteError, count_kept, keep_masks, last_of_largest, pack, pruned_share, unpack
from hf_worm.core.sharding import full
from hf_worm.core.truncation import Scaled, StepTruncation, fade_factor, fading, hooked, scale_gradients, scale_tensor
from hf_worm.core.window import MaskWindow, Observation, read_observations
from hf_worm.ticket import Ticket, mismatch
from hf_worm.units import RepresentativeLayer, doubts, representative_layers, require_optimized, require_trainable
from hf_worm.units.layer import reshard
from hf_worm.units.names import first_names

FADE_BOUND = 0.03  # share of the layers' L1 norm that fading weights may hold when they are drawn


class TicketSearch:
    """Watches the magnitude masks of a model while it trains, truncates near convergence, and draws the ticket.

    It knows nothing of any Trainer:

        search = TicketSearch(model, config)
        search.attach(optimizer, steps_per_epoch=len(loader))  # for the targets "update" and "fade"
        for epoch in range(epochs):
            for batch in loader:
                loss(batch).backward()
                search.truncate_gradients()  # once per optimizer step; nothing until the trigger point
                optimizer.step()
                optimizer.zero_grad()
            if search.observe().converged:
                break
        ticket = search.draw()
        ticket.hold(model, fresh_optimizer)  # and train on: what is pruned is 0 after each of its steps

    Under FSDP2 (`fully_shard(model)`, and the search made after it) every process runs this same loop: each finds the
    same masks, those of the model in one piece, and works on its own shards.

    Args:
        model (`nn.Module`): The model that is being trained.
        config (`WormConfig`): The settings.

    Warns where watched weights have less than 32 bits (the steps of fine-tuning are lost in their rounding), where
    layers have too few units for their ratio, and where `scope="global"` ranks units of very different sizes together.

    Raises:
        ValueError:
            The model lacks a layer that `config.layers` names, one of them is frozen, or the model is under FSDP1.
        TypeError: `config` is no `WormConfig`.
    """

    def __init__(self, model: nn.Module, config: WormConfig) -> None:
        if not isinstance(config, WormConfig):
            raise TypeError(f"`config` must be a `WormConfig`, got a `{type(config).__name__}`.")
        reshard(model)
        self._model = model
        self.config = config
        self.layers: list[RepresentativeLayer] = representative_layers(model, config.layers)
        require_trainable(self.layers)
        for doubt in doubts(self.layers, config.prune_ratio, config.scope):
            warnings.warn(doubt, stacklevel=2)
        self.history: list[Observation] = []
        self._window = MaskWindow(config.window)
        self._start: dict[str, torch.Tensor] = {}  # masks of the first step's weights, until there is an observation
        self._scales: list[torch.Tensor] | None = None  # one for each view; None: to be built for the newest mask
        self._step_truncation: StepTruncation | None = None
        self._fade = 0.0  # factor on the weights about to be pruned after each step of the attached optimizer

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """The newest masks by parameter name: `bool` of the layer's shape on its device, `True` = keep.

        Empty before the first observation.
        """
        if not self._window.masks:
            return {}
        masks = self._unpacked(self._window.masks[-1])
        return {layer.name: masks[layer.name].to(layer.parameter.device) for layer in self.layers}

    @property
    def sparsity(self) -> float:
        """Share of the units that the newest mask prunes, in [0, 1]; 0 before the first observation."""
        if not self._window.masks:
            return 0.0
        return (self._units - sum(count_kept(mask) for mask in self._window.masks[-1].values())) / self._units

    @property
    def truncating(self) -> bool:
        """Whether the trigger point has been reached, or need not be (`truncate_from="start"`)."""
        return self.config.truncate_from == "start" or (bool(self.history) and self.history[-1].truncating)

    @property
    def converged(self) -> bool:
        """Whether the newest observation found that the masks have stopped moving."""
        return bool(self.history) and self.history[-1].converged

    def observe(self) -> Observation:
        """Sample the masks, measure how far they moved, and decide on truncation and convergence.

        Returns:
            `Observation`: Also appended to `history`.

        Raises:
            ValueError: A representative layer holds NaN or infinite weights.
            RuntimeError: A representative layer is no longer in the model: the search was made before `fully_shard`.
        """
        config = self.config
        distances = self._window.push(self._take_masks(), self._units)
        largest = max(distances) if distances else None
        mean = sum(distances) / len(distances) if distances else None
        near = mean is not None and mean < config.stopping_point + config.margin
        settled = self._window.full and largest is not None and largest < config.stopping_point
        share = self._doomed_share() if config.truncation_target == "fade" else None
        seen = Observation(
            index=len(self.history),
            distances=distances,
            max_distance=largest,
            mean_distance=mean,
            truncating=self.truncating or near,
            converged=settled and (share is None or share < FADE_BOUND),
            doomed_share=share,
        )
        self.history.append(seen)
        self._start = {}
        self._scales = None
        return seen

    def truncate_gradients(self) -> None:
        """Multiply the gradients of the weights that the newest mask prunes by r: call it once per optimizer step.

        Does nothing before the trigger point, with r = 1, or where the optimizer's step is truncated instead
        (`truncation_target="update"` or `"fade"`, and [`~TicketSearch.attach`]). With `truncate_from="start"`, the mask
        of the weights at the first step serves until the first observation.

        Raises:
            RuntimeError: The target is `"update"` or `"fade"` and no optimizer is attached.
        """
        if self.config.truncation_target != "gradient":
            attached = self._step_truncation is not None and self._step_truncation.active
            if self.config.truncates and not attached:
                fades = self.config.truncation_target == "fade"
                raise RuntimeError(
                    f"`truncation_target={self.config.truncation_target!r}` scales the optimizer's step: call "
                    f"`search.attach(optimizer{', steps_per_epoch=...' if fades else ''})` first."
                )
            return
        scales = self._current_scales()
        if not scales:
            return
        gradients = [view.local_gradient for layer in self.layers for view in layer.views]
        pairs = [(gradient, scale) for gradient, scale in zip(gradients, scales, strict=True) if gradient is not None]
        if pairs:
            scale_gradients(*zip(*pairs, strict=True))

    def attach(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int | None = None) -> StepTruncation:
        """Truncate the steps of `optimizer` where the target is `"update"` or `"fade"`.

        With `"gradient"` they stay as they are; an optimizer under which a ticket could not be held is refused even so.

        Args:
            optimizer (`torch.optim.Optimizer`): The optimizer that trains the model; it takes the place of an earlier.
            steps_per_epoch (`int`, *optional*): Its steps in an epoch, by which `"fade"` counts `fade_epochs`.

        Returns:
            A handle whose `.remove()` ends it.

        Raises:
            ValueError:
                The optimizer lacks all watched weights, or some where their steps would be truncated. The target is
                `"fade"`, and `steps_per_epoch` is missing, or the weights have so few digits that a step's fading is
                lost in rounding.
            TypeError: The optimizer's step has no hooks, nor has one that it wraps.
        """
        require_optimized(self.layers, hooked(optimizer), every=self.config.truncation_target != "gradient")
        if self.config.truncation_target == "fade":
            self._fade = self._fade_of_a_step(steps_per_epoch)
            self._scales = None
        if self._step_truncation is not None:
            self._step_truncation.remove()  # or a step would be truncated twice
        self._step_truncation = StepTruncation(optimizer, self._truncated_weights)
        return self._step_truncation

    def draw(self) -> Ticket:
        """Set the weights that the newest mask prunes to exactly 0, in place, and return the ticket.

        Warns where the masks have not converged, and where the ticket leaves a layer nothing: with `scope="global"`, a
        high ratio or very small layers.

        Returns:
            `Ticket`: The newest mask, the settings and the history.

        Raises:
            RuntimeError:
                There is no mask yet: nothing was observed. Or a representative layer is no longer in the model.
        """
        if not self.history:
            raise RuntimeError("There is no mask to draw yet: call `observe()` at least once.")
        self._require_layers()
        if not self.converged:
            warnings.warn(self._not_converged(), stacklevel=2)
        reshard(self._model)
        masks = self._unpacked(self._window.masks[-1])
        for layer in self.layers:
            layer.zero_(masks[layer.name])
        self._scales = None  # one number for each weight, of no use any more
        emptied = [name for name, mask in masks.items() if not mask.any()]
        if emptied:
            warnings.warn(
                f"The ticket prunes all of {first_names(emptied)}: the outputs of such a layer don't depend on its "
                "inputs. Prune less (`prune_ratio`), or the same share of each layer (`scope='layer'`).",
                stacklevel=2,
            )
        return Ticket(masks, self.config, list(self.history), self.converged)

    def _not_converged(self) -> str:
        config, seen, count = self.config, self.history[-1], len(self.history)
        largest = "no distance yet" if seen.max_distance is None else format(seen.max_distance, ".4g")
        takes, had = f"a largest distance below {config.stopping_point:g}", largest
        advice = ["Train for more epochs"]
        if seen.doomed_share is not None:
            takes += f", with less than {FADE_BOUND:.0%} of the L1 norm in the weights to be pruned"
            had += f", with {seen.doomed_share:.1%}"
            if seen.doomed_share >= FADE_BOUND:
                advice.append(f"let them fade faster (`fade_epochs`, now {config.fade_epochs:g})")
        if count < config.window:
            advice.append(sampling_advice(config))
        if not config.stopping_point:
            advice = ["With `stopping_point=0` no search converges"]
        return (
            f"The masks had not converged when they were drawn: that takes {config.window} observations and {takes}; "
            f"there {'was' if count == 1 else 'were'} {count} and {had}. The newest mask is drawn. "
            f"{', or '.join(advice)}."
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the search knows, for a checkpoint: tensors, numbers and strings only.

        `"window"`: the last masks, oldest first, each a `dict` of packed `uint8` tensors by parameter name;
        `"start"`: the masks truncated by before the first observation, if there are any; `"shapes"`: the shapes of the
        masks; `"history"`: the observations; `"config"`: the settings.
        """
        return {
            "window": [dict(mask) for mask in self._window.masks],
            "start": dict(self._start),
            "shapes": {layer.name: list(layer.shape) for layer in self.layers},
            "history": [asdict(seen) for seen in self.history],
            "config": asdict(self.config),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where [`~TicketSearch.state_dict`] was taken.

        Raises:
            ValueError:
                The state is of a model with other representative layers, of a search with other masks (`prune_ratio`,
                `scope` or `window` differ), or incomplete.
        """
        if missing := {"window", "start", "shapes", "history", "config"} - set(state):
            raise ValueError(f"The state of the search is incomplete: it lacks {sorted(missing)}.")
        here = {layer.name: tuple(layer.shape) for layer in self.layers}
        try:
            there = {name: tuple(shape) for name, shape in state["shapes"].items()}
        except (TypeError, AttributeError) as error:
            raise ValueError(f"The state of the search is damaged: {error!r}.") from error
        if here != there:
            raise ValueError(mismatch("this model", here, "the saved search", there))
        try:
            history = read_observations(state["history"])
            settings = {name: state["config"][name] for name in ("prune_ratio", "scope", "window")}
            entries = state["config"].get("layers", self.config.layers)
            ratios = self._ratios(representative_layers(self._model, entries))
            masks = [{name: mask[name].cpu() for name in here} for mask in state["window"]]
            start = {name: state["start"][name].cpu() for name in here} if state["start"] else {}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The state of the search is damaged: {error!r}.") from error
        for name, saved in settings.items():
            now = getattr(self.config, name)
            if saved != now:
                raise ValueError(
                    f"The saved search ran with `{name}={saved!r}`, this one has {now!r}: their masks do not compare. "
                    "Resume with the saved setting, or start anew."
                )
        if ratios != self._ratios(self.layers):
            raise ValueError(
                f"The saved search ran with `layers={entries}`, this one has {self.config.layers}: "
                "with other ratios their masks do not compare. Resume with the saved ones, or start anew."
            )
        if len(masks) != min(len(history), self.config.window):
            raise ValueError(
                f"The state of the search is damaged: {len(history)} observations and a window of {self.config.window} "
                f"need {min(len(history), self.config.window)} masks, got {len(masks)}."
            )
        for mask in [*masks, start] if start else masks:
            for layer in self.layers:
                unpack(mask[layer.name], layer.shape)  # raises where it is not a mask of that shape
        self.history = history
        self._window.masks.clear()
        self._window.masks.extend(masks)
        self._start = start
        self._scales = None

    def _ratios(self, layers: Sequence[RepresentativeLayer]) -> list[float]:
        """p for each layer, or the ratio that it has of its own."""
        return [layer.ratio(self.config.prune_ratio) for layer in layers]

    @property
    def _units(self) -> int:
        return sum(layer.shape.numel() for layer in self.layers)

    def _take_masks(self) -> dict[str, torch.Tensor]:
        """The masks of the weights as they are now, packed: with `scope="layer"` each as soon as it is made."""
        self._require_layers()
        ranked = [layer.ranked for layer in self.layers]
        ratio = self.config.prune_ratio if self.config.scope == "global" else self._ratios(self.layers)
        try:
            masks = keep_masks(ranked, ratio, self.config.scope, pack)
        except NotFiniteError as error:
            names = [layer.name for layer in self.layers if not full(layer.ranked).isfinite().all()]
            raise ValueError(
                f"`{names[0]}` holds NaN or infinite weights ({len(names)} of {len(self.layers)} layers do): they have "
                "no magnitude to rank, training has diverged. Lower the learning rate, clip the gradients, or train in "
                "bf16 instead of fp16."
            ) from error
        for place, (layer, values) in enumerate(zip(self.layers, ranked, strict=True)):
            if layer.summed and not count_kept(masks[place]):
                masks[place] = pack(last_of_largest(values))
        return {layer.name: mask for layer, mask in zip(self.layers, masks, strict=True)}

    def _require_layers(self) -> None:
        """Raise where layers were replaced since: their old weights don't train, so their masks would never move."""
        present = set(self._model.parameters())
        gone = [
            layer.name
            for layer in self.layers
            if any(not view.sharded and view.parameter not in present for view in layer.views)
        ]
        if gone:
            raise RuntimeError(
                f"{first_names(gone)}: no longer a parameter of the model. `fully_shard`, for one, puts new parameters "
                "in the place of the old. Make the search after it, as the optimizer is."
            )

    def _unpacked(self, packed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {layer.name: unpack(packed[layer.name], layer.shape) for layer in self.layers}

    def _current_scales(self) -> list[torch.Tensor]:
        """Factors for the views of all layers, by the newest mask; none while nothing is truncated.

        Built at the first step after an observation: a search that has converged needs none.
        """
        if self._scales is None:
            masks = self._masks_to_truncate_by() if self.truncating and self.config.truncates else {}
            scale, _ = self._scale_and_carried()
            scales = []
            for layer in self.layers if masks else []:
                mask = unpack(masks[layer.name], layer.shape)
                scales += [scale_tensor(view.local_mask(mask), scale, view.local_weight) for view in layer.views]
            self._scales = scales
        return self._scales

    def _masks_to_truncate_by(self) -> dict[str, torch.Tensor]:
        if self.history:
            return self._window.masks[-1]
        if not self._start:
            self._start = self._take_masks()
        return self._start

    def _truncated_weights(self) -> Scaled:
        scales = self._current_scales() if self.config.truncation_target != "gradient" else []
        if not scales:
            return Scaled()
        weights = [view.local_weight for layer in self.layers for view in layer.views]
        return Scaled(weights, scales, self._scale_and_carried()[1])

    # Fading.

    def _scale_and_carried(self) -> tuple[float, float]:
        if self.config.truncation_target == "fade":
            return fading(self.config.truncation, self._fade)
        return self.config.truncation, 1.0

    def _fade_of_a_step(self, steps_per_epoch: int | None) -> float:
        if steps_per_epoch is None or steps_per_epoch < 1:
            raise ValueError(
                "`truncation_target='fade'` counts by epochs: `search.attach(optimizer, steps_per_epoch=...)` needs "
                f"the optimizer's steps in an epoch, got {steps_per_epoch!r}."
            )
        factor = fade_factor(self.config.fade_epochs * steps_per_epoch)
        for layer in self.layers:
            for view in layer.views:
                if 1 - factor < torch.finfo(view.parameter.dtype).eps:
                    narrow = view.parameter.element_size() < 4
                    raise ValueError(
                        f"`{layer.name}` is of {view.parameter.dtype}: the {1 - factor:.2g} of a weight by which it "
                        "fades in a step would be lost in rounding. "
                        f"{'Keep the weights in float32 (mixed precision does), or make' if narrow else 'Make'} "
                        f"`fade_epochs` (now {self.config.fade_epochs:g}) shorter."
                    )
        return factor

    def _doomed_share(self) -> float:
        newest = self._window.masks[-1]
        return pruned_share([layer.ranked for layer in self.layers], [newest[layer.name] for layer in self.layers])


def sampling_advice(config: WormConfig) -> str:
    """How to have more observations in as many steps."""
    if config.sample_steps is None:
        return "sample more often (`sample_strategy='steps'`)"
    return f"sample more often (`sample_steps`, now {config.sample_steps})"
