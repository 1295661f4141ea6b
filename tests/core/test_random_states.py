"""Random states: what is drawn or seeded within leaves none of them changed, those of an accelerator included."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_worm.core.random_states import random_states_kept


def drawn() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_what_is_drawn_afterwards_is_what_would_have_been_drawn() -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    with random_states_kept():
        first = drawn()
    with pytest.raises(KeyError), random_states_kept():
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(7)
        raise KeyError
    assert drawn() == first
    assert drawn() != first


@pytest.mark.parametrize("several", [False, True])
def test_of_all_devices_or_of_this_processes_own(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [1, 2]

    def put(new: list[int]) -> None:
        states[:] = new

    def put_first(new: int) -> None:
        states[0] = new

    module = SimpleNamespace(
        get_rng_state=lambda: states[0],
        set_rng_state=put_first,
        get_rng_state_all=lambda: list(states),
        set_rng_state_all=put,
    )
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: several)
    with random_states_kept():
        put([8, 9])
    assert states == ([1, 9] if several else [1, 2])
    del module.get_rng_state_all  # as of Apple's
    with random_states_kept():
        put([8, 9])
    assert states[0] == 1
