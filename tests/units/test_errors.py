"""Each error says what was got, what is needed, and a setting that works."""

import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from transformers import (
    AutoModel,
    BertConfig,
    BlipConfig,
    ConvNextConfig,
    DebertaConfig,
    FNetConfig,
    GPT2Config,
    GPTNeoXConfig,
    MambaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    ResNetConfig,
)

from hf_worm.units import representative_layers, require_trainable

SMALL = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16}
BERT = BertConfig(**SMALL, num_attention_heads=2)
GPT2 = GPT2Config(vocab_size=40, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
NEOX = GPTNeoXConfig(**SMALL, num_attention_heads=2)
DEBERTA = DebertaConfig(**SMALL, num_attention_heads=2)
FNET = FNetConfig(**SMALL)
MAMBA = MambaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=2, state_size=2)
CONVNEXT = ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1])
RESNET = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")


def build(config: PretrainedConfig) -> nn.Module:
    return AutoModel.from_config(config)


def error(model: nn.Module, entries: list[str]) -> str:
    with pytest.raises(ValueError) as raised:
        representative_layers(model, entries)
    return str(raised.value)


def shown_setting(message: str) -> list[str]:
    """The entries of the `WormConfig(layers=[...])` in a message."""
    setting = re.search(r"WormConfig\(layers=\[(.*?)\]\)", message)
    assert setting is not None, message
    return re.findall(r'"(.*?)"', setting[1])


@pytest.mark.parametrize(
    ("config", "pattern", "shape"),
    [
        (GPT2, "h.*.attn.c_attn.weight", (8, 24)),
        (NEOX, "layers.*.attention.query_key_value.weight", (24, 8)),
        (DEBERTA, "encoder.layer.*.attention.self.in_proj.weight", (24, 8)),
    ],
    ids=["gpt2", "gpt_neox", "deberta"],
)
def test_fused_projections_are_named(config: PretrainedConfig, pattern: str, shape: tuple[int, int]) -> None:
    model = build(config)
    message = error(model, ["query", "key"])
    assert message.startswith(f"Found no query or key projection in `{type(model).__name__}`")
    assert "query, key and value are fused in one weight" in message
    assert f"\n  `{pattern}`: 2 of shape {shape}" in message
    assert shown_setting(message) == [pattern]
    assert [tuple(layer.shape) for layer in representative_layers(model, [pattern])] == [shape, shape]


def test_fused_projections_of_torch_itself() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
    message = error(model, ["value"])
    assert "Found no value projection" in message and "fused" in message
    assert shown_setting(message) == ["layers.*.self_attn.in_proj_weight"]


def test_a_model_with_both_kinds_of_attention_is_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16, "num_attention_heads": 2}
    model = build(BlipConfig(text_config={**small, "vocab_size": 40}, vision_config={**small, "image_size": 32}))
    separate = representative_layers(model, ["query", "key"])
    message = str(recwarn.pop(UserWarning).message)
    fused = "vision_model.encoder.layers.*.self_attn.qkv.weight"
    assert message.startswith("Not all attentions of `BlipModel` are watched: ") and f"weight: `{fused}`." in message
    assert shown_setting(message) == ["query", "key", fused]

    # With the setting that it shows, with patterns instead of words, or with the others frozen: nothing to say.
    assert len(representative_layers(model, shown_setting(message))) == len(separate) + 2
    assert len(representative_layers(model, ["text_model.*.query.weight"])) == len(separate) / 2
    model.vision_model.requires_grad_(False)
    assert len(representative_layers(model, ["query", "key"])) == len(separate)
    assert not [warning for warning in recwarn if warning.category is UserWarning]


def test_torch_attention_with_separate_weights_is_found() -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    layers = representative_layers(attention, ["query", "key", "value"])
    assert [tuple(layer.shape) for layer in layers] == [(8, 8), (8, 4), (8, 6)]


