"""Random numbers beside those of the training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers.trainer_utils import set_seed


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Begin with a seed, and leave the random states of Python, NumPy and PyTorch as they were.

    What is drawn within, such as the tokens that a masked language model has to guess, is the same every time.

    Args:
        seed (`int`): The seed.
    """
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []  # not those of other processes
    try:
        with torch.random.fork_rng(devices):
            set_seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
