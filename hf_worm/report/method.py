"""The method of a run in words: its name, its numbers, its papers, and what of it the papers don't have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_worm.config import WormConfig
from hf_worm.report.text import counted

SCORES = {"magnitude": "", "fisher": "Fisher", "taylor": "Taylor"}  # empty: the paper's, which goes without saying
SELECTIONS = ("layer", "global")  # said by the settings alone
NAMES = {"nothing": "EB Train", "gradient": "WORM", "update": "WORM", "fade": "WORM with fading"}  # by treatment
MASKS = "the masks had "
# What has to happen for the draw, by schedule.
RULES = {"early_bird": (MASKS, "converged"), "cubic": ("the full ratio was ", "reached")}
OWN_RULE = (MASKS, "settled")  # of a schedule of the user's own


@dataclass(frozen=True)
class Method:
    """The way in which the masks of a run were chosen.

    Args:
        settings (`Mapping[str, Any]`): The fields of a `WormConfig`, as far as they are on record.
        parts (`Mapping[str, str]`, *optional*): Names of the parts of the search; empty in the reports of 0.1.0.
        searched (`bool`, *optional*, defaults to `True`): Whether a search has found them; else they were given, or are
            those of weights that were 0 already.
    """

    settings: Mapping[str, Any]
    parts: Mapping[str, str] = field(default_factory=dict)
    searched: bool = True

    @property
    def score(self) -> str:
        """The score's name as people write it; empty for the paper's, magnitude."""
        name = self.parts.get("score") or str(self.settings.get("score", "magnitude"))
        return SCORES.get(name, name)

    @property
    def selection(self) -> str:
        """The selection's name, such as "2:4"; empty for the paper's, by a ratio."""
        by_settings = "speedup" if self.settings.get("speedup") else str(self.settings.get("scope", "layer"))
        name = self.parts.get("select") or by_settings
        return "" if name in SELECTIONS else name

    @property
    def schedule(self) -> str:
        """The schedule's name: the rule by which the masks were taken and drawn."""
        return self.parts.get("schedule") or str(self.settings.get("schedule", "early_bird"))

    @property
    def treatment(self) -> str:
        """The treatment's name: what was done to the weights to be pruned."""
        if self.schedule == "cubic" or not self.searched:
            return "nothing"
        target = str(self.settings.get("truncation_target", "gradient"))
        by_settings = "nothing" if self.settings["truncation"] == 1 and target != "fade" else target
        return self.parts.get("treatment") or by_settings

    @property
    def early_bird(self) -> bool:
        """Tell whether mask distances decided, as in the paper."""
        return self.searched and self.schedule == "early_bird"

    @property
    def truncates(self) -> bool:
        """Tell whether the search did anything to the weights to be pruned."""
        return self.treatment != "nothing"

    @property
    def fades(self) -> bool:
        """Tell whether the weights to be pruned shrink before the draw."""
        return self.treatment == "fade"

    @property
    def name(self) -> str:
        """The method's name within a sentence."""
        if self.schedule == "cubic":
            return "gradual pruning"
        if not self.early_bird:
            return f"the schedule {self.schedule}"
        name = NAMES.get(self.treatment, f"EB Train with the treatment {self.treatment}")
        return f"{name}, drawn after {self.search_share:.0%} of the run" if self.search_share else name

    @property
    def search_share(self) -> float | None:
        """Share of the run after which the masks are drawn, converged or not; `None` without one."""
        return self.settings.get("search_share") if self.searched else None

    @property
    def line(self) -> str:
        """The method's name with its numbers: "WORM (p 0.5, r 0.003, s 0.01, δ 0.005, l 3)"."""
        if not self.searched:
            return "Masks that were given"
        numbers = [*self._score(), *self._ratios(), *self._truncation(), *self._ending()]
        return f"{self.name[0].upper()}{self.name[1:]} ({', '.join(numbers)})"

    def _score(self) -> list[str]:
        decay = self.settings.get("score_decay")
        return [f"{self.score} score", *([] if decay is None else [f"decay {decay:g}"])] if self.score else []

    def _ratios(self) -> list[str]:
        """Write p and the ratios of those entries of `layers` that have their own; a pattern stands for its ratio."""
        if ":" in self.selection:
            return [self.selection]
        if self.selection == "speedup":
            over = "over all layers" if self.settings["scope"] == "global" else "in each layer"
            return [f"{self.settings['speedup']:g}× fewer multiply-adds {over}"]
        config = WormConfig(prune_ratio=self.settings["prune_ratio"], layers=self.settings["layers"])
        ratios = [f"{name} {ratio:g}" for name, ratio in config.prune_ratios.items()]
        return [*ratios, *([f"{self.selection} selection"] if self.selection else [])]

    def _truncation(self) -> list[str]:
        watches = self.early_bird and not self.search_share
        return [f"r {self.settings['truncation']:g}"] if watches or self.truncates else []

    def _ending(self) -> list[str]:
        """Write the numbers that decide when the ticket is drawn."""
        settings = self.settings
        if self.schedule == "cubic":
            return [f"cubic, in {counted(settings.get('ramp_epochs', 1.0), 'epoch')}"]
        numbers = [f"s {settings['stopping_point']:g}", f"δ {settings['margin']:g}", f"l {settings['window']}"]
        if self.search_share and not self.truncates:
            return []
        faded = [f"faded in {counted(settings.get('fade_epochs', 1.0), 'epoch')}"] if self.fades else []
        return [*(numbers if self.early_bird else []), *faded]

    def outcome(self, settled: bool) -> str:
        """Say whether what the schedule waits for had happened: "the masks had converged"."""
        subject, verb = RULES.get(self.schedule, OWN_RULE)
        return f"{subject}{'' if settled else 'not '}{verb}"

    def additions(self) -> list[str]:
        """Say in sentences which parts the method's paper doesn't have."""
        told = []
        if self.fades:
            told.append(
                "Fading, by which weights shrink before they are pruned, is an addition of `hf_worm` to the paper's "
                "method."
            )
        if self.searched and self.score:
            told.append(f"Units are ranked by the {self.score} score; the paper's method ranks them by magnitude.")
        if self.searched and ":" in self.selection:
            kept, of = self.selection.split(":")
            told.append(f"Of each {of} neighbouring weights in a row {kept} are kept.")
        if self.searched and self.selection == "speedup":
            told.append(
                "As many units go as it takes to be so fast, and those that stay have the largest sum of scores (Kwon "
                "et al., 2022, arXiv:2204.09656); the paper's method prunes a given share."
            )
        return told
