"""Trains one model by one method, WORM or a baseline, and says what came of it.

All methods share the data, the model, the optimizer and the code that trains (`WormTrainer`'s phases); they differ in
when a mask is taken, from which weights, and what is trained before and after.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # of machine.py

import torch
from machine import machine, packaged_model
from protocol import CIFAR10, IMAGES, Scale, Setting
from transformers import TrainerCallback
from transformers.utils.logging import disable_progress_bar

from hf_worm import Ticket, TicketSearch, WormConfig, WormTrainer
from hf_worm.checkpoint.state import load_state, save_state
from hf_worm.commands.glue.command import GLUE
from hf_worm.commands.glue.job import build_trainer as build_for_glue
from hf_worm.commands.image.command import IMAGE
from hf_worm.commands.image.job import build_trainer as build_for_images
from hf_worm.commands.job.parsing import parse
from hf_worm.core.masks import keep_mask
from hf_worm.schedule import Cubic
from hf_worm.scores import Magnitude
from hf_worm.units import RepresentativeLayer
from hf_worm.units.layer import View

Score = Callable[[RepresentativeLayer], torch.Tensor]  # of each unit
Build = Callable[..., WormTrainer]  # from changes of the arguments: a trainer with the pretrained weights
ROUNDS = 3  # of the lottery-ticket procedure
TARGETS = {"worm_update": "update", "worm_fade": "fade", "fade_throughout": "fade"}
TARGETS |= dict.fromkeys(("fade_linear", "fade_cubic"), "update")  # what makes the weights smaller is here
UPDATES_PER_EPOCH = 10  # of gradual pruning's mask
TRIGGER = 2  # the epoch at whose end truncation begins where the masks hardly move: the first with a distance


def run(setting: Setting, scale: Scale, data: Path | None, cache: Path) -> dict[str, Any]:
    """Train as `setting` says, and tell the outcome.

    Args:
        setting (`Setting`): Of the run.
        scale (`Scale`): Model, rows and optimizer.
        data (`Path`, *optional*): Folder with `glue` and `cifar10`, each laid out as on the Hub; `None`: the Hub.
        cache (`Path`): Folder for the weights of searches without truncation, see [`kept_search`].

    Returns:
        `dict`: JSON-ready. `metrics` at the stages that the method has (`before_draw`, `drawn`, `retrained`),
        `search_epochs`, `converged`, `observations`; `steps` of the optimizer; `seconds` and `cpu_seconds` (of this
        process, whatever else the machine did) in all; `evaluations` (accuracy) and `losses` by step; `machine`.
    """
    disable_progress_bar()
    warnings.filterwarnings("ignore", "The masks had not converged")
    warnings.filterwarnings("ignore", "The ticket prunes all")
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:

        def build(**changes: Any) -> WormTrainer:
            return build_trainer(setting, scale, data, folder, changes)

        found = BY_NAME[setting.method](setting, build, cache / key(setting, scale))
    found["cpu_seconds"] = time.process_time() - begun + found.get("cpu_seconds", 0.0)
    return {**found, "machine": machine()}


def key(setting: Setting, scale: Scale) -> str:
    """A name for all that a search without truncation depends on."""
    depends_on = json.dumps([scale.circumstances(setting.task), setting.search_epochs])
    return f"{setting.task}-{setting.seed}-{hashlib.sha256(depends_on.encode()).hexdigest()[:8]}.pt"


def build_trainer(
    setting: Setting, scale: Scale, data: Path | None, folder: str, changes: dict[str, Any]
) -> WormTrainer:
    """A trainer with the pretrained model, whose weights depend on the seed alone."""
    values = {
        "output_dir": folder,
        "seed": setting.seed,
        "num_train_epochs": setting.search_epochs,
        "prune_ratio": setting.prune_ratio,
        "truncation": setting.truncation,
        "truncate_from": setting.truncate_from,
        "truncation_target": TARGETS.get(setting.method, "gradient"),
        "fade_epochs": setting.fade_epochs,
        "retrain_schedule": setting.retrain_schedule,
        "retrain_epochs": 0,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_steps": 8,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        **changes,
    }
    argv = ["--layers", *setting.layers]
    for name, value in values.items():
        argv += [f"--{name}", str(value)]
    if setting.task in IMAGES:
        arguments = scale.image_arguments[setting.task]
        images = [_local(CIFAR10, data, "cifar10") if part == CIFAR10 else part for part in arguments]
        argv += ["--model", setting.task, *images]
        return build_for_images(parse(IMAGE, argv))[0]
    argv += ["--model_name_or_path", scale.text_model or packaged_model(), "--task_name", setting.task]
    argv += ["--dataset_name", _local("nyu-mll/glue", data, "glue")]
    argv += ["--per_device_train_batch_size", "32", "--per_device_eval_batch_size", "64", "--max_seq_length", "128"]
    argv += scale.text_arguments
    if setting.task in scale.rows:
        argv += ["--max_train_samples", str(scale.rows[setting.task])]
    return build_for_glue(parse(GLUE, argv))[0]


def _local(name: str, data: Path | None, folder: str) -> str:
    return name if data is None else str(data / folder)


# The methods. Each returns what `outcome` makes of its trainer.


def dense(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """Plain fine-tuning, as long as the others in all."""
    trainer = build(dense=True, num_train_epochs=setting.epochs)
    trained = trainer.train()
    metrics = {"dense": evaluate(trainer)}
    steps, seconds = trainer.state.global_step, trained.metrics["train_runtime"]
    return {**outcome(trainer), "metrics": metrics, "steps": steps, "seconds": seconds}


def dense_restarted(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """As EB Train that searches for all its epochs, and prunes nothing: what a second schedule is worth by itself."""
    trainer, spent = plain_search(build, cache, stopping_point=0)
    draw(trainer, magnitude_masks(trainer, 0.0))
    retrain(trainer, setting)
    return {**outcome(trainer), "cpu_seconds": spent}


def before(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """The smallest weights of the pretrained model go, then it is fine-tuned with the mask held."""
    trainer = build()
    draw(trainer, magnitude_masks(trainer, setting.prune_ratio))
    retrain(trainer, setting)
    return outcome(trainer)


def one_shot(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """Train to the end, prune the smallest weights, retrain."""
    trainer, spent = plain_search(build, cache, stopping_point=0)  # which no distance is below
    trainer.draw_ticket()
    retrain(trainer, setting)
    return {**outcome(trainer), "cpu_seconds": spent}


def random(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """As `one_shot`, with a mask drawn at random: the control."""
    generator = torch.Generator().manual_seed(setting.seed)
    return ranked_by(lambda layer: torch.rand(layer.shape, generator=generator), setting, build, cache)


def by_l2_norm(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """As `one_shot`, with larger units ranked by their L2 norm."""
    return ranked_by(SCORES["L2 norm"], setting, build, cache)


def ranked_by(score: Score, setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """Train to the end, prune the units of the lowest score, retrain."""
    trainer, spent = plain_search(build, cache, stopping_point=0)
    assert trainer.search is not None
    layers = trainer.search.layers
    draw(trainer, {layer.name: keep_mask(score(layer), setting.prune_ratio) for layer in layers})
    retrain(trainer, setting)
    return {**outcome(trainer), "cpu_seconds": spent}


NOT_SEARCHED = {"search_epochs": 0.0, "converged": False, "observations": [], "steps_by_phase": {}}


def gradual(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """The ratio grows by the cubic schedule of Zhu and Gupta (arXiv:1710.01878) while the model is fine-tuned."""
    trainer = build(
        schedule="cubic",
        ramp_epochs=setting.ramp * setting.epochs,
        sample_strategy="steps",
        sample_steps=steps_between(build, UPDATES_PER_EPOCH),
        num_train_epochs=setting.epochs,
        retrain_schedule="continue",
        retrain_epochs=1,
    )
    trainer.train()
    found = outcome(trainer)  # by plan: nothing is searched for
    return {**found, **NOT_SEARCHED, "metrics": {stage: found["metrics"][stage] for stage in ("drawn", "retrained")}}


def gradual_restarted(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """As `gradual`, but that the optimizer and its schedule begin anew after the search's epochs."""
    every = steps_between(build, UPDATES_PER_EPOCH)
    schedule = CubicThenHeld(setting.ramp * setting.search_epochs, every, setting.search_epochs)
    trainer = build(stopping_point=0, truncation=1.0)
    assert trainer.worm_config is not None
    trainer.search = TicketSearch(trainer.model, trainer.worm_config, schedule=schedule)
    trainer.search_ticket()
    trainer.draw_ticket()
    retrain(trainer, setting)
    return outcome(trainer)


