"""Random numbers beside those of the training."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.trainer_utils import set_seed

from hf_worm.core.random_states import random_states_kept


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Begin with a seed, and leave all random states as they were.

    What is drawn within, such as the tokens that a masked language model has to guess, is the same every time.

    Args:
        seed (`int`): The seed.
    """
    with random_states_kept():
        set_seed(seed)
        yield