@pytest.mark.parametrize("config", [FNET, MAMBA, CONVNEXT], ids=lambda config: config.model_type)
def test_no_attention_lists_the_largest_weights(config: PretrainedConfig) -> None:
    model = build(config)
    message = error(model, ["query", "key"])
    assert "no query or key projection" in message
    assert "`q_proj`/`k_proj`" in message  # what was looked for
    assert "fused" not in message  # Mamba's `in_proj` is none
    candidates = re.findall(r"\n  `(.*?)`", message)
    found = {layer.parameter for layer in representative_layers(model, candidates)}
    assert not any(module.weight in found for module in model.modules() if isinstance(module, nn.Embedding))
    assert shown_setting(message) == candidates[:1]
    sizes = [sum(layer.parameter.numel() for layer in representative_layers(model, [entry])) for entry in candidates]
    assert sizes == sorted(sizes, reverse=True)


def test_counts_and_shapes_of_candidates() -> None:
    message = error(build(FNET), ["query"])
    assert "\n  `encoder.layer.*.intermediate.dense.weight`: 2 of shape (16, 8)" in message
    assert "\n  `encoder.layer.*.output.dense.weight`: 2 of shape (8, 16)" in message
    assert "\n  `encoder.stages.*.layers.*.pwconv1.weight`: 4 of 2 shapes" in error(build(CONVNEXT), ["query"])


def test_a_candidate_never_reaches_beyond_its_group() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8))  # `*.weight` would take the LayerNorm too
    assert shown_setting(error(model, ["query"])) == ["2.weight"]


def test_a_model_with_batchnorm_is_told_so() -> None:
    message = error(build(RESNET), ["query", "key"])
    assert shown_setting(message) == ["batchnorm"]


@pytest.mark.parametrize("config", [CONVNEXT, BERT], ids=lambda config: config.model_type)
def test_no_batchnorm(config: PretrainedConfig) -> None:
    model = build(config)
    message = error(model, ["batchnorm"])
    assert message.startswith(f"Found no BatchNorm with affine parameters in `{type(model).__name__}`")
    assert representative_layers(model, shown_setting(message))


def test_batchnorm_without_affine_parameters_is_none() -> None:
    assert "Found no BatchNorm with affine parameters" in error(nn.BatchNorm1d(4, affine=False), ["batchnorm"])


def test_each_word_is_looked_for_separately() -> None:
    model = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "k_proj": nn.Linear(4, 4)})
    message = error(model, ["query", "value"])
    assert message.startswith("Found no value projection in `ModuleDict`. Name the layers to watch")
    assert shown_setting(message) == ["query", "key"]
    assert error(model, ["query", "value", "batchnorm"]).startswith(
        "Found no value projection and no BatchNorm with affine parameters"
    )


@pytest.mark.parametrize(
    ("entry", "close"),
    [
        ("queries", "query"),
        ("batch_norm", "batchnorm"),
        ("encoder.layer.0.attention.self.query", "encoder.layer.*.attention.self.query.weight"),
        ("encoder.layer.*.attention.self.quary.weight", "encoder.layer.*.attention.self.query.weight"),
    ],
)
def test_an_entry_that_matches_nothing(entry: str, close: str) -> None:
    message = error(build(BERT), ["query", entry])
    assert message.startswith(f"`{entry}` in `layers` matches no parameter of `BertModel`.")
    assert f"`{close}`" in message.partition("Close to it: ")[2].partition(". Give")[0]


def test_an_entry_that_is_close_to_nothing() -> None:
    message = error(build(BERT), ["zzzzzzzz"])
    assert "Close to it" not in message
    assert "`query`, `key`, `value`, `batchnorm`, `neurons` and `heads`" in message


@pytest.mark.parametrize("entries", [[], "query"])
def test_layers_is_a_list_with_something_in_it(entries: list[str]) -> None:
    assert error(build(BERT), entries).startswith("`layers` must be a list of at least one")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("entry", ["query", "*.query.weight"])
def test_quantized_weights_are_refused(entry: str, dtype: torch.dtype) -> None:
    model = build(BERT)
    linear = model.encoder.layer[1].attention.self.query
    linear.weight = nn.Parameter(torch.ones(32, 1).to(dtype), requires_grad=False)
    message = error(model, [entry])
    assert message.startswith(f"`encoder.layer.1.attention.self.query.weight` is of type `{dtype}`")
    assert "floating point of 16 bits or more" in message
    assert representative_layers(model, ["key"])