class CubicThenHeld(Cubic):
    """The cubic schedule, whose last mask is held for a while before it is drawn.

    Args:
        ramp_epochs (`float`), sample_steps (`int`): As of the base class.
        epochs (`float`): Epochs to the draw.
    """

    def __init__(self, ramp_epochs: float, sample_steps: int, epochs: float) -> None:
        super().__init__(ramp_epochs, sample_steps)
        self.epochs, self.end = epochs, 0

    def start(self, steps_per_epoch: int | None) -> None:
        super().start(steps_per_epoch)
        self.end = round(self.epochs * (steps_per_epoch or 1))

    def due(self, step: int, epoch_end: bool) -> bool:
        return step == self.end or (step <= self.last_step and super().due(step, epoch_end))

    def settled(self, step: int, distances: Sequence[float], full: bool) -> bool:
        return step >= self.end


def steps_between(build: Build, samples_per_epoch: int) -> int:
    """Count the optimizer steps from one of so many samplings in an epoch to the next."""
    return max(round(len(build().get_train_dataloader()) / samples_per_epoch), 1)


def lottery(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """Iterative magnitude pruning (Frankle and Carbin, arXiv:1803.03635): train, prune a part, rewind, again.

    Rewound to the pretrained weights (Chen et al., arXiv:2007.12223). The epochs are shared by the rounds and the
    training of what they found.
    """
    epochs = setting.epochs / (ROUNDS + 1)
    masks = None
    steps, seconds = 0, 0.0
    for number in range(ROUNDS + 1):
        trainer = build()  # the pretrained weights again
        draw(trainer, magnitude_masks(trainer, 0.0) if masks is None else masks)
        retrain(trainer, dataclasses.replace(setting, retrain_epochs=epochs))
        steps += sum(trainer.progress.steps.values())
        seconds += sum(trainer.progress.seconds.values())
        if number < ROUNDS:
            masks = magnitude_masks(trainer, 1 - (1 - setting.prune_ratio) ** ((number + 1) / ROUNDS))
    return {**outcome(trainer), "steps": steps, "seconds": seconds, "search_epochs": epochs * ROUNDS}


def searched(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """EB Train and WORM, as `WormTrainer` has them."""
    spent, changes = 0.0, {}
    if setting.samples_per_epoch > 1:
        steps = math.ceil(len(build().get_train_dataloader()) / setting.samples_per_epoch)
        changes = {"sample_strategy": "steps", "sample_steps": steps}
    goes_on = setting.retrain_schedule == "continue"  # with an optimizer, which a plain search does not keep
    if setting.truncation == 1 and not changes and not goes_on and setting.task not in IMAGES:
        trainer, spent = plain_search(build, cache)
    elif setting.truncation != 1 and not changes and setting.truncate_from == "trigger" and setting.task not in IMAGES:
        trainer, spent = truncated_search(build, cache)
    else:
        trainer = build(**changes)
        trainer.search_ticket()
    trainer.draw_ticket()
    retrain(trainer, setting)
    return {**outcome(trainer), "cpu_seconds": spent}


def fade_by_schedule(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """As `WormTrainer` fades, but for the curve: linear, or cubic as in gradual pruning, to exactly 0."""
    trainer = build()
    trainer.add_callback(Schedule(trainer, setting))
    trainer.search_ticket()
    trainer.draw_ticket()
    retrain(trainer, setting)
    return outcome(trainer)


class Schedule(TrainerCallback):
    """After each step, makes the weights about to be pruned smaller; they are gone `fade_epochs` after it began."""

    def __init__(self, trainer: WormTrainer, setting: Setting) -> None:
        self.trainer, self.setting = trainer, setting
        self.power = {"fade_linear": 1, "fade_cubic": 3}[setting.method]
        self.steps = 0
        self.begun = 0  # observations so far when `masks` were taken
        self.masks: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        search = self.trainer.search
        if not self.trainer.searching or search is None or not search.truncating:
            return
        if not self.masks or len(search.history) != self.begun:
            self.begun = len(search.history)
            self.masks = search.masks or magnitude_masks(self.trainer, self.setting.prune_ratio)
        in_epoch = state.max_steps / self.setting.search_epochs
        before, now = (
            max(1 - steps / (self.setting.fade_epochs * in_epoch), 0.0) for steps in (self.steps, self.steps + 1)
        )
        self.steps += 1
        factor = (now / before) ** self.power if before else 0.0
        with torch.no_grad():
            for layer in search.layers:
                layer.weight.mul_(torch.where(self.masks[layer.name], 1.0, factor))


def fade_throughout(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """No draw but at the end of all epochs: what has faded stays faded, under one optimizer and one schedule."""
    config = WormConfig()
    trainer = build(stopping_point=0, margin=config.stopping_point + config.margin)  # the trigger point is the same
    trainer.search_ticket()
    trainer.draw_ticket()
    trainer.progress.metrics["retrained"] = trainer.progress.metrics["drawn"]
    return outcome(trainer)


def drift(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """How far the masks of a search without truncation are from the pretrained weights', epoch by epoch."""
    kept, spent = kept_search(build, cache)
    trainer = build()
    start = magnitude_masks(trainer, setting.prune_ratio)
    units = sum(mask.numel() for mask in start.values())
    moved = []
    for _, weights in kept["epochs"]:
        trainer.model.load_state_dict(weights)
        masks = magnitude_masks(trainer, setting.prune_ratio)
        moved.append(sum(int((mask ^ start[name]).sum()) for name, mask in masks.items()) / units)
    return {"metrics": {}, "steps": kept["epochs"][-1][0], "from_pretrained": moved, "cpu_seconds": spent}


RANDOM = 3  # masks
# What units might be ranked by; the largest stay.
SCORES: dict[str, Score] = {
    "L1 norm": Magnitude().of,  # what `TicketSearch` has
    "L2 norm": lambda layer: torch.stack([_norms(view) ** 2 for view in layer.views]).sum(0).sqrt(),
    "L2 norm in × out": lambda layer: _norms(layer.views[0]) * _norms(layer.views[-1]),
    "L1 norm, the largest go": lambda layer: Magnitude().of(layer).max() - Magnitude().of(layer),
}


def _norms(view: View) -> torch.Tensor:
    return view.weight.detach().flatten(1).norm(dim=1)


def scores(setting: Setting, build: Build, cache: Path) -> dict[str, Any]:
    """What a search without truncation loses at its end when units are drawn by other scores, without retraining."""
    kept, spent = kept_search(build, cache)
    trainer = build()
    assert trainer.search is not None and trainer.worm_config is not None
    generator = torch.Generator().manual_seed(setting.seed)
    ranked = dict(SCORES)
    for number in range(1, RANDOM + 1):
        ranked[f"random {number}"] = lambda layer: torch.rand(layer.shape, generator=generator)
    found = {}
    for name in ("not pruned", *ranked):
        trainer.model.load_state_dict(kept["epochs"][-1][1])
        if name in ranked:
            masks = {layer.name: keep_mask(ranked[name](layer), setting.prune_ratio) for layer in trainer.search.layers}
            Ticket(masks, trainer.worm_config).apply_(trainer.model)
        found[name] = evaluate(trainer)
    return {"metrics": {}, "steps": kept["epochs"][-1][0], "drawn_by": found, "cpu_seconds": spent}


BY_NAME = {
    "dense": dense,
    "dense_restarted": dense_restarted,
    "before": before,
    "one_shot": one_shot,
    "gradual": gradual,
    "gradual_restarted": gradual_restarted,
    "lottery": lottery,
    "random": random,
    "l2_norm": by_l2_norm,
    "eb_train": searched,
    "worm_gradient": searched,
    "worm_update": searched,
    "worm_fade": searched,
    "fade_linear": fade_by_schedule,
    "fade_cubic": fade_by_schedule,
    "fade_throughout": fade_throughout,
    "drift": drift,
    "scores": scores,
}


# What they share.


def kept_search(build: Build, kept: Path) -> tuple[dict[str, Any], float]:
    """A search without truncation, which only watches; CPU seconds of it that were spent here.

    What is watched, and at which ratio, then changes nothing in the training: it is done once, as long as it may take.
    Its weights are kept at the end of every epoch, and the whole checkpoint at the end of one of them, `TRIGGER`.
    """
    spent, checkpoint = 0.0, kept.with_suffix(".checkpoint")
    if not (kept.exists() and checkpoint.exists()):
        begun = time.process_time()
        trainer = build(stopping_point=0, truncation=1.0, truncation_target="gradient", save_strategy="epoch")
        keeper = KeepWeights()
        trainer.add_callback(keeper)
        trainer.search_ticket()
        spent = time.process_time() - begun
        seconds = {"seconds": trainer.progress.seconds["search"], "cpu_seconds": spent}
        kept.parent.mkdir(parents=True, exist_ok=True)
        if not checkpoint.exists():  # or another process was faster
            shutil.move(Path(str(trainer.args.output_dir)) / f"checkpoint-{keeper.epochs[TRIGGER - 1][0]}", checkpoint)
        beside = kept.with_suffix(f".{os.getpid()}")
        torch.save({"epochs": keeper.epochs, "log": trainer.state.log_history, **seconds}, beside)
        os.replace(beside, kept)
    found: dict[str, Any] = torch.load(kept)
    return found, spent


def plain_search(build: Build, cache: Path, **changes: Any) -> tuple[WormTrainer, float]:
    """A trainer after a search without truncation; CPU seconds of it that were spent elsewhere.

    It observes the weights of the [`kept_search`] in turn. Steps, epochs and seconds are those that its own training
    would have taken.
    """
    found, spent_here = kept_search(build, cache)
    trainer = build(**changes)
    assert trainer.search is not None
    for _, weights in found["epochs"]:
        trainer.model.load_state_dict(weights)
        if trainer.search.observe().converged:
            break
    epochs = len(trainer.search.history)
    steps, last = found["epochs"][epochs - 1][0], found["epochs"][-1][0]
    trainer.state.log_history = [entry for entry in found["log"] if entry["step"] <= steps]
    trainer.progress.steps["search"], trainer.progress.epochs["search"] = steps, float(epochs)
    trainer.progress.seconds["search"] = found["seconds"] * steps / last
    state = trainer.state  # the retraining goes on from it
    state.global_step, state.epoch = steps, float(epochs)
    state.train_batch_size = trainer.args.train_batch_size
    state.compute_steps(trainer.args, last)
    return trainer, found["cpu_seconds"] * steps / last - spent_here


def truncated_search(build: Build, cache: Path) -> tuple[WormTrainer, float]:
    """A trainer after a search with truncation; CPU seconds of it that were spent elsewhere.

    Up to the trigger point it is the search without: where that point is at the end of the epoch of which the
    [`kept_search`] has a checkpoint, the search goes on from there.
    """
    found, spent_here = kept_search(build, cache)
    watching, trainer = build(), build()
    assert watching.search is not None
    for _, weights in found["epochs"][:TRIGGER]:
        watching.model.load_state_dict(weights)
        watching.search.observe()
    truncating = [seen.truncating for seen in watching.search.history]
    if truncating != [False] * (TRIGGER - 1) + [True] or watching.search.converged:
        trainer.search_ticket()
        return trainer, -spent_here
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = shutil.copytree(cache.with_suffix(".checkpoint"), Path(folder) / "checkpoint")
        progress, _ = load_state(checkpoint)
        save_state(checkpoint, progress, watching.search.state_dict())
        trainer.search_ticket(str(checkpoint))
    share = found["epochs"][TRIGGER - 1][0] / found["epochs"][-1][0]
    return trainer, found["cpu_seconds"] * share - spent_here


class KeepWeights(TrainerCallback):
    """Keeps the weights of every epoch, with the steps that they took."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, dict[str, torch.Tensor]]] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        self.epochs.append((state.global_step, weights))


def draw(trainer: WormTrainer, masks: dict[str, torch.Tensor]) -> None:
    """As `draw_ticket`, with given masks instead of the search's."""
    assert trainer.worm_config is not None
    trainer.progress.enter("draw")
    trainer.progress.metrics["before_draw"] = evaluate(trainer)
    trainer.ticket = Ticket(masks, trainer.worm_config)
    trainer.ticket.apply_(trainer.model)
    trainer.progress.metrics["drawn"] = evaluate(trainer)
    trainer.progress.tick()


def retrain(trainer: WormTrainer, setting: Setting) -> None:
    """Retrain with the ticket held for what is left of the run's epochs, or as long as the setting says."""
    assert trainer.worm_config is not None
    if setting.retrain_schedule == "continue":
        trainer.retrain()
        return
    rest = setting.epochs - trainer.progress.epochs.get("search", 0.0)
    epochs = rest if setting.retrain_epochs is None else setting.retrain_epochs
    if epochs == 0:  # the search took them all
        trainer.progress.metrics["retrained"] = trainer.progress.metrics["drawn"]
        return
    trainer.worm_config = dataclasses.replace(trainer.worm_config, retrain_epochs=epochs)
    trainer.retrain()


def magnitude_masks(
    trainer: WormTrainer, prune_ratio: float, layers: tuple[str, ...] | None = None
) -> dict[str, torch.Tensor]:
    """The mask of each layer's weights as they are now."""
    names = list(layers) if trainer.worm_config is None else trainer.worm_config.layers
    search = TicketSearch(trainer.model, WormConfig(prune_ratio=prune_ratio, layers=names))
    search.observe()
    return {name: mask.cpu() for name, mask in search.masks.items()}


def evaluate(trainer: WormTrainer) -> dict[str, float]:
    metrics = trainer.evaluate()
    return {name.removeprefix("eval_"): metrics[name] for name in ("eval_accuracy", "eval_loss")}


def outcome(trainer: WormTrainer) -> dict[str, Any]:
    """What a run says of itself, in the shape that all methods share."""
    progress, log, ticket = trainer.progress, trainer.state.log_history, trainer.ticket
    return {
        "metrics": progress.metrics,
        "search_epochs": progress.epochs.get("search", 0.0),
        "converged": ticket is not None and ticket.converged,
        "observations": [dataclasses.asdict(seen) for seen in (ticket.history if ticket is not None else [])],
        "steps": sum(progress.steps.values()),
        "steps_by_phase": progress.steps,
        "seconds": sum(progress.seconds.values()),
        "evaluations": [(entry["step"], entry["eval_accuracy"]) for entry in log if "eval_accuracy" in entry],
        "losses": [(entry["step"], entry["loss"]) for entry in log if "loss" in entry],
    }
