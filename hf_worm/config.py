"""The settings of a search and their validation."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from hf_worm.files import find_file, read_json, replace_file

CONFIG_NAME = "worm_config.json"
SCOPES = ("layer", "global")
NUMBERS = (
    *("prune_ratio", "truncation", "stopping_point", "margin", "retrain_epochs", "fade_epochs", "ramp_epochs"),
    *("distillation", "distillation_temperature"),
)


@dataclass(frozen=True)
class WormConfig:
    """Settings of a search for an early-bird ticket; the defaults are WORM's for transformers (arXiv:2406.11872).

    A dataclass that `HfArgumentParser` parses beside any `TrainingArguments`. Validated on creation.

    Args:
        prune_ratio (`float`, *optional*, defaults to 0.5):
            p, in [0, 1): of n units exactly `round(p * n)` are pruned, those with the smallest score.
        truncation (`float`, *optional*, defaults to 0.003):
            r, in [0, 1]: from the trigger point on, the gradients of the weights about to be pruned are multiplied by
            r, once per optimizer step. 1 is EB Train.
        stopping_point (`float`, *optional*, defaults to 0.01):
            s, in [0, 1]: the search has converged when the window is full and its largest mask distance is below s. 0:
            it never converges.
        margin (`float`, *optional*, defaults to 0.005):
            δ, at least 0: truncation begins when the mean mask distance is below s + δ.
        window (`int`, *optional*, defaults to 3):
            l, at least 2: the number of newest masks compared, the current one included.
        layers (`list[str]`, *optional*, defaults to `["query", "key"]`):
            Representative layers: `query`, `key`, `value` (attention projections), `batchnorm` (channels), `neurons`
            (of feed-forward blocks), `heads` (of attentions), full parameter names, or shell-style patterns of them. A
            feed-forward block or an attention never loses its last neuron or head. A word may be meant in some places
            only, `"neurons@*.layer.[6-9].*"`: where the layer's name matches. An entry may have a ratio of its own
            instead of p, such as `"neurons=0.75"`, in scope `"layer"`.
        scope (`str`, *optional*, defaults to `"layer"`):
            `"layer"`: p in each layer; `"global"`: p over all representative layers together; n and m, as in `"2:4"`:
            of each m neighbours in a row of a weight, the n of the largest scores stay, and `prune_ratio` is 1 - n / m.
        truncation_target (`str`, *optional*, defaults to `"gradient"`):
            `"gradient"`: scale the gradient (the paper's rule); `"update"`: scale the optimizer's step, which means
            the same for every optimizer, weight decay included; `"fade"`: as `"update"`, and from step to step the
            weights about to be pruned shrink as well, so that the model is without them by the time they go.
        sample_strategy (`str`, *optional*, defaults to `"epoch"`):
            Take the masks at the end of every `"epoch"`, or every `sample_steps` optimizer `"steps"`.
        sample_steps (`int`, *optional*):
            Optimizer steps from one sampling to the next; only with `sample_strategy="steps"`.
        retrain_epochs (`float`, *optional*, defaults to 1.0):
            Epochs of training with the ticket held, after the draw. 0: none.
        truncate_from (`str`, *optional*, defaults to `"trigger"`):
            `"trigger"`: truncation begins at the trigger point; `"start"`: with the first optimizer step (Table 1 of
            the paper), until the first observation by the mask of the weights that the search began with. `margin`
            then has nothing to decide.
        fade_epochs (`float`, *optional*, defaults to 1.0):
            Epochs in which a weight about to be pruned falls to 1 % of its size, above 0; only with
            `truncation_target="fade"`. The ticket is then drawn once the masks have converged and the weights to be
            pruned hold less than 3 % of the representative layers' L1 norm.
        compact (`bool`, *optional*, defaults to `False`):
            Once the ticket is drawn, cut what it prunes out of the model, and retrain the smaller one: for `neurons`,
            `heads`, and channels of the project's CNNs. A batch of the training set is read before the search and
            another after it: a stream that can't begin anew has lost them.
        retrain_schedule (`str`, *optional*, defaults to `"restart"`):
            `"restart"`: the retraining has an optimizer and a learning rate schedule of its own (the paper's rule);
            `"continue"`: the search's go on, at the row where it stopped (a stream begins anew), to the end of
            `num_train_epochs`, which is then the whole run; of `retrain_epochs` only 0 matters. Not with
            `compact=True`.
        score (`str`, *optional*, defaults to `"magnitude"`):
            By which the smallest go. `"magnitude"`: the absolute value of a weight or of γ, or the L1 norm of a unit's
            weights (the paper's). `"taylor"` and `"fisher"`: of the gate gradient a (the loss's derivative by a factor
            on all that a unit puts out), the mean of |a| and of a² over the optimizer steps.
        score_decay (`float`, *optional*):
            In [0, 1), for `"taylor"` and `"fisher"`: the mean is exponential, and what a step enters with falls by this
            factor at each further step. Without it all steps count alike.
        schedule (`str`, *optional*, defaults to `"early_bird"`):
            `"early_bird"`: the masks are drawn when they have stopped moving (the paper's rule); `"cubic"`: gradual
            pruning after Zhu and Gupta (2017): the ratio rises from 0 to p, the mask is taken anew at each sampling,
            what it prunes is 0 until the next, and it is drawn when the ratio has risen. Nothing is truncated then, and
            `stopping_point` and `margin` have nothing to decide.
        ramp_epochs (`float`, *optional*, defaults to 1.0):
            Epochs in which the ratio rises, above 0; only with `schedule="cubic"`.
        search_share (`float`, *optional*):
            In (0, 1): `num_train_epochs` is then the whole run, of which the search takes this share at the most, and
            the retraining the rest: as many steps as a training without pruning. Of `retrain_epochs` only 0 matters.
        speedup (`float`, *optional*):
            How many times faster the smaller model is to be, above 1; only with `layers` of `heads` and `neurons`. So
            many go that its multiply-adds are as many times fewer; `prune_ratio` has nothing to decide. With
            `scope="global"` those that stay have the largest sum of scores over all layers and both kinds (Kwon et al.,
            2022), which asks for `score="fisher"` or `"taylor"`; with `scope="layer"` each layer loses the same share.
        speedup_by (`str`, *optional*, defaults to `"multiply_adds"`):
            `"multiply_adds"`: they alone decide, and a run done again prunes the same; `"time"`: the trainer also
            times a forward pass of 32 rows before the draw, and prunes up to a quarter more if it is not as fast yet.
        distillation (`float`, *optional*, defaults to 0.0):
            α, in [0, 1]: the retraining's loss is (1 - α) times the task's and α times the distance to the outputs of
            the run's own model before the draw, which is kept in `dense/` in the run's folder. 0: none.
        distillation_temperature (`float`, *optional*, defaults to 2.0):
            T, above 0: both models' logits are divided by it before they are compared, and the distance multiplied by
            T². With `distillation` alone.

    Raises:
        ValueError: A setting is outside its range, or contradicts another.
    """

    _argument_group_name: ClassVar[str] = "pruning"  # the heading in a `HfArgumentParser`'s help

    prune_ratio: float = field(default=0.5, metadata={"help": "Share of the units to prune, in [0, 1)."})
    truncation: float = field(
        default=0.003, metadata={"help": "Factor on the gradients of the weights about to be pruned; 1 is EB Train."}
    )
    stopping_point: float = field(
        default=0.01,
        metadata={"help": "The ticket is drawn when the largest mask distance in a full window is below this."},
    )
    margin: float = field(
        default=0.005, metadata={"help": "Truncate once the mean mask distance is below stopping_point + margin."}
    )
    window: int = field(default=3, metadata={"help": "Number of newest masks compared, the current one included."})
    layers: list[str] = field(
        default_factory=lambda: ["query", "key"],
        metadata={
            "help": "What to watch and prune: query, key, value, batchnorm, neurons, heads, names or patterns. "
            "neurons=0.75 has a ratio of its own; neurons@*.layer.[6-9].* are those of some layers."
        },
    )
    scope: str = field(
        default="layer",
        metadata={
            "help": "Prune the ratio in each layer (layer), over all layers together (global), or all but n of each m "
            "neighbours (2:4)."
        },
    )
    truncation_target: Literal["gradient", "update", "fade"] = field(
        default="gradient",
        metadata={"help": "Scale the gradient (the paper's rule), or the optimizer's step, or shrink the weights too."},
    )
    sample_strategy: Literal["epoch", "steps"] = field(
        default="epoch", metadata={"help": "Take the masks at the end of every epoch, or every sample_steps steps."}
    )
    sample_steps: int | None = field(
        default=None, metadata={"help": "Optimizer steps between two samplings (sample_strategy=steps)."}
    )
    retrain_epochs: float = field(
        default=1.0, metadata={"help": "Epochs of training after the draw, with the pruned weights held at 0."}
    )
    truncate_from: Literal["trigger", "start"] = field(
        default="trigger", metadata={"help": "Truncate from the trigger point on, or from the first step."}
    )
    fade_epochs: float = field(
        default=1.0,
        metadata={"help": "Epochs in which a weight about to be pruned falls to a hundredth (truncation_target=fade)."},
    )
    compact: bool = field(
        default=False, metadata={"help": "Cut pruned neurons, heads or channels out, and retrain the smaller model."}
    )
    retrain_schedule: Literal["restart", "continue"] = field(
        default="restart",
        metadata={
            "help": "Retrain with a fresh optimizer and schedule for retrain_epochs, or go on with the search's to the "
            "end of num_train_epochs."
        },
    )
    score: Literal["magnitude", "taylor", "fisher"] = field(
        default="magnitude",
        metadata={"help": "Rank units by their weights, or by the mean size or square of their gate gradients."},
    )
    score_decay: float | None = field(
        default=None,
        metadata={"help": "Average gate gradients exponentially, by this factor a step (score=taylor or fisher)."},
    )
    schedule: Literal["early_bird", "cubic"] = field(
        default="early_bird",
        metadata={"help": "Draw when the masks have stopped moving, or let the ratio rise (gradual pruning)."},
    )
    ramp_epochs: float = field(
        default=1.0, metadata={"help": "Epochs in which the ratio rises to prune_ratio (schedule=cubic)."}
    )
    search_share: float | None = field(
        default=None,
        metadata={"help": "Search for this share of num_train_epochs at the most, and retrain for the rest of them."},
    )
    speedup: float | None = field(
        default=None,
        metadata={"help": "Prune heads and neurons until the smaller model is so many times faster; above 1."},
    )
    speedup_by: Literal["multiply_adds", "time"] = field(
        default="multiply_adds",
        metadata={"help": "Reach the speedup by multiply-adds alone, or by the measured time as well."},
    )
    distillation: float = field(
        default=0.0,
        metadata={
            "help": "Share of the retraining's loss that is the distance to the model before the draw, in [0, 1]."
        },
    )
    distillation_temperature: float = field(
        default=2.0, metadata={"help": "Temperature at which the outputs of both models are compared."}
    )

    def __post_init__(self) -> None:
        for setting in fields(self):  # numbers of NumPy, such as those of a sweep, are Python's from here on
            value = getattr(self, setting.name)
            if isinstance(value, Real) and not isinstance(value, bool):
                object.__setattr__(self, setting.name, int(value) if isinstance(value, Integral) else float(value))
        for name in NUMBERS:
            value = getattr(self, name)
            if not is_number(value):
                raise ValueError(f"`{name}` must be a finite number, got {value!r}.")
        if not isinstance(self.compact, bool):
            raise ValueError(f"`compact` must be true or false, got {self.compact!r}.")
        if not 0 <= self.prune_ratio < 1:
            raise ValueError(f"`prune_ratio` must be in [0, 1), got {self.prune_ratio}.")
        for name in ("truncation", "stopping_point", "distillation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        for name in ("margin", "retrain_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        for name in ("fade_epochs", "ramp_epochs", "distillation_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0, got {getattr(self, name)}.")
        if not is_count(self.window, 2):
            raise ValueError(
                f"`window` must be a whole number of at least 2, got {self.window!r}: a distance takes two masks."
            )
        for name in ("window", "sample_steps"):
            value = getattr(self, name)
            if is_count(value, sys.maxsize + 1):
                raise ValueError(f"`{name}` must be at most {sys.maxsize}, got {value}.")
        if not isinstance(self.layers, (list, tuple)) or not all(isinstance(layer, str) for layer in self.layers):
            raise ValueError(f"`layers` must be a list of strings such as ['query', 'key'], got {self.layers!r}.")
        if not self.layers or not all(self.layers):
            raise ValueError("`layers` is empty: name at least one layer to watch, such as 'query'.")
        object.__setattr__(self, "layers", list(self.layers))
        ratios = split_ratios(self.layers)
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                raise ValueError(f"`{name}` must be one of {get_args(kind)}, got {getattr(self, name)!r}.")
        if self.scope not in SCOPES and n_of_m(self.scope) is None:
            raise ValueError(f"`scope` must be one of {SCOPES}, or n of m such as '2:4', got {self.scope!r}.")
        if self.score_decay is not None and not (is_number(self.score_decay) and 0 <= self.score_decay < 1):
            raise ValueError(f"`score_decay` must be in [0, 1), or not given, got {self.score_decay!r}.")
        if self.search_share is not None and not (is_number(self.search_share) and 0 < self.search_share < 1):
            raise ValueError(f"`search_share` must be in (0, 1), or not given, got {self.search_share!r}.")
        if self.speedup is not None and not (is_number(self.speedup) and self.speedup > 1):
            raise ValueError(f"`speedup` must be a number above 1, or not given, got {self.speedup!r}.")
        if self.sample_strategy == "epoch" and self.sample_steps is not None:
            raise ValueError(f"`sample_steps={self.sample_steps!r}` needs `sample_strategy='steps'`, got 'epoch'.")
        if self.sample_strategy == "steps" and (self.sample_steps is None or not is_count(self.sample_steps, 1)):
            raise ValueError(
                "`sample_strategy='steps'` needs `sample_steps`, a whole number of at least 1, "
                f"got {self.sample_steps!r}."
            )
        self._refuse_contradictions(ratios)

    def _refuse_contradictions(self, ratios: Mapping[str, float | None]) -> None:
        """Raise a `ValueError` where a setting leaves another no meaning.

        Args:
            ratios (`dict[str, float | None]`): The entries of `layers`, each with its ratio if it has one.
        """
        own = next((f"{name}={ratio:g}" for name, ratio in ratios.items() if ratio is not None), None)
        if own is not None and self.scope != "layer":
            raise ValueError(
                f"`{own}` in `layers` has a ratio of its own, and `scope={self.scope!r}` one for all. Use "
                "`scope='layer'`, or name the layer without a ratio."
            )
        if self.compact and self.retrain_schedule == "continue":
            raise ValueError(
                "`compact=True` and `retrain_schedule='continue'` contradict each other: the dense model's optimizer "
                "can't go on with the smaller model's parameters. Set `retrain_schedule='restart'`."
            )
        if self.distillation and not self.retrain_epochs:
            raise ValueError(
                f"`distillation={self.distillation:g}` is a share of the retraining's loss, and `retrain_epochs=0` has "
                "no retraining. Leave one of them out."
            )
        if pattern := n_of_m(self.scope):
            self._refuse_with_pattern(1 - pattern[0] / pattern[1])
        if self.speedup is not None and own is not None:
            raise ValueError(
                f"`{own}` in `layers` has a ratio of its own, and `speedup={self.speedup:g}` finds the ratios. Leave "
                "one of them out."
            )
        if self.score == "magnitude" and self.score_decay is not None:
            raise ValueError(
                f"`score_decay={self.score_decay:g}` averages gate gradients, and `score='magnitude'` has none. Use "
                "`score='fisher'` or `'taylor'`, or leave `score_decay` out."
            )
        if self.score != "magnitude" and self.truncate_from == "start":
            raise ValueError(
                f"`truncate_from='start'` takes a mask before the first step, when `score={self.score!r}` has gathered "
                "no gradients yet. Use `truncate_from='trigger'`, or `score='magnitude'`."
            )
        if self.schedule == "cubic":
            for name, value, plain in (
                ("truncation_target", self.truncation_target, "gradient"),
                ("truncate_from", self.truncate_from, "trigger"),
            ):
                if value != plain:
                    raise ValueError(
                        f"`{name}={value!r}` truncates what the newest mask prunes, and with `schedule='cubic'` that "
                        f"is 0 at once. Use `schedule='early_bird'`, or leave `{name}` out."
                    )

    def _refuse_with_pattern(self, ratio: float) -> None:
        """Raise a `ValueError` where a setting does not go with n of m.

        Args:
            ratio (`float`): Share of the weights that goes.
        """
        if abs(self.prune_ratio - ratio) > 1e-6:
            raise ValueError(
                f"`scope={self.scope!r}` prunes {ratio:.6g} of the weights, got `prune_ratio={self.prune_ratio:g}`. "
                f"Set `prune_ratio={ratio:.6g}`, or use `scope='layer'`."
            )
        if self.schedule == "cubic":
            raise ValueError(
                f"`scope={self.scope!r}` has one ratio from the first mask on, and with `schedule='cubic'` it rises. "
                "Use `schedule='early_bird'`, or `scope='layer'`."
            )
        if self.speedup is not None:
            raise ValueError(
                f"`scope={self.scope!r}` prunes single weights, and `speedup={self.speedup:g}` asks for fewer neurons "
                "and heads. Use `scope='layer'` or `'global'`."
            )
        if self.compact:
            raise ValueError(
                f"`scope={self.scope!r}` prunes single weights, and `compact=True` cuts whole neurons, heads or "
                "channels out. Set `compact=False`, or use `scope='layer'` with such `layers`."
            )

    @property
    def ratio(self) -> float:
        """Share that goes: p of the units or, with a `speedup`, of the model's multiply-adds."""
        return self.prune_ratio if self.speedup is None else 1 - 1 / self.speedup

    @property
    def truncates(self) -> bool:
        """True if anything is done to the weights about to be pruned; EB Train only watches them."""
        return self.schedule == "early_bird" and (self.truncation != 1 or self.truncation_target == "fade")

    @property
    def prune_ratios(self) -> dict[str, float]:
        """p, under the name `"p"`, and the ratios of those entries of `layers` that have one of their own.

        Empty with a `speedup`, which finds them.
        """
        if self.speedup is not None:
            return {}
        own = {name: ratio for name, ratio in split_ratios(self.layers).items() if ratio is not None}
        return own if len(own) == len(self.layers) else {"p": self.prune_ratio, **own}

    @property
    def method(self) -> str:
        """The method's name: `"EB Train"`, `"WORM"`, `"WORM with fading"` or `"gradual pruning"`."""
        if self.schedule == "cubic":
            return "gradual pruning"
        if self.truncation_target == "fade":
            return "WORM with fading"
        return "WORM" if self.truncates else "EB Train"

    @classmethod
    def eb_train(cls, **changes: Any) -> "WormConfig":
        """EB Train (You et al., 2019): the same search without truncation (r = 1)."""
        return cls(**{"truncation": 1.0, **changes})

    @classmethod
    def cnn(cls, **changes: Any) -> "WormConfig":
        """The paper's settings for CNNs: BatchNorm channels, s = 0.1, δ = 0.05, l = 5.

        `WormConfig.cnn(truncation=1.0, scope="global")` is EB Train as it was published, with one threshold over the
        scales of all BatchNorms.
        """
        return cls(**{"layers": ["batchnorm"], "stopping_point": 0.1, "margin": 0.05, "window": 5, **changes})

    @classmethod
    def fade(cls, **changes: Any) -> "WormConfig":
        """WORM with fading: the weights about to be pruned shrink to nothing before they are drawn.

        An addition of this library's to the paper's method.

        Since nothing jumps at the draw, the search's optimizer and schedule go on after it, which ended higher than a
        fresh schedule on MRPC, and level on SST-2 (benchmarks/results/reproduce-small.md). A smaller model takes a
        fresh one: `WormConfig.fade(compact=True, retrain_schedule="restart")`.
        """
        return cls(**{"truncation_target": "fade", "retrain_schedule": "continue", **changes})

    @classmethod
    def faster(cls, speedup: float = 2.0, **changes: Any) -> "WormConfig":
        """A model that is so many times faster, nearly as good, and cheaper to train than the dense one.

        Heads and neurons go by the mean square of their gate gradients, over all layers together, after a quarter of
        `num_train_epochs`; the smaller model is trained for the rest. These are the settings that did best so far in
        benchmarks/results/speedups.md.

        Args:
            speedup (`float`, *optional*, defaults to 2.0): How many times faster, above 1.
            changes: Other settings.
        """
        settings = {
            "layers": ["heads", "neurons"],
            "scope": "global",
            "score": "fisher",
            "truncation": 1.0,
            "search_share": 0.25,
            "compact": True,
            "speedup_by": "time",
        }
        return cls(**{**settings, "speedup": speedup, **changes})

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write `worm_config.json` into `save_directory`, which is made where it is missing."""
        replace_file(Path(save_directory) / CONFIG_NAME, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, dir_or_repo: str | os.PathLike[str], **hub_options: Any) -> "WormConfig":
        """Read `worm_config.json` from a folder or a Hub repository.

        Args:
            dir_or_repo (`str` or `os.PathLike`): A folder, or the id of a repository on the Hub.
            hub_options: As for `hf_hub_download` (`subfolder`, `revision`, `token`, ...).

        Raises:
            FileNotFoundError: The folder or repository has no `worm_config.json`.
            TypeError: `hf_hub_download` has no such option.
            ValueError: The file is not JSON, names an unknown setting or holds a wrong value.
        """
        path = find_file(dir_or_repo, CONFIG_NAME, **hub_options)
        settings = read_json(path)
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must hold a JSON object of settings, got a {type(settings).__name__}.")
        unknown = sorted(set(settings) - {known.name for known in fields(cls)})
        if unknown:
            raise ValueError(f"{path} holds settings that this version of hf_worm does not know: {unknown}.")
        try:
            return cls(**settings)
        except ValueError as error:
            raise ValueError(f"{path} won't do: {error}") from error


def split_ratios(entries: Sequence[str]) -> dict[str, float | None]:
    """The entries of `layers` without their ratios, each with its ratio if it has one: `"neurons=0.75"`.

    Raises:
        ValueError: A ratio is no number in [0, 1), or what one entry names has another ratio in a second.
    """
    ratios: dict[str, float | None] = {}
    for entry in entries:
        name, equals, number = entry.rpartition("=") if "=" in entry else (entry, "", "")
        try:
            ratio = float(number) if equals else None
        except ValueError as error:
            raise ValueError(f"`{number}` in `layers`, of `{entry}`, is no ratio: `{name}=0.5` has one.") from error
        if ratio is not None and not 0 <= ratio < 1:
            raise ValueError(f"The ratio of `{entry}` in `layers` must be in [0, 1): `{name}=0.5` has one.")
        if ratios.setdefault(name, ratio) != ratio:
            raise ValueError(f"`{name}` is named twice in `layers`, with two ratios: {list(entries)}.")
    return ratios


def n_of_m(scope: object) -> tuple[int, int] | None:
    """Read n and m from a scope such as `"2:4"`, with 0 < n < m; `None` where it is no such scope."""
    numbers = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", scope) if isinstance(scope, str) else None
    if numbers is None or int(numbers[1]) >= int(numbers[2]):
        return None
    return int(numbers[1]), int(numbers[2])


def is_number(value: object) -> bool:
    """True if it is a finite number; `True` is none, nor is a whole number too large for a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_count(value: object, least: int) -> bool:
    """True if it is a whole number of at least so many; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
