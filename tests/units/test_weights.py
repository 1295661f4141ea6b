"""Query, key and value projections of the model zoo, each model tiny and built from its config."""

import copy
import re

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    LongformerConfig,
    MPNetConfig,
    PretrainedConfig,
    Qwen2Config,
    RobertaConfig,
    SqueezeBertConfig,
    T5Config,
    ViTConfig,
    XLMRobertaConfig,
    XLNetConfig,
)
from transformers.pytorch_utils import Conv1D

from hf_worm.scores import Magnitude
from hf_worm.units import representative_layers

HIDDEN, LAYERS, VOCAB = 12, 2, 40
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SQUARE = (HIDDEN, HIDDEN)
GROUPED = (HIDDEN // 3, HIDDEN)  # one key-value head for three query heads

# Config; name of the projection in each role; number of attentions; shape of query, and of key and value.
ZOO = {
    "bert": (BertConfig(**ENCODER), "query key value", LAYERS, SQUARE, SQUARE),
    "roberta": (RobertaConfig(**ENCODER), "query key value", LAYERS, SQUARE, SQUARE),
    "xlm_roberta": (XLMRobertaConfig(**ENCODER), "query key value", LAYERS, SQUARE, SQUARE),
    "electra": (ElectraConfig(**ENCODER, embedding_size=8), "query key value", LAYERS, SQUARE, SQUARE),
    "albert": (AlbertConfig(**ENCODER, embedding_size=8), "query key value", 1, SQUARE, SQUARE),  # one shared layer
    "deberta_v2": (
        DebertaV2Config(**ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        "query_proj key_proj value_proj",
        LAYERS,
        SQUARE,
        SQUARE,
    ),
    "mpnet": (MPNetConfig(**ENCODER), "q k v", LAYERS, SQUARE, SQUARE),
    "longformer": (LongformerConfig(**ENCODER, attention_window=4), r"query\w* key\w* value\w*", 4, SQUARE, SQUARE),
    "distilbert": (
        DistilBertConfig(vocab_size=VOCAB, dim=HIDDEN, n_layers=LAYERS, n_heads=3, hidden_dim=16),
        "q_lin k_lin v_lin",
        LAYERS,
        SQUARE,
        SQUARE,
    ),
    "vit": (
        ViTConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=3,
            intermediate_size=16,
            image_size=8,
            patch_size=4,
        ),
        r"(query|q_proj) (key|k_proj) (value|v_proj)",  # renamed within transformers 5
        LAYERS,
        SQUARE,
        SQUARE,
    ),
    "t5": (  # LAYERS in the encoder; self- and cross-attention in each of the decoder's LAYERS
        T5Config(vocab_size=VOCAB, d_model=HIDDEN, d_kv=5, d_ff=16, num_layers=LAYERS, num_heads=3),
        "q k v",
        3 * LAYERS,
        (15, HIDDEN),
        (15, HIDDEN),
    ),
    "bart": (
        BartConfig(
            vocab_size=VOCAB,
            d_model=HIDDEN,
            encoder_layers=LAYERS,
            decoder_layers=LAYERS,
            encoder_attention_heads=3,
            decoder_attention_heads=3,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_position_embeddings=16,
        ),
        "q_proj k_proj v_proj",
        3 * LAYERS,
        SQUARE,
        SQUARE,
    ),
    "llama": (LlamaConfig(**ENCODER, num_key_value_heads=1), "q_proj k_proj v_proj", LAYERS, SQUARE, GROUPED),
    "qwen2": (Qwen2Config(**ENCODER, num_key_value_heads=1), "q_proj k_proj v_proj", LAYERS, SQUARE, GROUPED),
    "squeezebert": (  # its projections are grouped convolutions over one token
        SqueezeBertConfig(**ENCODER, embedding_size=HIDDEN, q_groups=2, k_groups=2, v_groups=2),
        "query key value",
        LAYERS,
        (HIDDEN, HIDDEN // 2, 1),
        (HIDDEN, HIDDEN // 2, 1),
    ),
}


def build(config: PretrainedConfig) -> nn.Module:
    return AutoModel.from_config(config)


@pytest.mark.parametrize("architecture", ZOO)
def test_projections_of_the_zoo(architecture: str) -> None:
    config, children, count, query_shape, key_value_shape = ZOO[architecture]
    model = build(config)
    parameters = dict(model.named_parameters())
    shapes = {"query": query_shape, "key": key_value_shape, "value": key_value_shape}
    for role, child in zip(shapes, children.split(), strict=True):
        layers = representative_layers(model, [role])
        # By another way: the parameters whose last module has the name that this architecture uses.
        expected = [name for name in parameters if re.fullmatch(rf".*\.{child}\.weight", name)]
        assert [layer.name for layer in layers] == expected
        assert len(layers) == count
        assert {tuple(layer.shape) for layer in layers} == {shapes[role]}
        assert all(layer.parameter is parameters[layer.name] for layer in layers)
        assert all(len(layer.views) == 1 for layer in layers)


def test_the_default_is_query_and_key_in_the_order_of_the_model() -> None:
    model = build(ZOO["bert"][0])
    assert [layer.name for layer in representative_layers(model)] == [
        f"encoder.layer.{block}.attention.self.{child}.weight" for block in range(LAYERS) for child in ("query", "key")
    ]
    assert representative_layers(model, ["key", "query"]) == representative_layers(model)


def test_layers_are_equal_where_they_are_parts_of_the_same_parameters() -> None:
    model = build(ZOO["bert"][0])
    for entries in (["query", "key"], ["neurons", "heads"]):
        layers, again = representative_layers(model, entries), representative_layers(model, entries)
        twins = representative_layers(copy.deepcopy(model), entries)  # of the same names and values
        assert layers == again and len({*layers, *again}) == len(layers)
        assert all(layer != twin for layer, twin in zip(layers, twins, strict=True))
        assert layers[0].views[0] != layers[0].views[0].weight


def test_t5_cross_attention_is_included() -> None:
    names = [layer.name for layer in representative_layers(build(ZOO["t5"][0]), ["query"])]
    assert sum("EncDecAttention" in name for name in names) == LAYERS


def test_a_head_on_top_changes_nothing_but_the_prefix() -> None:
    config = ZOO["bert"][0]
    bare = [layer.name for layer in representative_layers(build(config))]
    topped = representative_layers(AutoModelForSequenceClassification.from_config(config))
    assert [layer.name for layer in topped] == [f"bert.{name}" for name in bare]


def test_xlnet_whose_projections_are_bare_parameters() -> None:
    config = XLNetConfig(vocab_size=VOCAB, d_model=HIDDEN, n_layer=LAYERS, n_head=3, d_inner=16)
    layers = representative_layers(build(config))
    assert [layer.name for layer in layers] == [f"layer.{i}.rel_attn.{child}" for i in range(LAYERS) for child in "qk"]
    assert {tuple(layer.shape) for layer in layers} == {(HIDDEN, 3, HIDDEN // 3)}


def test_conv1d_projections_count() -> None:
    attention = nn.ModuleDict({"q_proj": Conv1D(6, 4), "k_proj": Conv1D(6, 4)})
    assert [(layer.name, tuple(layer.shape)) for layer in representative_layers(attention)] == [
        ("q_proj.weight", (4, 6)),
        ("k_proj.weight", (4, 6)),
    ]


@pytest.mark.parametrize(
    ("children", "why"),
    [
        ({"query": nn.Linear(4, 4), "value": nn.Linear(4, 4)}, "no key beside it"),
        ({"query": nn.Linear(4, 4), "k_proj": nn.Linear(4, 4)}, "the names are of two families"),
        ({"query": nn.LayerNorm(4), "key": nn.LayerNorm(4)}, "no matrix"),
        ({"query_norm": nn.Linear(4, 4), "key_norm": nn.Linear(4, 4)}, "names that only begin like a family's"),
    ],
)
def test_what_is_no_attention(children: dict[str, nn.Module], why: str) -> None:
    model = nn.ModuleDict({"real": nn.ModuleDict({"q": nn.Linear(4, 4), "k": nn.Linear(4, 4)}), "not": nn.ModuleDict()})
    model["not"].update(children)
    assert [layer.name for layer in representative_layers(model)] == ["real.q.weight", "real.k.weight"], why


def test_a_query_tied_to_its_key_counts_once_and_is_found_in_both_roles() -> None:
    attention = nn.ModuleDict({"query": nn.Linear(4, 4), "key": nn.Linear(4, 4)})
    attention["key"].weight = attention["query"].weight
    for entries in (["query"], ["key"], ["query", "key"]):
        assert [layer.name for layer in representative_layers(attention, entries)] == ["query.weight"]


class Lora(nn.Module):
    """The shape of an adapter around a linear layer: the base, frozen, and two small trainable matrices."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base_layer.out_features, bias=False)})


def test_the_base_weight_under_lora_is_the_representative_one() -> None:
    model = build(ZOO["bert"][0])
    for layer in model.encoder.layer:
        layer.attention.self.query = Lora(layer.attention.self.query)  # its key is left as it is
    assert [layer.name for layer in representative_layers(model)] == [
        f"encoder.layer.{block}.attention.self.{child}.weight"
        for block in range(LAYERS)
        for child in ("query.base_layer", "key")
    ]


def test_a_linear_layer_inside_a_thin_wrapper_counts_and_so_does_an_adapter_around_it() -> None:
    class Wrapped(nn.Module):
        def __init__(self, linear: nn.Module) -> None:
            super().__init__()
            self.linear = linear

    attention = nn.ModuleDict({"q_proj": Wrapped(nn.Linear(4, 4)), "k_proj": Wrapped(Lora(nn.Linear(4, 4)))})
    assert [layer.name for layer in representative_layers(attention)] == [
        "q_proj.linear.weight",
        "k_proj.linear.base_layer.weight",
    ]


def test_a_layer_aliases_its_parameter() -> None:
    model = build(ZOO["bert"][0])
    layer = representative_layers(model, ["query"])[0]
    linear = model.encoder.layer[0].attention.self.query
    layer.views[0].weight[0, 1] = 7.0
    assert linear.weight[0, 1].item() == 7.0
    linear.weight.grad = torch.zeros_like(linear.weight)
    layer.views[0].gradient.add_(1.0)
    assert linear.weight.grad.eq(1.0).all()


def test_scores_are_magnitudes() -> None:
    layer = representative_layers(build(ZOO["bert"][0]), ["query"])[0]
    assert (layer.weight < 0).any()
    assert torch.equal(Magnitude().of(layer), layer.weight.abs())
