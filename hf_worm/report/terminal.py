"""One run as text: plain, aligned, within 100 columns."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from textwrap import wrap

from hf_worm.report.account import NOTE, NOTE_COMPACT, REPORT_NAME, STAGES, number, pruned_line
from hf_worm.report.record import Record, shared_ends, short_names, shortened
from hf_worm.report.table import aligned, cost_lines, counted, method_line, plain_table, stage_table
from hf_worm.search import FADE_BOUND

WIDTH = 100
INDENT = "  "
NAME = 44  # characters of a layer's name, at the most
METRICS = 50  # characters of a row of metrics, at the most
BAR = 20  # characters of a bar that stands for all units of a layer
NOTE_OF_A_TICKET = (
    "Whether a model has zeros in their place or is without them (`ticket.compact`), a ticket alone can't say."
)
PHASES = {"search": "search", "retrain": "retraining"}


def run_text(record: Record) -> str:
    """All that is known of a run: result, settings, observations, training, layers, the account, what is missing."""
    return "\n".join(
        [
            *title_lines(record),
            *section("Result", _result(record)),
            *section("Settings", _settings(record)),
            *section("Observations: mask distances, and what they decided", _observations(record)),
            *section("Training and evaluation", _training(record)),
            *section("Pruned of each layer", _layers(record)),
            *section("Account", [*pruned_lines(record), *honest_note(record)]),
            *section("Size and time", cost_lines(record.costs) if record.costs else []),
            *section("Not here", note_lines(record)),
        ]
    )


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A title and the lines under it, indented; nothing where there are no lines."""
    return ["", title, *(f"{INDENT}{line}".rstrip() for line in lines)] if lines else []


def paragraph(text: str) -> list[str]:
    """The lines of a text, which leave room for an indent and for the number of a run."""
    return wrap(text, WIDTH - 8, break_long_words=False, break_on_hyphens=False)


def title_lines(record: Record) -> list[str]:
    """Where the run is, and how far it is."""
    costs = {phase: record.phases.get(phase, {}) for phase in PHASES}
    done = [
        f"{phase_title(phase, [record])}: {counted(cost['epochs'], 'epoch')}, {counted(cost['steps'], 'step')}"
        for phase, cost in costs.items()
        if "steps" in cost
    ]
    perhaps = ", for which the search may have left no steps" if record.config.retrain_schedule == "continue" else ""
    status = {
        "finished": "finished",
        "drawn": f"drawn; there is no retraining on record{perhaps}",
        "searching": "unfinished (going on, or broken off): in the search",
        "retraining": "unfinished (going on, or broken off): in the retraining",
        "ticket": "a ticket, without its run",
        "dense": "without pruning",
    }[record.status]
    return [record.path, *paragraph("; ".join([status, *done]))]


def method_lines(record: Record) -> list[str]:
    """The method with its numbers, and what has become of the search; nothing of a dense run."""
    if record.status == "dense":
        return []
    seen = counted(len(record.observations), "observation")
    if record.converged is None:
        outcome = "whether it converged is not known"
    elif record.converged:
        outcome = f"{seen}, converged"
    else:
        outcome = f"{seen}, not converged{', the newest mask was drawn' if record.drawn else ' yet'}"
    return paragraph(f"{method_line(record.config)}: {outcome}")


def phase_title(phase: str, records: Sequence[Record]) -> str:
    """What a phase is called, of runs some of which may have searched for nothing."""
    return "training" if all(record.status == "dense" for record in records) else PHASES[phase]


def _settings(record: Record) -> list[str]:
    if record.status == "dense":
        return []
    return paragraph(", ".join(f"{k}={v!r}" for k, v in asdict(record.config).items()))


def _result(record: Record) -> list[str]:
    if record.status == "dense":
        training = record.phases["search"]
        lasted = training["epochs"], training.get("seconds")
        return plain_table("fine-tuned", record.last_evaluation(), *lasted).splitlines()
    names, more = _fitting_metrics(record)
    metrics = {
        stage: {name: values[name] for name in names if name in values} for stage, values in record.metrics.items()
    }
    table = stage_table(metrics, record.phases) if record.phases else []
    left_out = paragraph(f"More metrics, in `{REPORT_NAME}`: {', '.join(more)}.") if more else []
    return [*method_lines(record), *table, *left_out]


def _fitting_metrics(record: Record) -> tuple[list[str], list[str]]:
    """Names of the metrics that fit into a row, the first of them in any case, and of the others."""
    names, width = record.metric_names, 0
    for place, name in enumerate(names):
        width += max(len(name), 6) + 2
        if place and width > METRICS:
            return names[:place], names[place:]
    return names, []


