"""Versions: the tests run on those that `pyproject.toml` admits, in CI too; the package's own is one and the same."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hf_worm

ROOT = Path(__file__).parents[1]
NOT_ON_THE_OLDEST = {"trl"}  # it needs newer versions of what hf_worm needs


@pytest.fixture(scope="module")
def bounds() -> dict[str, Version]:
    """The lower bound of each package that `pyproject.toml` asks for, but for the tools of `make check`."""
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in ("demo", "plots", "trainers", "test") for line in extras[name]),
    ]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.name != project["name"]:
            (bound,) = (part for part in requirement.specifier if part.operator == ">=")
            assert all(part.operator == "<" for part in requirement.specifier if part is not bound), requirement
            found[canonicalize_name(requirement.name)] = Version(bound.version)
    return found


def pins(file: str) -> dict[str, Version]:
    """The version of each package in a file of constraints."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)}


def test_the_oldest_versions_are_the_lower_bounds(bounds: dict[str, Version]) -> None:
    oldest = pins("tests/oldest.txt")
    assert {name: oldest.get(name) for name in bounds.keys() - NOT_ON_THE_OLDEST} == {
        name: bound for name, bound in bounds.items() if name not in NOT_ON_THE_OLDEST
    }


def test_the_newest_versions_are_within_the_bounds(bounds: dict[str, Version]) -> None:
    newest = pins("constraints.txt")
    assert [name for name, bound in bounds.items() if newest[name] < bound] == []


def test_the_version_is_the_same_everywhere() -> None:
    citation = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    released = re.findall(r"^## (\d.*) - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation == released[:1] == [hf_worm.__version__]
    assert released == sorted(released, key=Version, reverse=True), "the newest first"


def test_the_security_policy_supports_this_version() -> None:
    supported = re.findall(r"^\| (\S+) \| supported \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    assert supported == [".".join(hf_worm.__version__.split(".")[:2])]


def jobs(workflow: str) -> dict[str, dict[str, Any]]:
    """What each job of a workflow runs, and on which Python."""
    found = {}
    for name, job in yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text())["jobs"].items():
        runs = [step["run"] for step in job["steps"] if "run" in step]
        (python,) = (step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
        found[name] = {"runs": runs, "python": python}
    return found


def test_the_pinned_the_oldest_and_the_newest_versions_are_tested() -> None:
    found = jobs("ci.yml")
    assert {name: job["runs"] for name, job in found.items()} == {
        "pinned": [".ci/run"],
        "oldest": ["make test-oldest"],
        "newest": ["make test-newest"],
    }
    for name, file in (("pinned", "constraints.txt"), ("oldest", "tests/oldest.txt")):
        assert f"(Python {found[name]['python']})" in (ROOT / file).read_text().splitlines()[0]
    assert all(run.startswith("make test-newest ") for job in jobs("weekly.yml").values() for run in job["runs"])


def test_the_hooks_run_what_make_check_does() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "no tool but the project's own, with its version"
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    commands = {line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in recipe.splitlines()[1:]}
    entries = {
        hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in repository["hooks"]
    }
    assert entries == commands


def test_environments_are_ignored_and_cleaned() -> None:
    makefile = (ROOT / "Makefile").read_text()
    names = re.findall(r"^(?:VENV|OLDEST|NEWEST) := (\S+)$", makefile, re.MULTILINE)
    assert len(names) == 3
    ignored = (ROOT / ".gitignore").read_text().split()
    assert all(any(fnmatch(f"{name}/", pattern) for pattern in ignored) for name in names)
    cleaned = makefile.partition("\nclean:")[2]
    assert all(f"$({name})" in cleaned for name in ("VENV", "OLDEST", "NEWEST"))
