"""The guide and the pages beside it: links lead somewhere, Python compiles and imports what there is, examples run."""

import ast
import importlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import worm_trainer
from transformers import BertForSequenceClassification

from hf_worm import TicketSearch, WormConfig, WormTrainer

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[str]:
    """The Python of a page, each block with the prompt-less text that stands between its fences."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


CODE = [pytest.param(code, id=f"{name_of(page)} {place}") for page in PAGES for place, code in enumerate(blocks(page))]


def headings(page: Path) -> set[str]:
    """The headings of a page as links name them; lines of code that begin with `#` are none."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def broken_links(page: Path) -> list[str]:
    """Links within the project whose file or heading is not there."""
    broken = []
    for path, heading in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        if ":" not in path and not (target.exists() and (not heading or heading in headings(target))):
            broken.append(f"{path}#{heading}")
    return broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Of l, δ\n\n[a](page.md#of-l-δ) [b](#of-l-δ) [c](none.md) [d](#none) [e](https://none#none)\n")
    assert broken_links(page) == ["none.md#", "#none"]


def test_each_page_of_the_guide_is_in_its_index() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert len(names) > 2
    assert [name for name in names if f"]({name})" not in text] == []


@pytest.mark.parametrize("code", CODE)
def test_python_compiles_and_imports_what_there_is(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hf_worm":
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("WormConfig"):
            eval(compile(ast.Expression(node), "a page", "eval"), {"WormConfig": WormConfig})


def test_modules_that_pages_name_are_there() -> None:
    named = {
        path
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
        for path in re.findall(r"`((?:hf_worm|tests|docs|benchmarks)/[\w/.]+)`", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def class_of(page: str, name: str) -> Any:
    """A class that a page defines, by its own code."""
    for code in blocks(ROOT / "docs" / page):
        tree = ast.parse(code)
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body):
            space: dict[str, Any] = {}
            exec(compile(tree, page, "exec"), space)
            return space[name]
    raise LookupError(f"{page} defines no {name}")


def test_the_score_of_the_guide_ranks_by_the_largest_gradient(model: nn.Sequential) -> None:
    score = class_of("parts.md", "LargestGradient")()
    search = TicketSearch(model, WormConfig(window=2), score=score)
    largest = {layer.name: torch.zeros(layer.shape) for layer in search.layers}
    for _ in range(3):
        model.zero_grad()
        model(torch.randn(4, 4, 8)).square().sum().backward()
        for layer in search.layers:
            largest[layer.name] = torch.maximum(largest[layer.name], layer.parameter.grad.abs())
        search.truncate_gradients()
    search.observe()
    for name, mask in search.masks.items():
        assert largest[name][mask].min() >= largest[name][~mask].max()
        assert int((~mask).sum()) == round(0.5 * mask.numel())
    fresh = class_of("parts.md", "LargestGradient")()
    fresh.load_state_dict(score.state_dict())
    assert all(torch.equal(fresh.of(layer), score.of(layer)) for layer in search.layers)


def test_the_score_of_the_guide_trains(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    score = class_of("parts.md", "LargestGradient")()
    trainer = worm_trainer(bert, tmp_path, WormConfig(stopping_point=1.0), kind=partial(WormTrainer, score=score))
    trainer.train()
    assert trainer.ticket is not None and trainer.ticket.parts["score"] == "largest_gradient"


def test_the_schedule_of_the_guide_draws_after_its_steps(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    schedule = class_of("parts.md", "AfterSteps")(5)
    trainer = worm_trainer(bert, tmp_path, WormConfig(), kind=partial(WormTrainer, schedule=schedule))
    trainer.train()
    assert trainer.ticket is not None and trainer.progress.steps["search"] == 5
