"""What all tests share: no network, the same random numbers every time, and tiny models."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import copy
import gc
import random

import datasets
import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn
from training import SmallCNN, small_bert
from transformers import BertForSequenceClassification

torch.set_num_threads(1)  # the tensors are tiny, and threads only get in each other's way
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> None:
    """Have the collector leave alone what imports made: each training collects, and half of its time went there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the data sets that the tests make out of the user's cache."""
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def _bert() -> BertForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertForSequenceClassification(small_bert(max_position_embeddings=32))


@pytest.fixture
def bert(_bert: BertForSequenceClassification) -> BertForSequenceClassification:
    """A BERT classifier with two blocks, 64 words and two labels: a fresh copy, the same weights every time."""
    return copy.deepcopy(_bert)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (self.query(x) @ self.key(x).transpose(-1, -2)).softmax(-1)
        return x + weights @ self.value(x)


@pytest.fixture
def model() -> nn.Sequential:
    """A classifier in plain PyTorch, `(batch, 4, 8)` to `(batch, 2)`: two attentions with query, key and value."""
    return nn.Sequential(Attention(8), Attention(8), nn.Flatten(), nn.Linear(32, 2))


@pytest.fixture
def cnn() -> SmallCNN:
    """An image classifier in plain PyTorch with three BatchNorms, `norm1` to `norm3`, all γ 1 as they come."""
    return SmallCNN()
