"""`hf-worm show` through its `main`: output, errors, exit status."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from short_runs import Runs

from hf_worm.commands import main as cli
from hf_worm.commands.show.command import main
from hf_worm.commands.show.reading import read_run
from hf_worm.report.comparison import comparison_text
from hf_worm.report.terminal import run_text

Capture = pytest.CaptureFixture[str]


def test_one_run(runs: Runs, capsys: Capture) -> None:
    assert cli.main(["show", str(runs.bert)]) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == (f"{run_text(read_run(str(runs.bert)))}\n", "")


def test_several_runs(runs: Runs, capsys: Capture) -> None:
    paths = [str(runs.bert), str(runs.cnn)]
    assert main(paths) == 0
    assert capsys.readouterr().out == f"{comparison_text([read_run(path) for path in paths])}\n"


def test_figures_are_listed(runs: Runs, tmp_path: Path, capsys: Capture) -> None:
    assert main([str(runs.bert), "--figures", str(tmp_path / "figures")]) == 0
    listed = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert listed[0] == "Figures" and [Path(line.strip()).is_file() for line in listed[1:]] == [True] * 5


def errors(capsys: Capture) -> str:
    line = capsys.readouterr().err
    assert line.startswith("hf-worm show: error: ") and line.count("\n") == 1, line
    return line


@pytest.mark.parametrize("kind", ["empty", "nowhere", "a file", "hub id", "odd"])
def test_what_holds_nothing_ends_with_a_line(kind: str, runs: Runs, tmp_path: Path, capsys: Capture) -> None:
    paths = {
        "empty": tmp_path,
        "nowhere": tmp_path / "no" / "where",
        "a file": runs.bert / "model.safetensors",
        "hub id": "nobody/nothing",
        "odd": "a\0b",
    }
    assert main([str(paths[kind])]) == 2
    assert str(paths[kind]) in errors(capsys)


def test_the_other_runs_are_shown(runs: Runs, tmp_path: Path, capsys: Capture) -> None:
    assert main([str(tmp_path), str(runs.bert)]) == 2
    output = capsys.readouterr()
    assert output.out == f"{run_text(read_run(str(runs.bert)))}\n"
    assert output.err.count("\n") == 1 and str(tmp_path) in output.err


def test_figures_that_cannot_be_written(runs: Runs, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "loss.png").mkdir(parents=True)
    for name in ("file", "folder"):
        assert main([str(runs.bert), "--figures", str(tmp_path / name)]) == 2
        assert str(tmp_path / name) in errors(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_without_matplotlib(runs: Runs, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("hf_worm.report.figures")]:
        monkeypatch.delitem(sys.modules, name)
    assert main([str(runs.bert)]) == 0
    assert capsys.readouterr().err == ""
    assert main([str(runs.bert), "--figures", str(tmp_path / "figures")]) == 2
    assert 'pip install "hf_worm[plots]"' in errors(capsys)
    assert not (tmp_path / "figures").exists()


def test_a_reader_that_leaves(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main([str(runs.bert)]) == 0


@pytest.mark.parametrize("argv", [[], ["--figures"], ["--no-such-flag", "x"]])
def test_wrong_arguments(argv: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: hf-worm show")
