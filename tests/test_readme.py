"""The README: its links lead somewhere, its Python compiles and names what there is, its commands have their flags.

Links are those of the README of `benchmarks/` too.
"""

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import hf_worm
from hf_worm import WormConfig
from hf_worm.commands import main as cli

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^(?:torchrun .* -m hf_worm|hf-worm) (.*?)(?:  #.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("folder", [ROOT, BENCHMARKS], ids=["the project", "benchmarks"])
def test_links_lead_to_files_and_headings(folder: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)#?([^)]*)\)", (folder / "README.md").read_text(encoding="utf-8"))
    links = [(folder / path, heading) for path, heading in links if "://" not in path]
    assert len(links) > 5
    assert [path for path, _ in links if not path.exists()] == []
    assert [heading for path, heading in links if heading and heading not in headings(path)] == []


def headings(page: Path) -> list[str]:
    """As links name them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in found]


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
    named = set(re.findall(r"`make ([a-z0-9-]+)`|^make ([a-z0-9-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= {first or second for first, second in named} <= targets


@pytest.mark.parametrize("code", PYTHON)
def test_python_compiles_and_imports_what_there_is(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "hf_worm":
            assert all(hasattr(hf_worm, alias.name) for alias in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "WormConfig":
            WormConfig(**{keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords})


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
