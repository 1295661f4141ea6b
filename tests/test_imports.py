"""Imports run one way: cli → glue, image, show → job → trainer → hub → report → search → ticket → layers, config."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hf_worm"
# Which rooms of the package each room may import.
MAY_IMPORT: dict[str, set[str]] = {"config": set(), "core": {"core"}, "layers": {"layers", "core", "config"}}
MAY_IMPORT["models"] = {"models"}  # checkpoints carry their code
MAY_IMPORT["speed"] = {"speed", "core"}
MAY_IMPORT["compact"] = MAY_IMPORT["layers"] | {"compact"}
MAY_IMPORT["ticket"] = MAY_IMPORT["compact"]
MAY_IMPORT["search"] = MAY_IMPORT["ticket"] | {"ticket"}
MAY_IMPORT["loading"] = MAY_IMPORT["compact"] | {"models"}
MAY_IMPORT["run"] = MAY_IMPORT["search"] | {"search", "speed"}
MAY_IMPORT["checkpoint"] = MAY_IMPORT["run"] | {"run"}
MAY_IMPORT["report"] = MAY_IMPORT["run"] | {"run"}
MAY_IMPORT["hub"] = MAY_IMPORT["report"] | {"report"}
MAY_IMPORT["trainer"] = MAY_IMPORT["hub"] | {"hub", "checkpoint", "loading", "trainer"}
MAY_IMPORT["job"] = MAY_IMPORT["trainer"] | {"job"}
MAY_IMPORT["glue"] = MAY_IMPORT["job"] | {"glue"}
MAY_IMPORT["image"] = MAY_IMPORT["job"] | {"image", "models"}
MAY_IMPORT["show"] = MAY_IMPORT["job"] | {"show"}
MAY_IMPORT["cli"] = MAY_IMPORT["glue"] | MAY_IMPORT["image"] | MAY_IMPORT["show"] | {"cli"}
MAY_IMPORT["__main__"] = {"cli"}
ABOVE_TRAINER = {"job", "glue", "image", "show", "cli", "__main__"}
WITHOUT_TRANSFORMERS = {"config", "core", "layers", "compact", "speed", "ticket", "search"}

FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]


def imported(source: str, package: str) -> Iterator[str]:
    """Full names of all that a module of `package` imports, anywhere in its code; `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def offences(source: str, room: str, package: str) -> list[str]:
    found = []
    for name in imported(source, package):
        top, *inner = name.split(".")
        if top == "transformers" and room in WITHOUT_TRANSFORMERS:
            found.append(name)
        if top == "hf_worm" and inner and inner[0] in MAY_IMPORT:
            if inner[0] not in MAY_IMPORT[room]:
                found.append(name)
        elif top == "hf_worm" and room not in ABOVE_TRAINER:
            found.append(name)  # of the package as a whole, which pulls in the trainer
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    inside = file.relative_to(PACKAGE).with_suffix("").parts
    assert inside[0] in MAY_IMPORT, f"say in this test what `{inside[0]}` may import"
    package = ".".join(["hf_worm", *inside[:-1]])
    assert offences(file.read_text(encoding="utf-8"), inside[0], package) == []


@pytest.mark.parametrize(
    ("source", "room", "package"),
    [
        ("import transformers", "core", "hf_worm.core"),
        ("from transformers import Trainer", "search", "hf_worm"),
        ("def later():\n    import transformers.trainer as t", "layers", "hf_worm.layers"),
        ("if TYPE_CHECKING:\n    from transformers import Trainer", "ticket", "hf_worm"),
        ("from hf_worm.config import WormConfig", "core", "hf_worm.core"),
        ("from ..config import WormConfig", "core", "hf_worm.core"),
        ("from .. import config", "core", "hf_worm.core"),
        ("from hf_worm import config", "core", "hf_worm.core"),
        ("from .core import masks", "config", "hf_worm"),
        ("import hf_worm.search", "ticket", "hf_worm"),
        ("from .trainer import WormTrainer", "search", "hf_worm"),
        ("from hf_worm import WormTrainer", "search", "hf_worm"),
        ("import hf_worm", "search", "hf_worm"),
        ("from hf_worm import __version__", "hub", "hf_worm"),
        ("from hf_worm.job.task import Task", "hub", "hf_worm"),
        ("from hf_worm.trainer.phases import PhasedTrainerMixin", "report", "hf_worm"),
        ("from hf_worm.glue.tasks import TASKS", "job", "hf_worm.job"),
        ("from hf_worm.glue.tasks import TASKS", "image", "hf_worm.image"),
        ("from hf_worm.cli import main", "glue", "hf_worm.glue"),
        ("from hf_worm.show.record import Record", "job", "hf_worm.job"),
        ("from ..layers import representative_layers", "models", "hf_worm.models"),
    ],
)
def test_an_import_the_other_way_is_seen(source: str, room: str, package: str) -> None:
    assert len(offences(source, room, package)) == 1


@pytest.mark.parametrize(
    ("source", "room", "package"),
    [
        ("import torch\nfrom torch import nn", "core", "hf_worm.core"),
        ("from .masks import pack", "core", "hf_worm.core"),
        ("from . import masks", "core", "hf_worm.core"),
        ("from hf_worm.core.masks import pack", "core", "hf_worm.core"),
        ("from hf_worm.config import WormConfig\nfrom .ticket import Ticket", "search", "hf_worm"),
        ("from transformers import Trainer\nfrom hf_worm.run import Progress", "trainer", "hf_worm.trainer"),
        ("from ..trainer import WormTrainer", "glue", "hf_worm.glue"),
        ("from hf_worm import __version__", "cli", "hf_worm"),
        ("from transformers import PreTrainedModel\nfrom .vgg import VggBnConfig", "models", "hf_worm.models"),
    ],
)
def test_an_import_the_right_way_is_allowed(source: str, room: str, package: str) -> None:
    assert offences(source, room, package) == []


def test_matplotlib_is_imported_for_figures_alone() -> None:
    """By one module, which no other imports before figures are asked for: it need not be installed."""
    for file in FILES:
        package = f"hf_worm.{file.parent.name}"
        source = file.read_text(encoding="utf-8")
        statements = [node for node in ast.parse(source).body if not isinstance(node, ast.FunctionDef)]
        at_once = list(imported(ast.unparse(ast.Module(statements, [])), package))
        assert not any(name.startswith("hf_worm.show.figures") for name in at_once), file
        if file != PACKAGE / "show" / "figures.py":
            assert not any(name.startswith("matplotlib") for name in imported(source, package)), file


def test_a_search_runs_where_transformers_is_not_installed() -> None:
    """In a process that can't import transformers; the package's own `__init__`, which needs it, is left out."""
    program = f"""
        import sys, types
        sys.modules["transformers"] = None
        package = types.ModuleType("hf_worm")
        package.__path__ = [{str(PACKAGE)!r}]
        sys.modules["hf_worm"] = package

        from torch import nn
        from hf_worm.config import WormConfig
        from hf_worm.search import TicketSearch

        search = TicketSearch(nn.ModuleDict(dict(query=nn.Linear(4, 4), key=nn.Linear(4, 4))), WormConfig(window=2))
        search.observe()
        assert search.observe().converged
        print(search.draw().sparsity)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0.5\n"), done.stderr
