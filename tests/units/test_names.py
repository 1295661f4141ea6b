"""Names and patterns in `layers`, and names under wrappers."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig

from hf_worm.units import representative_layers

CONFIG = BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    return AutoModel.from_config(CONFIG)


def names(model: nn.Module, entries: list[str]) -> list[str]:
    return [layer.name for layer in representative_layers(model, entries)]


def test_a_full_name_is_that_parameter(bert: nn.Module) -> None:
    layer = representative_layers(bert, ["pooler.dense.weight"])[0]
    assert layer.name == "pooler.dense.weight"
    assert layer.views[0].weight.data_ptr() == bert.pooler.dense.weight.data_ptr()
    assert layer.shape == bert.pooler.dense.weight.shape


def test_a_pattern_is_all_that_it_matches(bert: nn.Module) -> None:
    assert names(bert, ["encoder.layer.[0-9].output.dense.*"]) == [
        f"encoder.layer.{block}.output.dense.{part}" for block in range(2) for part in ("weight", "bias")
    ]


def test_patterns_tell_capitals_apart(bert: nn.Module) -> None:
    assert names(bert, ["*.LayerNorm.weight"])
    with pytest.raises(ValueError, match="matches no parameter"):
        names(bert, ["*.layernorm.weight"])


def test_overlapping_entries_count_once_in_the_order_of_the_model(bert: nn.Module) -> None:
    one = "encoder.layer.1.attention.self.query.weight"
    assert names(bert, ["pooler.dense.weight", one, "query", "*.query.weight", "query"]) == [
        "encoder.layer.0.attention.self.query.weight",
        one,
        "pooler.dense.weight",
    ]


@pytest.mark.parametrize("other", ["query", "*.query.weight=0.25"])
def test_two_ratios_for_one_parameter_are_refused(bert: nn.Module, other: str) -> None:
    one = "encoder.layer.1.attention.self.query.weight=0.75"
    with pytest.raises(ValueError, match=r"both name `encoder\.layer\.1\.attention\.self\.query\.weight`: which ratio"):
        representative_layers(bert, [other, one])
    assert len(representative_layers(bert, ["query=0.75", one])) == 2
    apart = representative_layers(bert, ["*.layer.0.*.query.weight", one])
    assert [layer.prune_ratio for layer in apart] == [None, 0.75]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["query=0.3", "query=0.5"], "`query` is named twice"),
        (["query=1.5"], r"must be in \[0, 1\): `query=0.5`"),
        (["query=half"], "`half` in `layers`, of `query=half`, is no ratio"),
    ],
)
def test_wrong_ratios_are_refused_without_a_configuration_too(
    bert: nn.Module, entries: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        representative_layers(bert, entries)


def test_a_tied_weight_is_found_under_either_name_and_counts_once() -> None:
    model = AutoModelForMaskedLM.from_config(CONFIG)
    tied, first = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    assert model.get_parameter(tied) is model.get_parameter(first)
    assert names(model, [tied]) == names(model, [first]) == names(model, [tied, first]) == [first]


def test_compiled_models_keep_their_plain_names(bert: nn.Module) -> None:
    compiled = torch.compile(deepcopy(bert))
    assert all(name.startswith("_orig_mod.") for name, _ in compiled.named_parameters())
    inside = deepcopy(bert)
    inside.encoder.layer[0] = torch.compile(inside.encoder.layer[0])
    inside.encoder.layer[1].attention.self.query = torch.compile(inside.encoder.layer[1].attention.self.query)
    for model in (compiled, inside):
        for entries in (["query", "key"], ["encoder.layer.*.output.dense.weight"], ["pooler.dense.weight"]):
            assert names(model, entries) == names(bert, entries)


def test_checkpoint_wrapped_modules_keep_their_plain_names(bert: nn.Module) -> None:
    model = deepcopy(bert)
    model.encoder.layer[0] = checkpoint_wrapper(model.encoder.layer[0])
    assert any("_checkpoint_wrapped_module" in name for name, _ in model.named_parameters())
    assert names(model, ["query", "key"]) == names(bert, ["query", "key"])


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
def test_ddp_is_looked_through_and_a_child_called_module_is_kept(bert: nn.Module) -> None:
    wrapped = DistributedDataParallel(deepcopy(bert))
    assert all(name.startswith("module.") for name, _ in wrapped.named_parameters())
    for model in (wrapped, torch.compile(wrapped), DistributedDataParallel(torch.compile(deepcopy(bert)))):
        assert names(model, ["query", "key"]) == names(bert, ["query", "key"])

    own = nn.ModuleDict({"module": nn.ModuleDict({"q": nn.Linear(2, 2), "k": nn.Linear(2, 2)})})
    for model in (own, DistributedDataParallel(own)):
        assert names(model, ["query"]) == ["module.q.weight"]


def test_data_parallel_is_looked_through(bert: nn.Module) -> None:
    assert names(nn.DataParallel(deepcopy(bert)), ["query"]) == names(bert, ["query"])
