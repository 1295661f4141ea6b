"""The text of several runs: a column or a row for each, with the numbers of its report."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from short_runs import Runs
from test_terminal import sections
from training import QUERY_AND_KEY, report

from hf_worm.commands.show.reading import read_run
from hf_worm.report.comparison import comparison_text
from hf_worm.report.figures.writing import write_figures
from hf_worm.report.record import Record
from hf_worm.report.terminal import run_text


@pytest.fixture
def records(runs: Runs) -> list[Record]:
    return [read_run(str(path)) for path in (runs.bert, runs.bare, runs.cnn, runs.searching)]


def by_title(text: str) -> dict[str, list[list[str]]]:
    """The cells of each section's lines, by the title's first word; those before the first title by an empty name."""
    found: dict[str, list[list[str]]] = {"": []}
    for part in text.split("\n\n")[1:]:
        title, *lines = part.splitlines()
        found[title.split()[0]] = [re.split(r"\s{2,}", line.strip()) for line in lines]
    return found


def test_it_fits_into_100_columns(records: list[Record]) -> None:
    many = [replace(record, path=f"runs/{place}") for place, record in enumerate(records * 5)]
    lines = comparison_text(many).splitlines()
    assert max(map(len, lines)) <= 100
    assert "[20] runs/19" in lines
    heads = [line.split() for line in lines if re.fullmatch(r" +(\[\d+\] *)+", line)]
    assert heads[0] != [f"[{place}]" for place in range(1, 21)], "the table is split"
    begun, ended = (sum(place in head for head in heads) for place in ("[1]", "[20]"))
    assert begun == ended > 1, "each table has all runs"


def test_results(records: list[Record], runs: Runs) -> None:
    rows = by_title(comparison_text(records))["Result"]
    for place, (row, path) in enumerate(zip(rows[1:4], (runs.bert, runs.bare, runs.cnn), strict=True), 1):
        written = report(path)
        stages = [f"{written['metrics'][stage]['accuracy']:.4f}" for stage in ("before_draw", "drawn", "retrained")]
        assert row[:5] == [f"[{place}]", "accuracy", *stages]
        account = written["account"]
        assert row[5] == f"{written['search']['epochs']:.2f}"
        assert row[7:] == [f"{account[share]:.1%}" for share in ("share_of_representative", "share_of_model")]
    assert rows[4][:6] == ["[4]", "accuracy", "-", "-", "-", "2.00"] and rows[4][7:] == ["-", "-"]


def test_settings_that_differ_and_those_that_do_not(records: list[Record]) -> None:
    text = comparison_text(records[:2])
    rows = by_title(text)["Settings"]
    assert rows[0] == ["[1]", "[2]"]
    assert ["truncation", "0.003", "1.0"] in rows and ["scope", "'layer'", "'global'"] in rows
    same = next(row[0] for row in rows if row[0].startswith("The same in all: "))
    assert "prune_ratio=0.5" in same and not any(row[0] == "prune_ratio" for row in rows)
    assert "All the same: prune_ratio=0.5" in comparison_text([records[0], records[0]])


def test_distances_with_marks(records: list[Record], runs: Runs) -> None:
    found = by_title(comparison_text(records[:2]))
    bert, bare = (report(path)["search"]["observations"] for path in (runs.bert, runs.bare))
    assert found["Max"][1:3] == [["1", "-", "-"], ["2", *(f"{seen[1]['max_distance']:.5f}" for seen in (bert, bare))]]
    assert found["Max"][3] == ["3", f"{bert[2]['max_distance']:.5f}*", f"{bare[2]['max_distance']:.5f}"]
    assert found["Max"][5] == ["5", f"{bare[4]['max_distance']:.5f}"]
    assert found["Mean"][2][1] == f"{bert[1]['mean_distance']:.5f}*"
    settings = replace(records[0].config, truncation=1.0)
    eb_train = replace(records[0], config=settings, parts={**records[0].parts, "treatment": "nothing"})
    assert not any(row[-1].endswith("*") for row in by_title(comparison_text([records[0], eb_train]))["Mean"]), "r is 1"


def test_what_fades_beside_what_does_not(records: list[Record], runs: Runs) -> None:
    shares = [f"{seen['doomed_share']:.2%}" for seen in report(runs.fading)["search"]["observations"]]
    found = by_title(comparison_text([records[0], read_run(str(runs.fading))]))
    expected = [["1", "-", shares[0]], ["2", "-", shares[1]], ["3", "-", shares[2]], ["4", shares[3]]]
    assert found["Norm"] == [["[1]", "[2]"], *expected]
    assert "Norm" not in by_title(comparison_text(records))


def test_loss_and_evaluation_by_epoch(records: list[Record]) -> None:
    found = by_title(comparison_text([records[0], records[3]]))
    bert, searching = (record.epochs() for record in (records[0], records[3]))
    assert found["Training"][1] == ["search 1", f"{bert[0].loss:.4f}", f"{searching[0].loss:.4f}"]
    assert found["Evaluation"][2] == ["search 2", *(f"{seen[1].metrics['accuracy']:.4f}" for seen in (bert, searching))]
    assert found["Evaluation"][4] == ["retraining 1", f"{bert[3].metrics['accuracy']:.4f}"], "the other ended before"


def test_layers_of_different_models(records: list[Record], runs: Runs) -> None:
    names, head, *rows = by_title(comparison_text(records[1:3]))["Pruned"]
    assert names == ["Names without `.weight`."] and head == ["[1]", "[2]"]
    shares = {**report(runs.bare)["layers"], **report(runs.cnn)["layers"]}
    assert rows == [[name.removesuffix(".weight"), f"{share:.1%}"] for name, share in shares.items()]
    assert rows[0][0] == QUERY_AND_KEY[0].removesuffix(".weight")


def test_the_note_comes_once_and_what_is_missing_for_each(records: list[Record]) -> None:
    text = comparison_text(records)
    assert text.count("ordinary dense one with zeros") == 1
    shown = sections(text)
    assert [line[:4] for line in shown["Account"][:4]] == ["[1] ", "[2] ", "[3] ", "[4] "]
    assert [line[:3] for line in shown["Not here"] if line[0] == "["] == ["[2]", "[4]"]


def test_a_run_without_pruning_beside_one_with(records: list[Record], runs: Runs, tmp_path: Path) -> None:
    plain = read_run(str(runs.plain))
    text = comparison_text([plain, records[0]])
    assert text.splitlines()[:2] == [f"[1] {runs.plain}", "    without pruning; training: 2 epochs, 16 steps"]
    found = by_title(text)
    value = f"{plain.last_evaluation()['accuracy']:.4f}"
    assert found["Result"][1][:6] == ["[1]", "accuracy", value, "-", "-", "2.00"]
    assert found["Settings"] == by_title(comparison_text([records[0]] * 2))["Settings"], "it has none"
    assert found["Max"][0] == found["Mean"][0] == found["Pruned"][1] == ["[2]"]
    losses = [f"{epoch.loss:.4f}" for epoch in plain.epochs()]
    assert [row[1] for row in found["Training"][1:3]] == losses and found["Training"][1][0] == "search 1"
    alone = comparison_text([plain, plain])
    assert "training 1" in alone and "Settings" not in alone and "Pruned" not in alone
    assert {line.split(".png")[0].split("/")[-1] for line in write_figures([plain, records[0]], tmp_path)} == {
        "distances",
        "loss",
        "layers",
        "masks",
        "accuracy",
    }


def test_a_run_without_pruning_alone(runs: Runs) -> None:
    plain = read_run(str(runs.plain))
    parts = sections(run_text(plain))
    assert "Nothing pruned" in parts["Result"][0]
    assert f"{plain.last_evaluation()['loss']:.4f}" in parts["Result"][-1]
    assert {"Settings", "Account", "Not here"} & parts.keys() == set()
    assert [row.split()[0] for row in parts["Training"][1:]] == ["training", "training"]
