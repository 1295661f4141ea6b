"""The random states of Python, NumPy and PyTorch."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Leave all random states as they are now, whatever is drawn or seeded within.

    Those of an accelerator too: of all its devices or, where several processes train, of this one's own (as the Trainer
    saves them).
    """
    python, numpy, cpu, put_back = random.getstate(), np.random.get_state(), torch.get_rng_state(), _of_accelerator()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        put_back()


def _of_accelerator() -> Callable[[], object]:
    """Return a function that puts the states of the accelerator's devices back as they are now."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None:
        return lambda: None
    module = torch.get_device_module(device)
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if several or not hasattr(module, "get_rng_state_all"):  # of Apple's there is one
        return partial(module.set_rng_state, module.get_rng_state())
    return partial(module.set_rng_state_all, module.get_rng_state_all())
