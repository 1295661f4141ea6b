"""Each kind of units stands in one tuple, by which words, cuts and records find it."""

import copy

import pytest
import torch
from torch import nn
from zoo import NEURONS, zoo_model

from hf_worm.compact import require_larger_units
from hf_worm.units import representative_layers, require_trainable
from hf_worm.units.heads import head_size
from hf_worm.units.kind import LargerKind
from hf_worm.units.kinds import KINDS, LARGER_KINDS, WORDS, by_kind, kind_of


def test_each_word_and_each_granularity_is_one_kinds() -> None:
    words = [word for kind in KINDS for word in kind.words]
    assert words == list(WORDS) == ["query", "key", "value", "batchnorm", "neurons", "heads"]
    assert [kind.granularity for kind in KINDS] == ["weight", "channel", "neuron", "head"]


def test_layers_are_grouped_by_the_kind_of_their_units() -> None:
    model = nn.ModuleDict({"bert": zoo_model("bert"), "norm": nn.BatchNorm1d(3)})
    layers = representative_layers(model, ["heads", "neurons", "batchnorm", "bert.pooler.dense.weight"])
    assert [kind.granularity for kind in by_kind(layers)] == ["weight", "channel", "neuron", "head"]
    for kind, own in by_kind(layers).items():
        assert own == [layer for layer in layers if kind_of(layer) is kind]
    assert list(by_kind(layers[:0])) == []


@pytest.mark.parametrize("kind", LARGER_KINDS, ids=lambda kind: kind.word)
def test_a_record_gives_back_the_units_that_stay(kind: LargerKind) -> None:
    kept = {"first": [0, 2, 3], "second": [1]}
    record = kind.to_record(kept, {})
    for name, value in record.items():
        kind.require_recordable(value)
        numbered = kept[name] if kind.word == "heads" else list(range(len(kept[name])))
        assert kind.from_record(value) == numbered


def test_heads_of_a_second_cut_are_recorded_by_their_first_numbers() -> None:
    heads = WORDS["heads"]
    assert heads.to_record({"first": [0, 2], "second": [1]}, {"first": [1, 4, 5]}) == {"first": [1, 5], "second": [1]}


def test_a_units_definition_tells_what_to_train() -> None:
    model = zoo_model("bert")
    model.encoder.layer[0].output.dense.requires_grad_(False)
    with pytest.raises(ValueError, match="a neuron is rows, biases and a column") as raised:
        require_trainable(representative_layers(model, ["neurons", "heads"]))
    assert "a head is" not in str(raised.value)


@pytest.mark.parametrize(("name", "size"), [("bert", 4), ("llama", 4), ("qwen2", 4), ("albert", 4)])
def test_the_width_of_a_head_is_that_of_its_key(name: str, size: int) -> None:
    assert {head_size(layer) for layer in representative_layers(zoo_model(name), ["heads"])} == {size}


def test_the_first_kind_that_cannot_be_cut_out_is_named() -> None:
    model = zoo_model("bert")
    with pytest.raises(ValueError, match="are single weights"):
        require_larger_units(model, representative_layers(model, ["neurons", "query"]))


def test_a_cut_changes_the_layers_that_it_is_given_and_no_others() -> None:
    """Units of one place are cut where another layer of the same kind keeps all of its own."""
    model = zoo_model("bert")
    before = copy.deepcopy(model)
    layers = representative_layers(model, ["neurons@*.layer.1.*"])
    WORDS["neurons"].cut_(model, layers, {layers[0].name: [0, 3]})
    assert [block.intermediate.dense.out_features for block in model.encoder.layer] == [NEURONS, 2]
    dense = before.encoder.layer[1]
    assert torch.equal(model.encoder.layer[1].intermediate.dense.weight, dense.intermediate.dense.weight[[0, 3]])
    assert torch.equal(model.encoder.layer[1].output.dense.weight, dense.output.dense.weight[:, [0, 3]])
    assert torch.equal(model.encoder.layer[1].output.dense.bias, dense.output.dense.bias)


def test_an_unknown_block_is_told_beside_one_whose_weights_are_computed() -> None:
    model = zoo_model("bert")
    model.resampler = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("first", "fc2")})
    torch.nn.utils.parametrizations.weight_norm(model.encoder.layer[0].intermediate.dense)
    with pytest.warns(UserWarning) as told:
        assert len(representative_layers(model, ["neurons"])) == 1
    messages = [str(one.message) for one in told]
    assert len(messages) == 2
    assert "leads into the block of `resampler.fc2.weight`." in messages[0]
    assert "`encoder.layer.0.intermediate.dense.weight` is computed from other parameters" in messages[1]
