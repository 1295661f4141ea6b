"""Sentences about a run: how far it is, how its masks were found, how much is pruned, and what that gained."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_worm.report.account import NOTE, NOTE_COMPACT
from hf_worm.report.method import MASKS
from hf_worm.report.record import Record
from hf_worm.report.text import counted, layer_words, percent

PHASES = {"search": "search", "retrain": "retraining"}
NOTE_OF_A_TICKET = (
    "Whether a model has zeros in their place or is without them (`ticket.compact`), a ticket alone can't say."
)


def phase_title(phase: str, records: Sequence[Record]) -> str:
    """Name a phase; without a search in any of the runs there is only training."""
    return "training" if all(record.status == "dense" for record in records) else PHASES[phase]


def status(record: Record) -> str:
    """Say how far a run is, and how long each phase took."""
    costs = {phase: record.phases.get(phase, {}) for phase in PHASES}
    done = [
        f"{phase_title(phase, [record])}: {counted(cost['epochs'], 'epoch')}, {counted(cost['steps'], 'step')}"
        for phase, cost in costs.items()
        if "steps" in cost
    ]
    perhaps = ", for which the search may have left no steps" if record.config.retrain_schedule == "continue" else ""
    title = {
        "finished": "finished",
        "drawn": f"drawn; there is no retraining on record{perhaps}",
        "searching": "unfinished (going on, or broken off): in the search",
        "retraining": "unfinished (going on, or broken off): in the retraining",
        "ticket": "a ticket, without its run",
        "dense": "without pruning",
    }[record.status]
    return "; ".join([title, *done])


def method_line(record: Record) -> str:
    """Name the method with its numbers, and say how the search ended."""
    method = record.method
    if not method.searched:
        return f"{method.line}: no search has found them"
    return f"{method.line}: {_outcome(record)}"


def _outcome(record: Record) -> str:
    if record.converged is None:
        return "whether it converged is not known"
    count = counted(len(record.observations), "observation")
    if record.method.search_share and record.drawn and not record.converged:
        return f"{count}, drawn as planned"
    ending = "" if record.converged else ", the newest mask was drawn" if record.drawn else " yet"
    return f"{count}, {record.method.outcome(record.converged).removeprefix(MASKS)}{ending}"


def pruned(record: Record) -> str:
    """Say how much is pruned, or will be by the newest mask; empty where no masks are known."""
    if record.account is not None:
        return pruned_line(record.account, record.config.layers)
    if not record.masks:
        return ""
    units = sum(mask.numel() for mask in record.masks.values())
    gone = units - sum(int(mask.count_nonzero()) for mask in record.masks.values())
    drawn = "Cut out" if record.config.compact else "Pruned"
    verb = drawn if record.drawn else "To be pruned, by the newest mask"
    return f"{verb}: {gone:,} units of {units:,}, {percent(gone / units)} of {', '.join(record.config.layers)}."


def pruned_line(account: Mapping[str, Any], layers: Sequence[str]) -> str:
    """Say how many weights are pruned or cut out, and which shares of the watched layers and of the model they are."""
    weights = f"{account['pruned_weights']:,} weights"
    watched = f"{percent(account['share_of_representative'])} of {layer_words(layers)}"
    of_model = f"{percent(account['share_of_model'])} of the model's {account['model_weights']:,}"
    if "compact_weights" in account:
        return f"Cut out: {weights}, {of_model}: {watched}, and what goes with it."
    return f"Pruned: {weights}, {watched} and {of_model}."


def effect(record: Record) -> str:
    """Say what the pruning does and does not do to size and speed; empty before the draw."""
    if not record.drawn:
        return ""
    if record.account is not None:
        return str(record.account["note"])
    if record.config.compact:
        return NOTE_COMPACT
    larger_units = any(mask.dim() == 1 for mask in record.masks.values())
    return NOTE_OF_A_TICKET if larger_units and record.status == "ticket" else NOTE


def gains(costs: Mapping[str, Any]) -> str:
    """Say how many times as fast as the dense model the compact one is at each action, and where nothing was gained."""
    actions = costs["seconds"].items()
    compact = [f"{action}: {_gain(times['dense'], times['compact'])}" for action, times in actions]
    zeros = [
        f"{action}: {_gain(times['dense'], times['drawn'])}"
        for action, times in actions
        if _faster(times["dense"], times["drawn"])
    ]
    return (
        f"The compact model against the dense one: {', '.join(compact)}. Zeros alone (*drawn*): "
        f"{', '.join(zeros) or 'nothing gained'}. Medians, on the machine that trained, with rows of its data; not "
        "decided where the quartiles overlap."
    )


def speed_line(speed: Mapping[str, float]) -> str:
    """Say what speed was asked for, what multiply-adds give, and what was measured."""
    line = f"Asked for {speed['asked']:g}×"
    if "multiply_adds" in speed:
        line += f": {speed['multiply_adds']:.2f}× fewer multiply-adds"
    if "measured" in speed:
        line += f", measured {speed['measured']:.2f}× as fast (forward pass of 32 rows)"
    return f"{line}."


def _faster(dense: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return other["high"] < dense["low"]


def _gain(dense: Mapping[str, float], other: Mapping[str, float]) -> str:
    if other["median"] >= dense["median"]:
        return "nothing gained"
    ratio = f"{dense['median'] / other['median']:.2f}×"
    return ratio if _faster(dense, other) else f"{ratio} (not decided)"
