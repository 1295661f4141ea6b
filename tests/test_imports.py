"""Imports run one way: commands → trainer → run → checkpoint → report → search → ticket → parts → units → core."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hf_worm"
PARTS = {"scores", "select", "schedule", "treatment", "parts"}
# The rooms of the package that each room may import.
MAY_IMPORT: dict[str, set[str]] = {"files": set(), "config": {"files"}, "core": {"core"}}
MAY_IMPORT["models"] = {"models"}  # checkpoints carry their code
MAY_IMPORT["units"] = {"units", "core", "config"}
MAY_IMPORT |= {part: MAY_IMPORT["units"] | PARTS for part in PARTS}
MAY_IMPORT["compact"] = MAY_IMPORT["units"] | {"compact", "models", "files"}
MAY_IMPORT["holding"] = MAY_IMPORT["units"]
MAY_IMPORT["ticket"] = MAY_IMPORT["compact"] - {"models"} | {"holding"}
MAY_IMPORT["state"] = MAY_IMPORT["ticket"] | {"ticket"} | PARTS
MAY_IMPORT["search"] = MAY_IMPORT["state"] | {"state"}
MAY_IMPORT["report"] = MAY_IMPORT["search"] | {"search", "report"}
MAY_IMPORT["checkpoint"] = MAY_IMPORT["report"] | {"checkpoint"}
MAY_IMPORT["run"] = MAY_IMPORT["checkpoint"]
MAY_IMPORT["trainer"] = MAY_IMPORT["run"] | {"run", "trainer"}
MAY_IMPORT["commands"] = MAY_IMPORT["trainer"] | {"commands", "models"}
MAY_IMPORT["__main__"] = {"commands"}
ABOVE_TRAINER = {"commands", "__main__"}
WITHOUT_TRANSFORMERS = {
    "files",
    "config",
    "core",
    "units",
    "compact",
    "holding",
    "ticket",
    "state",
    "search",
    "run",
} | PARTS
LOADS = PACKAGE / "compact" / "load.py"  # the one module below the trainer that loads models of Transformers

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
    found = offences(file.read_text(encoding="utf-8"), inside[0], package)
    assert [name for name in found if file != LOADS or not name.startswith("transformers")] == []


@pytest.mark.parametrize(
    ("source", "room", "package"),
    [
        ("import transformers", "core", "hf_worm.core"),
        ("from transformers import Trainer", "search", "hf_worm"),
        ("def later():\n    import transformers.trainer as t", "units", "hf_worm.units"),
        ("if TYPE_CHECKING:\n    from transformers import Trainer", "ticket", "hf_worm"),
        ("from hf_worm.config import WormConfig", "core", "hf_worm.core"),
        ("from ..config import WormConfig", "core", "hf_worm.core"),
        ("from .. import config", "core", "hf_worm.core"),
        ("from hf_worm import config", "core", "hf_worm.core"),
        ("from .core import masks", "config", "hf_worm"),
        ("from .search import TicketSearch", "scores", "hf_worm"),
        ("import hf_worm.search", "ticket", "hf_worm"),
        ("from .trainer import WormTrainer", "search", "hf_worm"),
        ("from transformers import TrainerState", "run", "hf_worm"),
        ("from hf_worm.trainer.callback import WormCallback", "run", "hf_worm"),
        ("from hf_worm.run import Run", "checkpoint", "hf_worm.checkpoint"),
        ("from hf_worm import WormTrainer", "search", "hf_worm"),
        ("import hf_worm", "search", "hf_worm"),
        ("from hf_worm import __version__", "report", "hf_worm.report"),
        ("from hf_worm.trainer.worm import WormTrainer", "report", "hf_worm.report"),
        ("from hf_worm.commands.job.task import Task", "trainer", "hf_worm.trainer"),
        ("from hf_worm.commands.main import main", "report", "hf_worm.report"),
        ("from ..units import representative_layers", "models", "hf_worm.models"),
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
        ("from transformers import Trainer\nfrom hf_worm.search import TicketSearch", "trainer", "hf_worm.trainer"),
        ("from ...trainer import WormTrainer", "commands", "hf_worm.commands.glue"),
        ("from hf_worm import __version__", "commands", "hf_worm.commands"),
        ("from transformers import PreTrainedModel\nfrom .vgg import VggBnConfig", "models", "hf_worm.models"),
    ],
)
def test_an_import_the_right_way_is_allowed(source: str, room: str, package: str) -> None:
    assert offences(source, room, package) == []


def test_matplotlib_is_imported_for_figures_alone() -> None:
    """By one folder, which no other module imports before figures are asked for: it need not be installed."""
    for file in FILES:
        package = f"hf_worm.{file.parent.name}"
        source = file.read_text(encoding="utf-8")
        statements = [node for node in ast.parse(source).body if not isinstance(node, ast.FunctionDef)]
        at_once = list(imported(ast.unparse(ast.Module(statements, [])), package))
        if file.parent != PACKAGE / "report" / "figures":
            assert not any(name.startswith("hf_worm.report.figures") for name in at_once), file
            assert not any(name.startswith("matplotlib") for name in imported(source, package)), file


WITHOUT_INSTALLED = f"""
import sys, types
sys.modules["transformers"] = None
package = types.ModuleType("hf_worm")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["hf_worm"] = package

import torch
from torch import nn
from hf_worm.config import WormConfig

model = nn.ModuleDict(dict(query=nn.Linear(4, 4), key=nn.Linear(4, 4)))
"""
SEARCH = """
from hf_worm.search import TicketSearch

search = TicketSearch(model, WormConfig(window=2))
search.observe()
assert search.observe().converged
print(search.draw().sparsity)
"""
RUN = """
from hf_worm.run import Run

optimizer = torch.optim.SGD(model.parameters())
run = Run(WormConfig(window=2), {}, lambda observation, at: None)
run.restore(model)
run.plan(epochs=2, steps_per_epoch=1, planned=2)
for step in range(3):
    at = types.SimpleNamespace(global_step=step, epoch=float(step), max_steps=2)
    if step == 0:
        run.begin(at, model, optimizer, 1)
    else:
        run.step_ended(at)
        run.epoch_ended(at)
assert run.end_search(at, stopped=False)
run.close_search(at, "draw")
print(run.draw().sparsity)
"""


@pytest.mark.parametrize("program", [SEARCH, RUN], ids=["search", "run"])
def test_it_runs_where_transformers_is_not_installed(program: str) -> None:
    """In a process that can't import transformers; the package's own `__init__`, which needs it, is left out."""
    program = WITHOUT_INSTALLED + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0.5\n"), done.stderr