def _observations(record: Record) -> list[str]:
    if not record.observations:
        return []
    fades = record.config.truncation_target == "fade"
    rows = [["", "epoch", "step", "max", "mean", *(["doomed"] if fades else []), "truncating", "converged"]]
    for seen, (epoch, step) in zip(record.observations, record.places(), strict=True):
        distances = [number(seen.max_distance, 5) or "-", number(seen.mean_distance, 5) or "-"]
        place = [number(epoch, 2) or "?", "?" if step is None else f"{step:,.0f}"]
        doomed = ["-" if seen.doomed_share is None else f"{seen.doomed_share:.2%}"] if fades else []
        rows.append([str(seen.index + 1), *place, *distances, *doomed, *_decisions(record, seen.index)])
    for column in (-2, -1):  # words, to the left
        width = max(len(row[column]) for row in rows)
        for row in rows:
            row[column] = row[column].ljust(width)
    lines = aligned(rows)
    if not record.config.truncates:
        lines.append("r = 1 (EB Train): truncating leaves the gradients as they are.")
    if fades:
        lines.append("doomed: share of the L1 norm that the weights to be pruned hold.")
    return lines


def _decisions(record: Record, index: int) -> tuple[str, str]:
    """Whether an observation found the run truncating and the masks converged, each with what decided it."""
    config, seen = record.config, record.observations[index]
    stop, trigger = config.stopping_point, config.stopping_point + config.margin
    if config.truncate_from == "start":
        truncating = "yes: from the start"
    elif index and record.observations[index - 1].truncating:
        truncating = "yes: once on, stays on"
    elif seen.mean_distance is None:
        truncating = "no: nothing to compare"
    else:
        sign = "<" if seen.mean_distance < trigger else "≥"
        truncating = f"{'yes' if seen.truncating else 'no'}: mean {sign} {trigger:g}"
    if seen.max_distance is None or index + 1 < config.window:
        converged = f"no: mask {index + 1} of a window of {config.window}"
    elif seen.doomed_share is not None and seen.max_distance < stop:
        converged = f"{'yes: doomed <' if seen.converged else 'no: doomed ≥'} {FADE_BOUND:.0%}"
    else:
        converged = f"{'yes' if seen.converged else 'no'}: max {'<' if seen.max_distance < stop else '≥'} {stop:g}"
    return truncating, converged


def _training(record: Record) -> list[str]:
    """A row for each epoch, and for each evaluation around the draw."""
    names, _ = _fitting_metrics(record)
    epochs = record.epochs()
    body = [
        [
            phase_title(seen.phase, [record]),
            number(seen.epoch, 2),
            f"{seen.step:,}",
            number(seen.loss) or "-",
            *(number(seen.metrics.get(name)) or "-" for name in names),
        ]
        for seen in epochs
    ]
    stages = {
        stage: [STAGES[stage], "", "", "", *(number(values.get(name)) or "-" for name in names)]
        for stage, values in record.metrics.items()
    }
    draw = sum(seen.phase == "search" for seen in epochs)
    around = [stages[stage] for stage in ("before_draw", "drawn") if stage in stages]
    after = [stages["retrained"]] if "retrained" in stages else []
    rows = [*body[:draw], *around, *body[draw:], *after]
    return aligned([["", "epoch", "step", "training loss", *names], *rows]) if rows else []


def _layers(record: Record) -> list[str]:
    rows = []
    for short, (name, share) in zip(short_layers(record.layers), record.layers.items(), strict=True):
        units = record.masks[name].numel() if name in record.masks else None
        counts = "" if units is None else f"{round(share * units):,} of {units:,}"
        filled = round(share * BAR)
        rows.append([short, counts, f"{share:.1%}", "#" * filled + "." * (BAR - filled)])
    if not rows:
        return []
    newest = [] if record.drawn else ["By the newest mask: nothing is pruned before the draw."]
    return [*newest, *left_out(record.layers), *aligned(rows)]


def short_layers(names: Iterable[str]) -> list[str]:
    """Names of layers without what they share; of what is still too long, the end."""
    return [shortened(name, NAME) for name in short_names(list(names), ".")]


def left_out(names: Iterable[str]) -> list[str]:
    """What [`short_layers`] leaves out of all names, in a sentence."""
    ends = [f"`{end}`" for end in shared_ends(list(names), ".") if end]
    return paragraph(f"Names without {' and '.join(ends)}.") if ends else []


def pruned_lines(record: Record) -> list[str]:
    """How much is pruned, or would be by the newest mask."""
    if record.account is not None:
        return paragraph(pruned_line(record.account, record.config.layers))
    if not record.masks:
        return []
    units = sum(mask.numel() for mask in record.masks.values())
    pruned = units - sum(int(mask.count_nonzero()) for mask in record.masks.values())
    drawn, layers = "Cut out" if record.config.compact else "Pruned", ", ".join(record.config.layers)
    verb = drawn if record.drawn else "To be pruned, by the newest mask"
    return paragraph(f"{verb}: {pruned:,} units of {units:,}, {pruned / units:.1%} of {layers}.")


def honest_note(record: Record) -> list[str]:
    """What the pruning does and does not do to size and speed, once something is pruned."""
    if not record.drawn:
        return []
    if record.account is not None:
        return paragraph(record.account["note"])
    if record.config.compact:
        return paragraph(NOTE_COMPACT)
    larger = any(mask.dim() == 1 for mask in record.masks.values())
    return paragraph(NOTE_OF_A_TICKET if larger and record.status == "ticket" else NOTE)


def note_lines(record: Record) -> list[str]:
    """What is missing, and what was passed over."""
    return [line for note in record.notes for line in paragraph(note)]
