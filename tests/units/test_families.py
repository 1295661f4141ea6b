"""A new architecture is one entry in one table: the guide's example, and what each field of an entry does."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_worm import TicketSearch, WormConfig
from hf_worm.units import families, representative_layers
from hf_worm.units.families import Attention, FeedForward, FusedProjection

GUIDE = Path(__file__).parents[2] / "docs" / "families.md"
MODULES, ATTENTION, FEED_FORWARD, USE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def entry(block: str) -> Any:
    """The entry of a table that a block of the guide shows."""
    return eval(block, {"Attention": Attention, "FeedForward": FeedForward})


def add(monkeypatch: pytest.MonkeyPatch, table: str, *entries: Any) -> None:
    monkeypatch.setattr(families, table, (*getattr(families, table), *entries))


@pytest.fixture
def guide() -> dict[str, Any]:
    """The names that the guide's modules define."""
    names: dict[str, Any] = {}
    exec(MODULES, names)
    return names


def test_the_guides_example_is_found_drawn_and_cut(guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, "ATTENTIONS", entry(ATTENTION))
    add(monkeypatch, "FEED_FORWARDS", entry(FEED_FORWARD))
    exec(USE, guide)
    assert guide["ticket"].masks.keys() == {"choir.ask.weight", "widen.weight"}


@pytest.mark.parametrize("word", ["query", "key", "value", "heads", "neurons"])
def test_without_its_entry_the_guides_example_is_not_found(guide: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match="Found no "):
        representative_layers(guide["Block"](), [word])


@pytest.mark.parametrize(
    ("shown", "table", "words"),
    [(ATTENTION, "ATTENTIONS", ["query", "key", "value", "heads"]), (FEED_FORWARD, "FEED_FORWARDS", ["neurons"])],
)
def test_one_entry_is_enough_for_its_words(
    guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch, shown: str, table: str, words: list[str]
) -> None:
    add(monkeypatch, table, entry(shown))
    for word in words:
        assert len(representative_layers(guide["Block"](), [word])) == 1


def test_heads_without_a_known_width_are_projections_all_the_same(
    guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(monkeypatch, "ATTENTIONS", Attention("ask", "match", "tell", outputs=("blend",)))
    model = guide["Block"]()
    assert [layer.name for layer in representative_layers(model, ["query"])] == ["choir.ask.weight"]
    with pytest.raises(ValueError, match="that tells the width of its heads"):
        representative_layers(model, ["heads"])


def test_a_count_that_is_not_named_stays_and_the_cut_model_computes_something_else(
    guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The field is what makes the guide's example work."""
    shown = entry(ATTENTION)
    add(monkeypatch, "ATTENTIONS", Attention(*shown.projections, shown.outputs, shown.head_sizes))
    model = guide["Block"]()
    search = TicketSearch(model, WormConfig(layers=["heads"]))
    search.observe()
    smaller, x = search.draw().compact(model), torch.randn(2, 5, 24)
    assert smaller.choir.voices == model.choir.voices
    assert not torch.allclose(smaller(x), model(x))


class Beside(nn.Module):
    """An attention whose output projection is beside it."""

    def __init__(self, guide: dict[str, Any]) -> None:
        super().__init__()
        self.inner = guide["Choir"]()
        self.after = nn.ModuleDict({"blend": self.inner.blend})
        self.inner.blend = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after["blend"](self.inner(x))


def test_an_output_may_be_beside_the_attention(guide: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"head_sizes": ("voice_width",), "head_counts": ("voices",)}
    add(monkeypatch, "ATTENTIONS", Attention("ask", "match", "tell", outputs=("blend", "../after.blend"), **names))
    model = Beside(guide)
    (layer,) = representative_layers(model, ["heads"])
    assert layer.views[-1].parameter is model.after["blend"].weight
    search = TicketSearch(model, WormConfig(layers=["heads"]))
    search.observe()
    smaller, x = search.draw().compact(model), torch.randn(2, 5, 24)
    torch.testing.assert_close(smaller(x), model(x))


class Gated(nn.Module):
    """A block that has the gate's rows ahead of those that it gates."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.narrow = nn.Linear(6, 16), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, gated = self.both(x).chunk(2, -1)
        return self.narrow(gate.sigmoid() * gated)


def test_a_fused_gate_is_split_where_the_entry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Gated()
    with monkeypatch.context() as once:
        add(once, "FEED_FORWARDS", FeedForward(("both",), "narrow"))
        with pytest.raises(ValueError, match="Found no feed-forward block"):
            representative_layers(model, ["neurons"])
    add(monkeypatch, "FEED_FORWARDS", FeedForward(("both",), "narrow", may_hold_gate=True))
    search = TicketSearch(model, WormConfig(layers=["neurons"]))
    search.observe()
    dense = copy.deepcopy(model)
    ticket = search.draw()
    x = torch.randn(3, 6)
    gate, gated = dense.both(x).chunk(2, -1)
    kept = ticket.masks["both.weight"]
    torch.testing.assert_close(ticket.compact(model)(x), dense.narrow(gate.sigmoid() * gated * kept))


def test_a_fused_projection_is_named_by_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.ModuleDict({"attention": nn.ModuleDict({"triple": nn.Linear(4, 12)}), "triple": nn.Linear(4, 12)})
    for only_in_attention in (False, True):
        with monkeypatch.context() as once:
            add(once, "FUSED_PROJECTIONS", FusedProjection("triple", only_in_attention))
            with pytest.raises(ValueError, match="fused in one weight") as raised:
                representative_layers(model, ["query"])
        assert 'Watch that weight as a whole by its name, for example `WormConfig(layers=["att' in str(raised.value)
        assert ("\n  `triple.weight`" in str(raised.value)) is not only_in_attention


def test_no_two_entries_of_a_table_are_the_same() -> None:
    """A second one would find every layer twice."""
    for table in (families.ATTENTIONS, families.FEED_FORWARDS, families.FUSED_PROJECTIONS):
        assert len(set(table)) == len(table)
