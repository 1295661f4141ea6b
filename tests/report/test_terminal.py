"""The text of one run: its numbers are those of the report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import Runs
from training import QUERY_AND_KEY, report

from hf_worm import Observation, Ticket, WormConfig
from hf_worm.commands.show.reading import read_run
from hf_worm.report.account import NOTE, NOTE_COMPACT
from hf_worm.report.sentences import NOTE_OF_A_TICKET
from hf_worm.report.terminal import result_table, run_text

SECTIONS = ["Result", "Settings", "Observations", "Training", "Pruned", "Account", "Not here"]


def sections(text: str) -> dict[str, list[str]]:
    """The lines under each title, by its first words; the lines before the first title under an empty name."""
    found: dict[str, list[str]] = {"": []}
    for part in text.split("\n\n"):
        title, *lines = part.splitlines()
        name = next((name for name in SECTIONS if title.startswith(name)), "")
        found[name] = [line.removeprefix("  ") for line in lines]
    return found


@pytest.mark.parametrize("name", ["bert", "bare", "cnn", "searching", "retraining", "fading"])
def test_it_fits_into_100_columns(runs: Runs, name: str) -> None:
    path = str(getattr(runs, name))
    title, *lines = run_text(replace(read_run(path), path="runs/here")).splitlines()
    assert title == "runs/here"
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)


def test_the_result_is_that_of_the_report(runs: Runs) -> None:
    table = result_table(report(runs.bert)).splitlines()
    shown = sections(run_text(read_run(str(runs.bert))))
    assert shown["Result"] == table[:5]
    assert shown["Account"][0] == table[5]
    assert " ".join(shown["Account"][1:]) == NOTE
    assert shown[""] == ["finished; search: 3 epochs, 24 steps; retraining: 1 epoch, 8 steps"]
    assert "Not here" not in shown


@pytest.mark.parametrize(
    ("shape", "compact", "verb", "note"),
    [
        ((4,), False, "Pruned", NOTE_OF_A_TICKET),
        ((4,), True, "Cut out", NOTE_COMPACT),
        ((2, 2), False, "Pruned", NOTE),
    ],
)
def test_of_a_ticket_alone_its_settings_say_whether_it_was_cut_out(
    shape: tuple[int, ...], compact: bool, verb: str, note: str, tmp_path: Path
) -> None:
    masks = {"blocks.0.weight": torch.tensor([True, False, False, True]).view(shape)}
    Ticket(masks, WormConfig(layers=["neurons"], compact=compact)).save_pretrained(tmp_path)
    shown = sections(run_text(read_run(str(tmp_path))))["Account"]
    assert " ".join(shown) == f"{verb}: 2 units of 4, 50.0% of neurons. {note}"


def test_settings_are_all_named(runs: Runs) -> None:
    shown = sections(run_text(read_run(str(runs.bert))))
    settings = ", ".join(f"{name}={value!r}" for name, value in report(runs.bert)["config"].items())
    assert " ".join(shown["Settings"]) == settings


def test_observations_with_what_decided_them(runs: Runs) -> None:
    observations = report(runs.bert)["search"]["observations"]
    largest, mean = ([f"{seen[f'{kind}_distance']:.5f}" for seen in observations[1:]] for kind in ("max", "mean"))
    shown = sections(run_text(read_run(str(runs.bert))))
    assert [line.split("  ") for line in (" ".join(line.split()) for line in shown["Observations"][1:])] == [
        ["1 1.00 8 - - no: nothing to compare no: mask 1 of a window of 3"],
        [f"2 2.00 16 {largest[0]} {mean[0]} yes: mean < 0.505 no: mask 2 of a window of 3"],
        [f"3 3.00 24 {largest[1]} {mean[1]} yes: once on, stays on yes: max < 0.5"],
    ]


def made(config: WormConfig, *seen: tuple[float, float, bool, bool]) -> list[Observation]:
    """Observations from their max, mean, truncating and converged; the first has no distance."""
    first = Observation(0, (), None, None, config.truncate_from == "start", False)
    return [first, *(Observation(place, (row[0],), *row) for place, row in enumerate(seen, 1))]


@pytest.mark.parametrize(
    ("changes", "seen", "decisions"),
    [
        ({"window": 2}, (0.02, 0.02, False, False), ["no: mean ≥ 0.015", "no: max ≥ 0.01"]),
        ({"window": 2}, (0.012, 0.012, True, False), ["yes: mean < 0.015", "no: max ≥ 0.01"]),
        ({"window": 2}, (0.001, 0.001, True, True), ["yes: mean < 0.015", "yes: max < 0.01"]),
        ({"truncate_from": "start"}, (0.9, 0.9, True, False), ["yes: from the start", "no: mask 2 of a window of 3"]),
    ],
)
def test_each_decision_names_what_decided_it(
    runs: Runs, changes: dict[str, Any], seen: Any, decisions: list[str]
) -> None:
    config = WormConfig(**changes)
    record = replace(read_run(str(runs.bert)), config=config, observations=made(config, seen))
    line = sections(run_text(record))["Observations"][2]
    assert [part.strip() for part in line.split("  ") if ": " in part] == decisions


def test_eb_train_truncates_nothing(runs: Runs) -> None:
    shown = sections(run_text(read_run(str(runs.bare))))
    assert shown["Observations"][0].split() == ["epoch", "step", "max", "mean", "converged"]
    assert "not converged, the newest mask was drawn" in " ".join(shown["Result"])


def test_fading_has_a_column_and_a_bound(runs: Runs) -> None:
    shown = sections(run_text(read_run(str(runs.fading))))
    shares = [seen["doomed_share"] for seen in report(runs.fading)["search"]["observations"]]
    head, *rows, note = shown["Observations"]
    assert head.split() == ["epoch", "step", "max", "mean", "norm", "left", "truncating", "converged"]
    assert [row.split()[5] for row in rows] == [f"{share:.2%}" for share in shares]
    assert [row.split("no: ")[-1] for row in rows[1:3]] == ["mask 2 of a window of 3", "norm left ≥ 3%"]
    assert rows[3].endswith("yes: norm left < 3%")
    assert note == "norm left: share of the L1 norm that the weights to be pruned still hold."
    assert shown["Result"][0].startswith("WORM with fading (p 0.5,")


def test_training_by_epochs_and_stages(runs: Runs) -> None:
    record, metrics = read_run(str(runs.bert)), report(runs.bert)["metrics"]
    rows = sections(run_text(record))["Training"]
    assert rows[0].split() == ["epoch", "step", "training", "loss", "accuracy", "loss"]
    names = ["search", "search", "search", "before the draw", "drawn", "retraining", "retrained"]
    assert [row[:15].strip() for row in rows[1:]] == names
    for row, seen in zip([*rows[1:4], rows[6]], record.epochs(), strict=True):
        numbers = [seen.epoch, seen.step, seen.loss, seen.metrics["accuracy"], seen.metrics["loss"]]
        assert [float(cell) for cell in row.split()[1:]] == pytest.approx(numbers, abs=5e-5)
    for row, stage in ((rows[4], "before_draw"), (rows[5], "drawn"), (rows[7], "retrained")):
        assert row.split()[-2:] == [f"{metrics[stage]['accuracy']:.4f}", f"{metrics[stage]['loss']:.4f}"]


def test_layers_with_a_bar_for_the_share(runs: Runs) -> None:
    shares = report(runs.bare)["layers"]
    head, *rows = sections(run_text(read_run(str(runs.bare))))["Pruned"]
    assert head == "Names without `bert.encoder.layer.` and `.weight`."
    assert [row.split()[0] for row in rows] == [name[19:-7] for name in QUERY_AND_KEY]
    for row, share in zip(rows, shares.values(), strict=True):
        _, percent, bar = row.split()
        assert (percent, bar.count("#"), len(bar)) == (f"{share:.1%}", round(20 * share), 20)
    counted = sections(run_text(read_run(str(runs.bert))))["Pruned"][1:]
    assert all("  128 of 256  50.0%  ##########.........." in row for row in counted)


def test_before_the_draw_nothing_is_said_to_be_pruned(runs: Runs) -> None:
    shown = sections(run_text(read_run(str(runs.searching))))
    assert shown[""] == ["unfinished (going on, or broken off): in the search; search: 2 epochs, 16 steps"]
    assert shown["Pruned"][0] == "By the newest mask: nothing is pruned before the draw."
    assert shown["Account"] == ["To be pruned, by the newest mask: 512 units of 1,024, 50.0% of query, key."]
    assert shown["Not here"][0].startswith("No `worm_report.json`")
    assert "2 observations, not converged yet" in shown["Result"][0]


def test_a_ticket_alone_has_what_the_ticket_tells(runs: Runs, copied: Any) -> None:
    folder = copied(runs.bert, "ticket.safetensors", "worm_config.json", "worm_history.json")
    shown = sections(run_text(read_run(str(folder))))
    assert shown[""] == ["a ticket, without its run"]
    assert [line.split()[:3] for line in shown["Observations"][1:]] == [[str(n), f"{n}.00", "?"] for n in (1, 2, 3)]
    assert shown["Account"][0] == "Pruned: 512 units of 1,024, 50.0% of query, key."
    assert "Training" not in shown
    (folder / "worm_history.json").unlink()
    shown = sections(run_text(read_run(str(folder))))
    assert shown["Result"][0].endswith("whether it converged is not known") and "Observations" not in shown


def test_metrics_that_do_not_fit_are_named(runs: Runs) -> None:
    record = read_run(str(runs.bert))
    many = {f"a_metric_of_class_{place}": 0.5 for place in range(5)}
    record = replace(record, metrics={stage: many for stage in record.metrics})
    text = run_text(record)
    assert max(map(len, text.splitlines()[1:])) <= 100
    shown = sections(text)
    assert shown["Result"][1].split() == [*list(many)[:2], "epochs", "seconds"]
    assert f"More metrics, in `worm_report.json`: {', '.join(list(many)[2:])}." in " ".join(shown["Result"])
