"""The section of the model card, from reports that no run of the paper's writes."""

from typing import Any

import pytest
import torch
from small_report import small_report
from transformers import BertForSequenceClassification

from hf_worm import Ticket, WormConfig, representative_layers
from hf_worm.report.card import card_section, tags_of
from hf_worm.report.progress import Progress
from hf_worm.report.reading import record_of
from hf_worm.report.terminal import result_table
from hf_worm.report.worm_report import build_report

PARTS = {"score": "magnitude", "select": "layer", "schedule": "early_bird", "treatment": "gradient"}


def section(parts: dict[str, str], **settings: Any) -> str:
    return card_section("someone/model", {**small_report(**settings), "parts": parts})


def test_the_card_has_the_tables_of_the_terminal() -> None:
    card = section({})
    assert "| before the draw | 0.8500 | 0.9000 | 0.4100 | 3.00 | 12.3 |" in card
    assert "| 3 | 3.00 | 345 | 0.00800 | 0.00600 | yes: mean < 0.015 | yes: max < 0.01 |" in card
    assert "| `encoder.0.query.weight` | 50.0% |" in card
    assert section(PARTS) == card, "the paper's parts go without saying"


def test_another_score_is_named_and_said_to_be_none_of_the_papers() -> None:
    card = section({**PARTS, "score": "fisher"})
    assert "Units are ranked by the Fisher score; the paper's method ranks them by magnitude." in card
    assert "by WORM ([arXiv:2406.11872]" in card


def test_gradual_pruning_is_of_its_own_paper() -> None:
    card = section({**PARTS, "schedule": "cubic", "treatment": "nothing"})
    assert "by gradual pruning ([arXiv:1710.01878]" in card and "the full ratio was reached after 3 epochs" in card
    assert "zhu2017prune" in card and "vasudev2024worm" not in card
    assert "truncating" not in card.partition("Settings:")[0] and "window of" not in card


@pytest.mark.parametrize("without", ["observations", "a model of zeros"])
def test_masks_that_were_given_are_of_no_search(without: str, bert: BertForSequenceClassification) -> None:
    report = small_report()
    report["search"] = {"epochs": 0.0, "steps": 0, "seconds": 0.0, "converged": False, "observations": []}
    if without != "observations":
        masks = {layer.name: torch.rand(layer.shape) < 0.5 for layer in representative_layers(bert, ["query"])}
        report |= build_report(Ticket(masks, WormConfig(layers=["query"])), Progress(), bert)
    assert not record_of(report).method.searched
    card = card_section("someone/model", report)
    assert "Pruned with `hf_worm` by masks that were given: no search has found them. Pruned: " in card
    assert "WORM" not in card and "arXiv" not in card and "### The search" not in card
    assert result_table(report).startswith("Masks that were given: no search has found them\n")


def test_a_ticket_of_a_search_without_observations_is_of_that_search() -> None:
    report = {**small_report(), "parts": PARTS}
    report["search"]["observations"] = []
    assert record_of(report).method.searched


@pytest.mark.parametrize(
    ("parts", "tags"),
    [
        ({}, ["worm", "early-bird", "pruning"]),
        ({**PARTS, "schedule": "cubic"}, ["worm", "pruning"]),
        ({**PARTS, "schedule": "sudden"}, ["worm", "pruning"]),
    ],
)
def test_what_no_early_bird_is_has_not_its_tag(parts: dict[str, str], tags: list[str]) -> None:
    assert tags_of(record_of({**small_report(), "parts": parts})) == tags
