"""Tables about one run, made once: terminal and model card only lay them out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hf_worm.report.layout import Table
from hf_worm.report.metrics import ENDS, STAGES, metric_names
from hf_worm.report.record import Epoch, Record
from hf_worm.report.sentences import phase_title
from hf_worm.report.text import distance, milliseconds, number, percent
from hf_worm.search import FADE_BOUND

OF_ANY_MASKS = ("prune_ratio", "layers")  # settings
NORM_LEFT = "norm left: share of the L1 norm that the weights to be pruned still hold."


def settings(record: Record) -> list[str]:
    """List the settings of a search as `name=value`; of masks that were given, those that say what they prune."""
    found = asdict(record.config)
    names = found if record.method.searched else OF_ANY_MASKS
    return [f"{name}={found[name]!r}" for name in names]


def metric_cells(values: Mapping[str, float], names: Sequence[str], missing: str = "") -> list[str]:
    """Write the values of some metrics."""
    return [number(values.get(name), missing=missing) for name in names]


def stages(record: Record, names: Sequence[str]) -> Table:
    """Tabulate the evaluations around the draw, and what each phase took.

    Args:
        record (`Record`): The run.
        names (`Sequence[str]`): The metrics to show, where one of the evaluations has them.
    """
    names = [name for name in names if any(name in metrics for metrics in record.metrics.values())]
    rows = []
    for stage, phase in ENDS.items():
        if phase in record.phases:
            cost = record.phases[phase]
            took = [number(cost.get("epochs"), 2), number(cost.get("seconds"), 1)]
            rows.append([STAGES[stage], *metric_cells(record.metrics.get(stage, {}), names), *took])
    return Table(["", *names, "epochs", "seconds"], rows)


def evaluation(title: str, metrics: Mapping[str, float], epochs: float | None, seconds: float | None) -> Table:
    """Tabulate the one evaluation of a run without pruning.

    Args:
        title (`str`): What was done.
        metrics (`Mapping[str, float]`): The metrics by their plain names.
        epochs (`float`, *optional*): Epochs of training, if there was training.
        seconds (`float`, *optional*): Its wall-clock seconds.
    """
    names = metric_names([metrics])
    head, row = ["", *names], [title, *metric_cells(metrics, names)]
    for column, value, digits in (("epochs", epochs, 2), ("seconds", seconds, 1)):
        if value is not None:
            head.append(column)
            row.append(number(value, digits))
    return Table(head, [row])


def observations(record: Record) -> Table:
    """Tabulate what the search observed and decided, with what decided it."""
    method = record.method
    decisions = [*(["truncating"] if method.truncates else []), "converged"]
    head = ["", "epoch", "step", "max", "mean", *(["norm left"] if method.fades else []), *decisions]
    rows = []
    for place, (epoch, step) in enumerate(record.places()):
        observation = record.observations[place]
        at = [number(epoch, 2, "?"), "?" if step is None else f"{step:,.0f}"]
        distances = [distance(observation.max_distance), distance(observation.mean_distance)]
        left = [percent(observation.doomed_share, 2)] if method.fades else []
        decided = [*([_truncating(record, place)] if method.truncates else []), _converged(record, place)]
        rows.append([str(place + 1), *at, *distances, *left, *decided])
    return Table(head, rows, words=(0, *range(len(head) - len(decisions), len(head))))


def observation_title(record: Record) -> str:
    """Say what [`observations`] holds."""
    return f"mask distances{', and what they decided' if record.method.early_bird else ''}"


def observation_notes(record: Record) -> list[str]:
    """Explain the columns of [`observations`] that need it."""
    return [NORM_LEFT] if record.method.fades and record.observations else []


def _truncating(record: Record, place: int) -> str:
    """Say whether the run was truncating at an observation, and by which rule."""
    config, observation = record.config, record.observations[place]
    trigger = config.stopping_point + config.margin
    if not record.method.early_bird:
        return _yes(observation.truncating)
    if config.truncate_from == "start":
        return "yes: from the start"
    if place and record.observations[place - 1].truncating:
        return "yes: once on, stays on"
    if observation.mean_distance is None:
        return "no: nothing to compare"
    return f"{_yes(observation.truncating)}: mean {'<' if observation.mean_distance < trigger else '≥'} {trigger:g}"


def _converged(record: Record, place: int) -> str:
    """Say whether the masks had converged at an observation, and by which rule."""
    config, observation = record.config, record.observations[place]
    if not record.method.early_bird:
        return _yes(observation.converged)
    if observation.max_distance is None or place + 1 < config.window:
        return f"no: mask {place + 1} of a window of {config.window}"
    stopped = observation.max_distance < config.stopping_point
    if observation.doomed_share is not None and stopped:
        return f"{_yes(observation.converged)}: norm left {'<' if observation.converged else '≥'} {FADE_BOUND:.0%}"
    return f"{_yes(observation.converged)}: max {'<' if stopped else '≥'} {config.stopping_point:g}"


def _yes(decided: bool) -> str:
    return "yes" if decided else "no"


def training(record: Record, names: Sequence[str]) -> Table:
    """Tabulate each epoch of training, and each evaluation around the draw.

    Args:
        record (`Record`): The run.
        names (`Sequence[str]`): The metrics to show.
    """
    epochs = record.epochs()
    body = [_epoch_row(record, epoch, names) for epoch in epochs]
    around = {
        stage: [STAGES[stage], "", "", "", *metric_cells(record.metrics[stage], names, "-")]
        for stage in STAGES
        if stage in record.metrics
    }
    after = [around.pop("retrained")] if "retrained" in around else []
    draw = sum(epoch.phase == "search" for epoch in epochs)
    rows = [*body[:draw], *around.values(), *body[draw:], *after]
    return Table(["", "epoch", "step", "training loss", *names], rows)


def _epoch_row(record: Record, epoch: Epoch, names: Sequence[str]) -> list[str]:
    at = [number(epoch.epoch, 2), f"{epoch.step:,}", number(epoch.loss, missing="-")]
    return [phase_title(epoch.phase, [record]), *at, *metric_cells(epoch.metrics, names, "-")]


def layers(record: Record, names: Sequence[str]) -> Table:
    """Tabulate how much of each layer is pruned: counts where the masks are known, and shares.

    Args:
        record (`Record`): The run.
        names (`Sequence[str]`): What to call each layer.
    """
    known = record.masks.keys() >= record.layers.keys()
    rows = []
    for title, (name, share) in zip(names, record.layers.items(), strict=True):
        rows.append([title, *([_units(record, name)] if known else []), percent(share)])
    return Table(["layer", *(["units pruned"] if known else []), "pruned"], rows)


def _units(record: Record, name: str) -> str:
    units = record.masks[name].numel()
    return f"{round(record.layers[name] * units):,} of {units:,}"


def costs(measured: Mapping[str, Any], spread: bool) -> Table:
    """Tabulate sizes and times, a row for each model; medians, and quartiles if `spread`."""
    size, seconds = measured["size"], measured["seconds"]
    head = ["", "parameters", "MB", "multiply-adds, M", *(f"{action}, ms" for action in seconds)]
    rows = [
        [
            name,
            f"{counts['parameters']:,}",
            f"{counts['bytes'] / 1e6:,.1f}",
            f"{counts['multiply_adds'] / 1e6:,.1f}",
            *(milliseconds(times[name], spread) for times in seconds.values()),
        ]
        for name, counts in size.items()
    ]
    return Table(head, rows)