def test_trainable_layers_pass() -> None:
    model = build(BERT)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".query." in name)
    with pytest.raises(ValueError, match="frozen"):
        require_trainable(representative_layers(model, ["query", "key"]))
    trainable = representative_layers(model, ["query"])
    require_trainable(trainable)
    assert trainable, "nothing was put to the test"


def test_frozen_layers_are_named() -> None:
    model = build(BERT)
    model.encoder.layer[1].requires_grad_(False)
    with pytest.raises(ValueError) as raised:
        require_trainable(representative_layers(model, ["query", "key"]))
    message = str(raised.value)
    assert message.startswith("2 of 4 representative layers are frozen")
    assert "`encoder.layer.1.attention.self.query.weight`" in message and "encoder.layer.0" not in message
    assert "requires_grad_(True)" in message and "WormConfig(layers=" in message


def test_where_there_are_no_larger_units_single_weights_are_not_said_to_replace_them() -> None:
    model = build(MAMBA)
    message = error(model, ["neurons", "heads"])
    assert message.startswith("Found no feed-forward block") and "and no attention with separate query, key" in message
    assert "can't be made smaller by them (`compact=True`). To prune single weights instead" in message
    assert representative_layers(model, shown_setting(message))


def test_under_an_adapter_heads_are_not_found_but_merging_is_advised() -> None:
    model = build(BERT)
    for attention in (layer.attention.self for layer in model.encoder.layer):
        attention.query = nn.ModuleDict({"base_layer": attention.query, "lora_A": nn.Linear(4, 2)})
    message = error(model, ["heads"])
    assert message.startswith("Found no attention") and "`model = model.merge_and_unload()`" in message
    assert "Candidates" not in message


def test_many_frozen_layers_are_counted() -> None:
    model = build(BERT).requires_grad_(False)
    with pytest.raises(ValueError, match=r"6 of 6 .* and 3 more"):
        require_trainable(representative_layers(model, ["query", "key", "value"]))


def test_frozen_under_lora_says_that_only_the_adapter_trains() -> None:
    def wrapped() -> nn.Module:
        return nn.ModuleDict({"base_layer": nn.Linear(4, 4).requires_grad_(False), "lora_A": nn.Linear(4, 2)})

    model = nn.ModuleDict({"query": wrapped(), "key": wrapped()})
    layers = representative_layers(model)
    with pytest.raises(ValueError, match=r"`query\.base_layer\.weight`.*adapter.*merge"):
        require_trainable(layers)


def test_attentions_whose_heads_are_not_known_are_named() -> None:
    model = nn.ModuleDict({"encoder": build(BERT), "pooling": nn.MultiheadAttention(8, 2)})
    with pytest.warns(UserWarning, match=r"have query, key and value fused in one weight: `pooling.in_proj_weight`"):
        representative_layers(model, ["heads"])
    model.pooling = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("query", "key", "value", "output")})
    with pytest.warns(UserWarning, match=r"the heads of some are not known.*: `pooling.query.weight`\."):
        representative_layers(model, ["heads"])
    model.pooling.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        representative_layers(model, ["heads"])


def test_experts_that_are_left_out_are_named() -> None:
    config = Qwen2MoeConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        moe_intermediate_size=4,
        shared_expert_intermediate_size=12,
        num_experts=3,
        num_experts_per_tok=1,
    )
    model = Qwen2MoeForCausalLM(config)
    together = [name for name, weight in model.named_parameters() if weight.dim() == 3]
    if not together:
        pytest.skip("this version of transformers keeps each expert's projections apart, where they are found")
    with pytest.warns(UserWarning, match=r"Not all feed-forward blocks of `Qwen2MoeForCausalLM`.*experts") as caught:
        found = representative_layers(model, ["neurons"])
    assert [layer.shape for layer in found] == [(12,)] * 2
    weights = sum(model.get_parameter(name).numel() for name in together)
    assert f"{weights:,} weights" in str(caught[0].message)
    for name in together:
        model.get_parameter(name).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        representative_layers(model, ["neurons"])


