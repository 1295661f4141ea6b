"""The figures, through what their axes hold."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from short_runs import Runs
from training import QUERY_AND_KEY, report

from hf_worm import Ticket
from hf_worm.commands.show.reading import read_run
from hf_worm.report.figures import curves
from hf_worm.report.figures.density import density
from hf_worm.report.figures.drawing import COLOURS, Shown, shown
from hf_worm.report.figures.layers import layers as layer_figure
from hf_worm.report.figures.masks import masks as mask_figure
from hf_worm.report.figures.writing import write_figures

OLDER_RUN = Path(__file__).parent.parent / "v0_1_0" / "run"
NAMES = ["distances.png", "loss.png", "layers.png", "masks.png", "accuracy.png"]


def read(*folders: Path) -> list[Shown]:
    return shown([read_run(str(folder)) for folder in folders])


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """The points of each line by its label."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def legend(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_distances(runs: Runs) -> None:
    seen = report(runs.bert)["search"]["observations"]
    figure = curves.distances(read(runs.bert))
    (axes,) = figure.axes
    drawn = lines(axes)
    for kind in ("max", "mean"):
        assert drawn[f"bert: {kind} distance"] == ([2.0, 3.0], [one[f"{kind}_distance"] for one in seen[1:]])
    assert drawn["s = 0.5"][1] == [0.5, 0.5]
    assert drawn["s + δ = 0.505"][1] == [0.505, 0.505]
    assert drawn["bert: truncation starts"] == ([2.0], [seen[1]["mean_distance"]])
    assert drawn["bert: drawn"] == ([3.0], [seen[2]["max_distance"]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "mask distance (share of units that differ)")
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 0.505
    assert legend(figure) == [
        "bert",
        "max distance",
        "mean distance",
        "truncation starts",
        "drawn",
        "stopping point s = 0.5",
        "trigger s + δ = 0.505",
    ]


def test_distances_of_several_runs(runs: Runs) -> None:
    figure = curves.distances(read(runs.bert, runs.bare, runs.cnn, runs.searching))
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(drawn["cnn: truncation starts"].get_xdata()) == [0.0], "from the start"
    assert "bare: drawn" in drawn and "searching: drawn" not in drawn
    assert list(drawn["bare: max distance"].get_xdata()) == [step / 8 for step in (6, 9, 12, 15)]
    for name, colour in zip(("bert", "bare", "cnn", "searching"), COLOURS, strict=False):
        assert drawn[f"{name}: max distance"].get_color() == drawn[f"{name}: mean distance"].get_color() == colour
    assert drawn["s = 0"].get_color() == COLOURS[1], "of the run whose stopping point it is"
    assert "stopping point s = 0.5 or 0" in legend(figure)
    assert legend(figure)[:4] == ["bert", "bare", "cnn", "searching"]


def test_fading(runs: Runs) -> None:
    shares = [100 * seen["doomed_share"] for seen in report(runs.fading)["search"]["observations"]]
    figure = curves.fading(read(runs.fading))
    (axes,) = figure.axes
    drawn = lines(axes)
    assert drawn["fading: norm left"] == ([1.0, 2.0, 3.0, 4.0], shares)
    assert drawn["fading: drawn"] == ([4.0], [shares[-1]]) and shares[-1] < 3 < shares[-2]
    assert drawn["bound"][1] == [3.0, 3.0]
    assert legend(figure) == ["fading", "norm left", "drawn", "may be drawn below 3%"]


def test_only_runs_that_fade_have_a_figure_of_it(runs: Runs, tmp_path: Path) -> None:
    records = [run.record for run in read(runs.bert, runs.fading)]
    said = write_figures(records, tmp_path)
    assert said[1] == f"{tmp_path / 'fading.png'}, without bert (nothing faded)"
    assert (tmp_path / "fading.png").read_bytes().startswith(b"\x89PNG")
    assert not any("fading" in line for line in write_figures(records[:1], tmp_path / "bert"))


def test_eb_train_starts_no_truncation(runs: Runs) -> None:
    record = read(runs.bert)[0].record
    assert record.observations[-1].truncating
    treatment = read(runs.bare)[0].record.parts["treatment"]
    assert (record.parts["treatment"], treatment) == ("gradient", "nothing")
    settings = replace(record.config, truncation=1.0)
    eb_train = replace(record, config=settings, parts={**record.parts, "treatment": treatment})
    figure = curves.distances(shown([eb_train]))
    assert "truncation starts" not in legend(figure) and "bert: truncation starts" not in lines(figure.axes[0])


def test_distances_decide_nothing_where_the_ratio_rises(runs: Runs) -> None:
    record = replace(read(runs.bert)[0].record, parts={"schedule": "cubic"})
    figure = curves.distances(shown([record]))
    assert legend(figure) == ["bert", "max distance", "mean distance", "drawn"]
    assert not any(label.startswith("s ") for label in lines(figure.axes[0]))


def test_distances_over_observations_where_epochs_are_unknown(runs: Runs) -> None:
    bert, bare = (run.record for run in read(runs.bert, runs.bare))
    bare = replace(bare, phases={})
    axes = curves.distances(shown([bert, bare])).axes[0]
    assert axes.get_xlabel() == "observation"
    assert lines(axes)["bare: max distance"][0] == [2, 3, 4, 5]
    assert lines(axes)["bert: max distance"][0] == [2, 3]


def test_loss(runs: Runs) -> None:
    log = json.loads((runs.bert / "trainer_state.json").read_text())["log_history"]
    losses = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    figure = curves.loss(read(runs.bert, runs.searching))
    drawn = lines(figure.axes[0])
    for label, phase in (("search", losses[:12]), ("retraining", losses[12:])):
        assert list(zip(*drawn[f"bert: {label}"], strict=True)) == phase
    assert drawn["bert: draw"][0] == [24, 24]
    assert drawn["searching: search"][0] == list(range(2, 17, 2))
    assert not {"searching: draw", "searching: retraining"} & set(drawn)
    assert figure.axes[0].get_xlabel() == "optimizer step"
    assert legend(figure) == ["bert", "searching", "search", "retraining", "draw"]
    assert legend(curves.loss(read(runs.searching))) == ["searching", "search"]


@pytest.mark.parametrize("name", ["bert", "cnn", "fading", "searching", "retraining", "v0_1_0"])
def test_the_loss_goes_on_through_the_draw(runs: Runs, name: str) -> None:
    folder = OLDER_RUN if name == "v0_1_0" else getattr(runs, name)
    (run,) = read(folder)
    drawn = lines(curves.loss([run]).axes[0])
    search, retraining = (drawn.get(f"{run.label}: {phase}", ([], []))[0] for phase in ("search", "retraining"))
    steps = [*search, *retraining]
    assert steps == sorted(set(steps)) == [step for step, _ in run.record.losses()]
    assert all(step <= run.record.searched for step in search)
    assert (retraining == []) == (name == "searching")
    assert all(step > run.record.searched for step in retraining)


def test_layers(runs: Runs) -> None:
    figure = layer_figure(read(runs.bert, runs.bare))
    axes = figure.axes[0]
    for container, path in zip(axes.containers, (runs.bert, runs.bare), strict=True):
        assert container.get_label() == path.name
        assert [bar.get_width() / 100 for bar in container] == pytest.approx(list(report(path)["layers"].values()))
    middles = [[bar.get_y() + bar.get_height() / 2 for bar in container] for container in axes.containers]
    assert [sum(pair) / 2 for pair in zip(*middles, strict=True)] == pytest.approx(list(axes.get_yticks()))
    assert [label.get_text() for label in axes.get_yticklabels()] == [name[19:-7] for name in QUERY_AND_KEY]
    assert axes.yaxis_inverted() and axes.get_xlim() == (0, 100)
    assert lines(axes)["p = 0.5"][0] == [50, 50]
    assert legend(figure) == ["bert", "bare", "prune ratio p = 0.5"]


def images(figure: Any) -> list[tuple[Axes, AxesImage]]:
    return [(axes, image) for axes in figure.axes for image in axes.images]


def test_masks_of_matrices(runs: Runs) -> None:
    masks = Ticket.from_pretrained(runs.bert).masks
    drawn = images(mask_figure(read(runs.bert)))
    assert [axes.get_title() for axes, _ in drawn] == [name[19:-7] for name in QUERY_AND_KEY]
    for (axes, image), mask in zip(drawn, masks.values(), strict=True):
        assert np.array_equal(image.get_array(), mask.numpy()), "16 × 16: a block for each weight"
        assert image.get_clim() == (0, 1)
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 16), (16, 0)), "rows downwards"


