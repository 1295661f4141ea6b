"""Costs of models: counts against those by hand; times are measured, not tested."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from hf_worm.report.speed import costs, counts, forward, repeated


class Net(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, hidden), nn.Linear(hidden, 3)
        self.dropout = nn.Dropout(0.5)
        self.batches: list[int] = []
        self.cache: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        self.batches.append(len(x))
        if self.cache is None:  # as some rotary embeddings do
            self.cache = torch.ones(6)
        x = x * self.cache
        logits = self.second(self.dropout(self.first(x).relu()))
        return {"logits": logits} | ({} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)})


def test_counts_are_those_by_hand() -> None:
    found = costs({"dense": Net(8), "compact": Net(4)}, {"x": torch.randn(2, 6), "labels": torch.tensor([0, 2])})
    assert found["size"] == {
        "dense": {"parameters": 83, "bytes": 332, "multiply_adds": 6 * 8 + 8 * 3},
        "compact": {"parameters": 43, "bytes": 172, "multiply_adds": 6 * 4 + 4 * 3},
    }
    assert set(found["seconds"]) == {"forward 1", "forward 32", "training step 32"}
    for times in found["seconds"].values():
        assert set(times) == {"dense", "compact"}
        assert all(0 < one["low"] <= one["median"] <= one["high"] and one["rounds"] >= 3 for one in times.values())


class LossFirst(Net):
    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return dict(reversed(super().forward(x, labels).items()))


def test_outputs_are_not_the_loss() -> None:
    batch = {"x": torch.randn(5, 6), "labels": torch.tensor([0, 2, 1, 1, 0])}
    model = LossFirst(8)
    assert torch.equal(forward(model, batch), model(**batch)["logits"])
    assert forward(nn.Flatten(0), {"input": torch.tensor(2.0)}).numel() == 1, "where there is nothing else"


def test_each_model_takes_the_same_batches_of_1_and_32_rows() -> None:
    batches: dict[int, list[int]] = {8: [], 4: []}
    models = {"a": Net(8), "b": Net(4)}
    for model in models.values():
        model.batches = Shared(batches[model.first.out_features])
    found = costs(models, {"x": torch.randn(5, 6)})
    assert set(found["seconds"]) == {"forward 1", "forward 32", "training step 32"}
    assert batches[8] == batches[4] and set(batches[8]) == {1, 32}
    few = costs(models, {"x": torch.randn(5, 6)}, rows=3)
    assert set(few["seconds"]) == {"forward 1", "forward 32", "training step 3"}


class Shared:
    """Has its copies note in the same list."""

    def __init__(self, noted: list[int]) -> None:
        self.noted = noted

    def append(self, rows: int) -> None:
        self.noted.append(rows)

    def __deepcopy__(self, memo: object) -> "Shared":
        return self


def test_nothing_changes(bert: BertForSequenceClassification) -> None:
    bert.train().bert.embeddings.eval()
    bert.classifier.weight.grad = torch.ones_like(bert.classifier.weight)
    modes = [module.training for module in bert.modules()]
    before = copy.deepcopy(bert.state_dict())
    batch = {"input_ids": torch.randint(0, 64, (2, 5)), "labels": torch.tensor([0, 1])}
    state = torch.random.get_rng_state()
    costs({"bert": bert}, batch)
    assert all(torch.equal(weight, before[name]) for name, weight in bert.state_dict().items())
    assert [module.training for module in bert.modules()] == modes
    assert [name for name, weight in bert.named_parameters() if weight.grad is not None] == ["classifier.weight"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_running_statistics_do_not_change(cnn: nn.Module) -> None:
    before = copy.deepcopy(cnn.state_dict())
    costs({"cnn": cnn}, {"pixel_values": torch.randn(2, 1, 8, 8)})
    assert all(torch.equal(weight, before[name]) for name, weight in cnn.state_dict().items())


def test_a_model_that_keeps_what_it_has_computed_trains_on() -> None:
    model = Net(8)
    costs({"net": model}, {"x": torch.randn(2, 6)})
    model(torch.randn(2, 6))["logits"].sum().backward()
    assert model.first.weight.grad is not None


def test_an_attention_counts_whatever_its_kernel(bert: BertForSequenceClassification) -> None:
    batch = {"input_ids": torch.randint(0, 64, (2, 5))}
    config = copy.deepcopy(bert.config)
    found = []
    for kernel in ("sdpa", "eager"):
        config._attn_implementation = kernel
        found.append(counts(BertForSequenceClassification(config), batch)["multiply_adds"])
    assert found[0] == found[1]


@pytest.mark.parametrize(("rows", "expected"), [(1, [0]), (3, [0, 1, 0])])
def test_rows_are_repeated(rows: int, expected: list[int]) -> None:
    assert repeated({"x": torch.tensor([0, 1]), "flag": True}, rows)["x"].tolist() == expected
