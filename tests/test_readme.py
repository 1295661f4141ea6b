"""The README and `benchmarks/`'s: commands have their flags, scripts and pages are named, the tree is the project's."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from hf_worm import WormConfig
from hf_worm.commands import main as cli

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:torchrun .* -m hf_worm|hf-worm) (.*?)(?:  #.*)?$", README, re.MULTILINE)


def test_each_script_and_page_of_benchmarks_is_named() -> None:
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    scripts = [path for path in BENCHMARKS.glob("*/*.py") if '__name__ == "__main__"' in path.read_text("utf-8")]
    pages = list((BENCHMARKS / "results").glob("*.md"))
    assert len(scripts) > 5 and len(pages) > 5
    names = [path.relative_to(BENCHMARKS).as_posix() for path in scripts + pages]
    assert [name for name in names if f"({name})" not in text] == []


def test_each_script_that_is_named_is_there() -> None:
    """In commands and sentences, in whatever is read or run from here."""
    readers = [ROOT / "Makefile", *ROOT.glob("*.md"), *BENCHMARKS.rglob("*.md"), *BENCHMARKS.glob("*.sh")]
    readers += [*BENCHMARKS.rglob("*.py"), *BENCHMARKS.rglob("*.json"), *(ROOT / "docs").glob("*.md")]
    named = {
        name for path in readers for name in re.findall(r"benchmarks/[a-z_/]+\.(?:py|sh|md)", path.read_text("utf-8"))
    }
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), BENCHMARKS / "README.md"]
    pages += (ROOT / ".github" / "workflows").glob("*.yml")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"(?:`|^|run: )make ([a-z0-9-]+)", text, re.MULTILINE))
    assert {"demo", "test", "test-oldest", "test-newest", "check", "setup"} <= named <= targets


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_their_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *words = shlex.split(command)
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert [word for word in words if word.startswith("--") and not re.search(rf"{word}\b", text)] == []


def test_the_settings_are_those_of_the_configuration() -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", " ".join(row.split("|")[1] for row in table.splitlines() if "|" in row)))
    assert named == {field.name for field in dataclasses.fields(WormConfig)}


def test_the_tree_is_the_projects() -> None:
    tree = README.partition("## The project")[2].split("```")[1]
    names = set()
    for line in tree.strip().splitlines():
        first, *others = re.split(r"\s{2,}", line)[0].split()
        parent = (ROOT / first).parent
        names |= {ROOT / first, *(parent / name for name in others)}
    assert sorted(str(path) for path in names if not path.exists()) == []
    folders = {path.parent for path in (ROOT / "hf_worm").glob("*/__init__.py")}
    assert len(folders) > 5 and folders <= names