def test_masks_of_large_matrices_are_in_blocks(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_worm.report.figures.masks.BLOCKS", 4)
    masks = Ticket.from_pretrained(runs.bert).masks
    for (_, image), mask in zip(images(mask_figure(read(runs.bert))), masks.values(), strict=True):
        assert np.array_equal(image.get_array(), density(mask, 4)) and image.get_array().shape == (4, 4)
        assert image.get_extent() == [0, 16, 16, 0]


def test_masks_of_several_runs_stand_side_by_side(runs: Runs) -> None:
    drawn = images(mask_figure(read(runs.bert, runs.searching)))
    titles = [axes.get_title().split("\n") for axes, _ in drawn]
    assert titles[:3] == [["bert", "0.attention.self.query"], ["searching", "0.attention.self.query"], titles[2]]
    assert len(drawn) == 8


def test_masks_of_runs_that_watch_other_layers_stay_in_their_rows(runs: Runs) -> None:
    bert, searching, cnn = read(runs.bert, runs.searching, runs.cnn)
    bert.record.masks.pop(next(iter(bert.record.masks)))
    figure = mask_figure([bert, searching, cnn])
    columns = {axes.get_subplotspec().colspan.start % 2: set() for axes, _ in images(figure)}
    for axes, _ in images(figure):
        if "\n" in axes.get_title():
            columns[axes.get_subplotspec().colspan.start % 2].add(axes.get_title().split("\n")[0])
    assert columns == {0: {"bert"}, 1: {"searching"}}, "a column for each, whatever the first lacks"


def test_larger_units_of_a_matrix_of_another_run_have_no_panel_of_weights(runs: Runs) -> None:
    bert, searching = read(runs.bert, runs.searching)
    searching.record.masks[QUERY_AND_KEY[0]] = torch.tensor([True, False])  # two heads
    figure = mask_figure([bert, searching])
    panels = [axes.get_title().split("\n") for axes, _ in images(figure) if axes.get_title()]
    assert ["bert", "0.attention.self.query"] in panels and ["searching", "0.attention.self.query"] not in panels
    assert figure.axes[-1].get_title() == "searching", "its heads are a line"


def test_masks_of_batchnorms_are_lines(runs: Runs) -> None:
    masks = Ticket.from_pretrained(runs.cnn).masks
    figure = mask_figure(read(runs.cnn))
    drawn = images(figure)
    (axes,) = figure.axes
    for place, ((_, image), mask) in enumerate(zip(drawn, masks.values(), strict=True)):
        assert np.array_equal(image.get_array(), mask.numpy()[None])
        assert image.get_extent() == [0, 16, place + 0.4, place - 0.4]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["norm1", "norm2", "norm3"]
    assert axes.get_xlabel() == "channel"
    both = mask_figure(read(runs.bert, runs.cnn))
    assert len(images(both)) == 4 + 3 and both.axes[-1].get_title() == "cnn"


def test_accuracy(runs: Runs) -> None:
    metrics = report(runs.bert)["metrics"]
    record = read(runs.bert)[0].record
    figure = curves.accuracy(read(runs.bert))
    (axes,) = figure.axes
    drawn = lines(axes)
    evaluations = record.evaluations("accuracy")
    assert drawn["bert"] == ([seen.step for seen in evaluations], [seen.value for seen in evaluations])
    for stage, title, step in (
        ("before_draw", "before the draw", 24),
        ("drawn", "drawn", 24),
        ("retrained", "retrained", 32),
    ):
        assert drawn[f"bert: {title}"] == ([step], [metrics[stage]["accuracy"]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer step", "accuracy")
    assert legend(figure) == ["bert", "before the draw", "drawn", "retrained"]


def test_accuracy_where_the_search_goes_on(runs: Runs) -> None:
    figure = curves.accuracy(read(runs.searching))
    assert lines(figure.axes[0])["searching"][0] == [8, 16]
    assert legend(figure) == ["searching"]


def test_a_run_keeps_its_colour_where_another_has_no_data(runs: Runs, tmp_path: Path) -> None:
    both = read(runs.bare, runs.bert)
    assert [run.colour for run in both] == list(COLOURS[:2])
    assert curves.loss(both[1:]).axes[0].lines[0].get_color() == COLOURS[1]


def test_many_runs_have_colours_of_their_own(runs: Runs) -> None:
    record = read(runs.bert)[0].record
    many = shown([replace(record, path=f"runs/{place}") for place in range(12)])
    assert len({run.colour for run in many}) == 12
    assert [run.label for run in many] == [str(place) for place in range(12)]


def test_files_are_written_and_what_is_missing_is_named(runs: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    records = [run.record for run in read(runs.bert, runs.bare)]
    without = "no `trainer_state.json`"
    assert write_figures(records, folder) == [
        str(folder / "distances.png"),
        f"{folder / 'loss.png'}, without bare ({without})",
        str(folder / "layers.png"),
        f"{folder / 'masks.png'}, without bare (no `ticket.safetensors`)",
        str(folder / "accuracy.png"),
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    said = write_figures(records[1:], tmp_path / "bare")
    assert [said[1], said[3]] == [f"no loss.png: {without}", "no masks.png: no `ticket.safetensors`"]
    assert {path.name for path in (tmp_path / "bare").iterdir()} == {"accuracy.png", "distances.png", "layers.png"}


def test_reasons_of_a_run_that_has_only_begun(runs: Runs, tmp_path: Path) -> None:
    record = read(runs.retraining / "checkpoint-5")[0].record
    assert write_figures([replace(record, log=[{"step": 5, "epoch": 0.6}])], tmp_path / "figures") == [
        "no distances.png: a distance takes two observations",
        "no loss.png: no training loss was logged (see `logging_steps`)",
        "no layers.png: no masks",
        "no masks.png: no `ticket.safetensors`",
        "no accuracy.png: no evaluation is on record",
    ]


def test_what_a_link_leads_to_and_other_files_stay(runs: Runs, tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere.txt", tmp_path / "figures"
    folder.mkdir()
    for path in (elsewhere, folder / "notes.txt", folder / "loss.png.tmp"):
        path.write_text("mine")
    (folder / "loss.png").symlink_to(elsewhere)
    records = [read(runs.bert)[0].record]
    write_figures(records, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_figures(records, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "drawn anew, the same"
    assert elsewhere.read_text() == before["notes.txt"].decode() == before["loss.png.tmp"].decode() == "mine"
    assert before["loss.png"].startswith(b"\x89PNG")


def test_any_name_of_a_run_can_be_drawn(runs: Runs, tmp_path: Path) -> None:
    record = read(runs.bert)[0].record
    names = ["$a", "$b", "_a", r"$\frac$", "x" * 300]
    records = [replace(record, path=f"runs/{name}") for name in names]
    labels = legend(curves.distances(shown(records)))
    assert labels[:4] == [r"\$a", r"\$b", "_a", r"\$\frac\$"] and max(map(len, labels)) <= 32
    assert len(write_figures(records, tmp_path)) == 5
