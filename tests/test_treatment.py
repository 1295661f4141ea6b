"""What is done to the weights that the newest mask prunes, by the settings, and what each part asks for."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_worm.config import WormConfig
from hf_worm.search import TicketSearch
from hf_worm.treatment import Fade, Nothing, ScaleGradient, ScaleUpdate, Treatment, treatment_of


@pytest.mark.parametrize(
    ("settings", "kind", "acts_on"),
    [
        ({}, ScaleGradient, (True, False, False)),
        ({"truncation": 1.0}, Nothing, (False, False, False)),
        ({"truncation": 1.0, "truncation_target": "update"}, Nothing, (False, False, False)),
        ({"truncation_target": "update"}, ScaleUpdate, (False, True, False)),
        ({"truncation_target": "fade"}, Fade, (False, True, True)),
        ({"truncation_target": "fade", "truncation": 1.0}, Fade, (False, True, True)),
        ({"schedule": "cubic"}, Nothing, (False, False, False)),
    ],
)
def test_the_settings_name_the_treatment(settings: dict[str, Any], kind: Any, acts_on: tuple[bool, ...]) -> None:
    treatment = treatment_of(WormConfig(**settings))
    assert type(treatment) is kind and isinstance(treatment, Treatment)
    assert (treatment.scales_gradients, treatment.scales_steps, treatment.needs_epochs) == acts_on


@pytest.mark.parametrize("target", ["gradient", "update"])
def test_a_treatment_given_as_a_part_does_what_the_settings_would(model: nn.Module, target: str) -> None:
    found = []
    for given in (True, False):
        torch.manual_seed(0)
        twin = nn.Sequential(*model)
        for parameter in twin.parameters():
            nn.init.normal_(parameter)
        part = {"gradient": ScaleGradient, "update": ScaleUpdate}[target](0.25) if given else None
        settings = {"truncation": 1.0} if given else {"truncation": 0.25, "truncation_target": target}
        search = TicketSearch(twin, WormConfig(stopping_point=1.0, **settings), treatment=part)
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
        search.attach(optimizer)
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(twin(torch.randn(16, 4, 8)), torch.arange(16) % 2).backward()
            search.truncate_gradients()
            optimizer.step()
            search.observe()
        found.append([parameter.detach().clone() for parameter in twin.parameters()])
    assert all(map(torch.equal, *found))


def test_what_a_treatment_keeps_goes_with_the_draw_and_the_end(model: nn.Module) -> None:
    for end in ("draw", "close"):
        search = TicketSearch(model, WormConfig(stopping_point=1.0))
        search.observe()
        search.observe()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        search.truncate_gradients()
        assert isinstance(search.treatment, ScaleGradient) and len(search.treatment.scales) == 4
        getattr(search, end)()
        assert search.treatment.scales == [] and search.treatment.views == []
