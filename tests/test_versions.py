"""The versions that are tested are those that `pyproject.toml` admits: the oldest of each, and those of `make test`."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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