def test_blocks_that_are_not_known_are_named(bert: nn.Module) -> None:
    bert.resampler = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("first", "fc2")})
    bert.resampler.attention = nn.ModuleDict({"fc2": nn.Linear(8, 8)})
    with pytest.warns(
        UserWarning, match=r"Not all feed-forward blocks .* leads into the block of `resampler.fc2.weight`"
    ):
        assert len(representative_layers(bert, ["neurons"])) == 2
    bert.resampler.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        representative_layers(bert, ["neurons"])


def test_experts_alone_are_no_blocks_and_are_shown_ahead_of_attentions() -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = AutoModel.from_config(MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2, vocab_size=40))
    message = error(model, ["neurons@*.0.*"])
    assert ": experts that are kept together in one weight don't count. " in message
    candidates = message.partition("Candidates:")[2].splitlines()
    assert "experts" in candidates[1] and "self_attn" in candidates[-1] + candidates[-2]
    assert "self_attn" not in candidates[1] + candidates[2]


def test_a_word_in_places_that_finds_nothing_anywhere_is_not_found() -> None:
    message = error(build(GPT2), ["heads@h.0.*"])
    assert message.startswith("Found no attention with separate query, key, value and output projections")


def is_orthogonal(layer: nn.Module) -> None:
    parametrizations.orthogonal(layer)


def is_pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.25)


@pytest.mark.parametrize("make", [is_orthogonal, is_pruned])
@pytest.mark.parametrize(
    ("entry", "changed"),
    [("query", "query"), ("key", "query"), ("heads", "value"), ("neurons", "intermediate.dense")],
)
def test_weights_computed_from_others_are_told_and_not_watched(
    entry: str, changed: str, make: Callable[[nn.Module], None], bert: nn.Module
) -> None:
    block = bert.get_submodule("bert.encoder.layer.0")
    path = next(name for name, _ in block.named_modules() if name.endswith(changed))
    make(block.get_submodule(path))
    named = re.escape(f"`bert.encoder.layer.0.{path}.weight`")
    with pytest.warns(UserWarning, match=f"{named} is computed from other parameters.*remove_parametrizations"):
        assert len(representative_layers(bert, [entry])) == 1
    with pytest.warns(UserWarning, match=f"{named} is computed from other parameters"):
        assert len(representative_layers(bert, [f"{entry}@*"])) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(representative_layers(bert, [f"{entry}@*.layer.1.*"])) == 1


def test_a_word_that_means_other_weights_says_nothing_of_those_computed_from_others(bert: nn.Module) -> None:
    prune.l1_unstructured(bert.get_submodule("classifier"), "weight", 0.25)
    prune.l1_unstructured(bert.get_submodule("bert.encoder.layer.0.attention.self.value"), "bias", 0.25)
    prune.l1_unstructured(bert.get_submodule("bert.encoder.layer.0.attention.output.dense"), "weight", 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(representative_layers(bert, ["query", "key", "value", "neurons"])) == 8


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_batchnorms_computed_from_others_are_told(name: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.BatchNorm1d(8))
    prune.l1_unstructured(model[0], name, 0.25)
    with pytest.warns(UserWarning, match=f"`0.{name}` is computed from other parameters"):
        found = representative_layers(model, ["batchnorm"])
    assert [layer.name for layer in found] == (["1.weight"] if name == "weight" else ["0.weight", "1.weight"])
    prune.l1_unstructured(model[1], "weight", 0.25)
    if name == "weight":
        assert "Found no BatchNorm with affine parameters" in error(model, ["batchnorm"])


def test_parameters_without_weights_are_refused() -> None:
    model = nn.Linear(4, 4)
    model.empty = nn.Parameter(torch.zeros(0, 4))
    assert error(model, ["*"]).startswith("`empty` is of shape (0, 4): there is nothing in it to prune.")
