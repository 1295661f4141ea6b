"""The search for an early-bird ticket: Algorithm 1 of arXiv:2406.11872 over parts that can be exchanged."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hf_worm.config import WormConfig
from hf_worm.core.masks import pack, unpack
from hf_worm.core.truncation import Scaled, StepTruncation, hooked
from hf_worm.core.window import Observation, Packed
from hf_worm.holding import Attached
from hf_worm.parts import parts_of
from hf_worm.schedule import Schedule
from hf_worm.schedule import sampling_advice as sampling_advice
from hf_worm.scores import Magnitude, Score, accumulate
from hf_worm.select import Selection, require_present, selection_of, take_masks
from hf_worm.state import Found
from hf_worm.ticket import Ticket
from hf_worm.treatment import FADE_BOUND as FADE_BOUND
from hf_worm.treatment import Treatment
from hf_worm.units import RepresentativeLayer, doubts, representative_layers, require_optimized, require_trainable
from hf_worm.units.layer import reshard
from hf_worm.units.names import first_names


class TicketSearch:
    """Watches the masks of a model while it trains, truncates near convergence, and draws the ticket.

    It knows nothing of any Trainer:

        search = TicketSearch(model, config)
        search.attach(optimizer, steps_per_epoch=len(loader))
        for epoch in range(epochs):
            for batch in loader:
                loss(batch).backward()
                search.truncate_gradients()  # once per optimizer step: the score gathers, gradients are truncated
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
        score (`Score`, *optional*): What a unit is worth; that of the settings if not given, as all parts.
        select (`Selection`, *optional*): Which units go, by their scores.
        schedule (`Schedule`, *optional*): When masks are taken, at which ratio, and when they are drawn.
        treatment (`Treatment`, *optional*): What is done meanwhile to the weights that the newest mask prunes.

    Warns where watched weights have less than 32 bits, where layers have too few units for their ratio, and where
    `scope="global"` ranks units of very different sizes together.

    Raises:
        ValueError: The model lacks a layer that `config.layers` names, one is frozen, or the model is under FSDP1.
        TypeError: `config` is no `WormConfig`, or a part lacks a method.
    """

    def __init__(
        self,
        model: nn.Module,
        config: WormConfig,
        score: Score | None = None,
        select: Selection | None = None,
        schedule: Schedule | None = None,
        treatment: Treatment | None = None,
    ) -> None:
        if not isinstance(config, WormConfig):
            raise TypeError(f"`config` must be a `WormConfig`, got a `{type(config).__name__}`.")
        given = {"score": score, "select": select, "schedule": schedule, "treatment": treatment}
        self._parts = parts_of(config, given)
        self.score, self.select, self.schedule, self.treatment = self._parts
        reshard(model)
        self._model: nn.Module | None = model
        self.config = config
        self.layers: list[RepresentativeLayer] = representative_layers(model, config.layers)
        require_trainable(self.layers)
        self.select.require(self.layers, model)
        for doubt in doubts(self.layers, config, isinstance(self.score, Magnitude)):
            warnings.warn(doubt, stacklevel=2)
        self._found = Found(config, self._parts.names, self.layers)
        self._renewed = False  # the treatment goes by the newest mask
        self._attached: Attached | None = None

    @property
    def needs_gradients(self) -> bool:
        """True if `truncate_gradients` must be called at every step: gradients are scaled, or the score reads them."""
        return self.scales_gradients or self._parts.score_reads_gradients

    @property
    def scales_gradients(self) -> bool:
        """True if the treatment multiplies gradients, which an optimizer that steps by their sign would not notice."""
        return self.treatment.scales_gradients

    @property
    def needs_epochs(self) -> bool:
        """True if `attach` needs `steps_per_epoch`."""
        return self.treatment.needs_epochs or self.schedule.needs_epochs

    @property
    def history(self) -> list[Observation]:
        """The observations so far."""
        return self._found.history

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """The newest masks by parameter name: `bool` of the layer's shape on its device, `True` = keep.

        Empty before the first observation.
        """
        devices = {layer.name: layer.parameter.device for layer in self.layers}
        masks = self._found.unpacked(self._found.newest)
        return {name: mask.to(devices.get(name, mask.device)) for name, mask in masks.items()}

    @property
    def sparsity(self) -> float:
        """Share of the units that the newest mask prunes, in [0, 1]; 0 before the first observation."""
        return self._found.sparsity

    @property
    def truncating(self) -> bool:
        """True if the trigger point has been reached, or need not be (`truncate_from="start"`)."""
        return self.schedule.from_start or (bool(self.history) and self.history[-1].truncating)

    @property
    def converged(self) -> bool:
        """True if the newest observation found that the masks are to be drawn."""
        return bool(self.history) and self.history[-1].converged

    def due(self, step: int, epoch_end: bool) -> bool:
        """True if the schedule wants the masks taken after this step, and they have not been.

        Args:
            step (`int`): Optimizer steps so far.
            epoch_end (`bool`): The last of them ended an epoch.
        """
        return step != self._found.observed and self.schedule.due(step, epoch_end)

    def observe(self, step: int | None = None) -> Observation:
        """Sample the masks, measure how far they moved, and decide on truncation and convergence.

        Args:
            step (`int`, *optional*): Optimizer steps so far; by default the calls of `truncate_gradients`.

        Returns:
            `Observation`: Also appended to `history`.

        Raises:
            ValueError: A representative layer holds NaN or infinite weights, or the score is no score of its units.
            RuntimeError: The score has gathered no gradients, a part acts on an optimizer's steps and none is attached,
                or a layer is no longer in the model.
        """
        if self.schedule.holds:
            self._require_attached()
        found, step = self._found, self._found.step if step is None else step
        share = self.schedule.share(step)
        distances = found.window.push(self._take_masks([ratio * share for ratio in found.ratios]), found.units)
        settled = self.schedule.settled(step, distances, found.window.full)
        left = self.treatment.share(self._masked(found.newest))
        observation = Observation(
            index=len(self.history),
            distances=distances,
            max_distance=max(distances) if distances else None,
            mean_distance=sum(distances) / len(distances) if distances else None,
            truncating=self.truncating or self.schedule.triggered(distances),
            converged=settled and (left is None or left < FADE_BOUND),
            doomed_share=left,
        )
        self.history.append(observation)
        found.step = found.observed = step
        found.start, self._renewed = {}, False
        self._hold()
        return observation

    def truncate_gradients(self, loss_scale: float | torch.Tensor | None = None) -> None:
        """Have the score gather, then multiply the gradients of what the newest mask prunes by r.

        Call it once per optimizer step, after the last backward pass and before gradients are clipped. Nothing is
        multiplied before the trigger point, with r = 1, or where the optimizer's step is truncated instead. With
        `truncate_from="start"`, the mask of the weights at the first step serves until the first observation.

        Args:
            loss_scale (`float` or `torch.Tensor`, *optional*):
                What a `GradScaler` multiplied the loss by. The gradients are divided by it for the score, and
                multiplied back, which is exact for powers of two.

        Raises:
            RuntimeError: The optimizer's steps are to be truncated, and no optimizer is attached.
        """
        self._require_open()
        if self.treatment.scales_steps:
            self._require_attached()
        self._found.step += 1
        accumulate(self.score, self.layers, loss_scale if self._parts.score_reads_gradients else None)
        if self.treatment.scales_gradients:
            self._renew_treatment()
            self.treatment.gradients()

    def attach(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int | None = None) -> Attached:
        """Act on the steps of `optimizer`, where a part does: the targets `"update"` and `"fade"`, the cubic schedule.

        With others they stay as they are; an optimizer under which a ticket could not be held is refused even so.

        Args:
            optimizer (`torch.optim.Optimizer`): The optimizer that trains the model; it takes the place of an earlier.
            steps_per_epoch (`int`, *optional*): Its steps in an epoch, where `needs_epochs`.

        Returns:
            `Attached`: A handle whose `.remove()` ends it.

        Raises:
            ValueError: The optimizer lacks watched weights, `steps_per_epoch` is missing, or fading is lost.
            TypeError: The optimizer's step has no hooks, nor has one that it wraps.
        """
        self._require_open()
        acts = self.treatment.scales_steps or self.schedule.holds
        require_optimized(self.layers, hooked(optimizer), every=acts)
        self.treatment.start(self.layers, steps_per_epoch)
        self.schedule.start(steps_per_epoch)
        self._renewed = False
        if self._attached is not None:
            self._attached.remove()  # or a step would be truncated twice
        self._attached = Attached(optimizer, StepTruncation(optimizer, self._truncated_weights))
        self._hold()
        return self._attached

    def draw(self, speedup: float | None = None) -> Ticket:
        """Set the weights that the newest mask prunes to exactly 0, in place, and return the ticket.

        Args:
            speedup (`float`, *optional*): Draw masks of another speed than the settings' instead, by the scores as they
                are now.

        Warns where the masks have not converged, save with a `search_share`, and where the ticket leaves a layer
        nothing: with `scope="global"`, a high ratio or very small layers.

        Raises:
            RuntimeError: Nothing was observed yet, or a representative layer is no longer in the model.
        """
        if not self.history:
            raise RuntimeError("There is no mask to draw yet: call `observe()` at least once.")
        model = self._require_layers()
        if not self.converged and self.config.search_share is None:  # with it, that is as planned
            share = self.history[-1].doomed_share
            missing = self.schedule.missing(self.history, [] if share is None else self.treatment.advice(share))
            warnings.warn(f"The masks had not converged when they were drawn: {missing}", stacklevel=2)
        reshard(model)
        config, names = self.config, self._parts.names
        if speedup is not None:
            other = self._ticket(replace(self.config, speedup=speedup))
            config, names = other.config, dict(other.parts)
            self._found.replace_newest({name: pack(mask) for name, mask in other.masks.items()})
        masks = self._found.unpacked(self._found.newest)
        for layer in self.layers:
            layer.zero_(masks[layer.name])
        self._let_go()
        emptied = [name for name, mask in masks.items() if not mask.any()]
        if emptied:
            warnings.warn(
                f"The ticket prunes all of {first_names(emptied)}: the outputs of such a layer don't depend on its "
                "inputs. Prune less (`prune_ratio`), or the same share of each layer (`scope='layer'`).",
                stacklevel=2,
            )
        return Ticket(masks, config, list(self.history), self.converged, names)

    def tickets(self, ratios: Sequence[float] = (), *, speedups: Sequence[float] = ()) -> list[Ticket]:
        """The tickets of several prune ratios or speeds by the scores as they are now; nothing is drawn.

        Args:
            ratios (`Sequence[float]`): In [0, 1); an entry of `layers` with a ratio of its own keeps that.
            speedups (`Sequence[float]`): Above 1, as in `WormConfig`: of neurons and heads alone.

        Returns:
            `list[Ticket]`: First those of the ratios. With `converged=False`: their masks were not watched.

        Raises:
            ValueError: A ratio or a speed is out of range, or can't be had.
        """
        wanted = [replace(self.config, speedup=None, prune_ratio=ratio) for ratio in ratios]
        return [self._ticket(config) for config in (*wanted, *(replace(self.config, speedup=one) for one in speedups))]

    def require_speedups(self, speedups: Sequence[float]) -> None:
        """Raise a `ValueError` unless tickets of these speeds can be had."""
        for speedup in speedups:
            selection_of(replace(self.config, speedup=speedup)).require(self.layers, self._require_open())

    def _ticket(self, config: WormConfig) -> Ticket:
        """The ticket of other settings by the scores as they are now."""
        model, select = self._require_layers(), self.select
        if (config.speedup is None) != (self.config.speedup is None):
            select = selection_of(config)
            select.require(self.layers, model)
        packed = take_masks(select, self.score, self.layers, [layer.ratio(config.ratio) for layer in self.layers])
        names = {**self._parts.names, "select": select.name}
        return Ticket(self._found.unpacked(packed), config, list(self.history), parts=names)

    def close(self) -> None:
        """Let go of the model, its tensors and the optimizer; what was found can still be read and saved."""
        self._let_go()
        if self._attached is not None:
            self._attached.remove()
        self._attached, self._model, self.layers = None, None, []

    def state_dict(self) -> dict[str, Any]:
        """All that the search knows, for a checkpoint: tensors, numbers, strings, lists and dictionaries only.

        `"window"`: the last masks, oldest first, each a `dict` of packed `uint8` tensors by parameter name;
        `"start"`: the masks truncated by before the first observation, if there are any; `"shapes"`: the shapes of the
        masks; `"history"`: the observations; `"config"`: the settings; `"parts"`: the names of the parts; `"score"` and
        `"treatment"`: their states; `"step"` and `"observed"`: optimizer steps so far, and at the newest observation.
        """
        states = {"score": self.score.state_dict(), "treatment": self.treatment.state_dict()}
        return {**self._found.state_dict(), **states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where [`~TicketSearch.state_dict`] was taken; version 0.1.0 wrote no parts and no steps.

        Of a search for another `speedup` the scores go on, and the masks are taken anew.

        Raises:
            ValueError:
                The state is of a model with other representative layers, of a search with other masks (`prune_ratio`,
                `scope`, `window`, the score, the selection or the schedule differ), or incomplete.
        """
        model = self._require_open()
        put = self._found.read(
            state,
            lambda entries: [layer.ratio(self.config.ratio) for layer in representative_layers(model, entries)],
        )
        self.score.load_state_dict(state.get("score", {}))  # raises before anything is replaced
        self.treatment.load_state_dict(state.get("treatment", {}))
        put()
        self._renewed = False
        self._hold()

    # Masks.

    def _take_masks(self, ratios: Sequence[float]) -> Packed:
        self._require_layers()
        return take_masks(self.select, self.score, self.layers, ratios)

    def _masked(self, packed: Packed) -> Iterator[tuple[RepresentativeLayer, torch.Tensor]]:
        """Each layer with its mask, unpacked one at a time."""
        return ((layer, unpack(packed[layer.name], layer.shape)) for layer in self.layers if packed)

    # What the parts act on.

    def _renew_treatment(self) -> None:
        """Have the treatment go by the newest mask, at the first step that needs it."""
        if not self._renewed:
            self.treatment.renew(self._masked(self._masks_to_treat_by() if self.truncating else {}))
            self._renewed = True

    def _masks_to_treat_by(self) -> Packed:
        if not self.history and not self._found.start:
            self._found.start = self._take_masks(self._found.ratios)
        return self._found.newest or self._found.start

    def _truncated_weights(self) -> Scaled:
        if not self.treatment.scales_steps:
            return Scaled()
        self._renew_treatment()
        return self.treatment.step()

    def _hold(self) -> None:
        """Hold what the newest mask prunes at 0, where the schedule has that until the next is taken."""
        if self.schedule.holds and self.history and self._attached is not None and self._attached.active:
            reshard(self._require_layers())
            self._attached.hold(self.layers, self._found.unpacked(self._found.newest))

    def _let_go(self) -> None:
        """Drop what the parts keep of the weights, and hold nothing any more."""
        self.treatment.renew(())
        self._renewed = False
        if self._attached is not None:
            self._attached.release()

    # What must be there.

    def _require_open(self) -> nn.Module:
        if self._model is None:
            raise RuntimeError("The search is closed: it has let go of its model. Make a new one.")
        return self._model

    def _require_layers(self) -> nn.Module:
        model = self._require_open()
        require_present(model, self.layers)
        return model

    def _require_attached(self) -> None:
        if self._attached is None or not self._attached.active:
            raise RuntimeError(self._parts.not_attached())
