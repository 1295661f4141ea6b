"""A compact model computes what the drawn one does, and its checkpoint comes back as it was."""

import copy
import itertools
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from training import arguments
from transformers import (
    AutoformerConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BartConfig,
    BartModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    BitNetConfig,
    BitNetForCausalLM,
    BloomConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    FSMTConfig,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LEDConfig,
    LiltConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlavaConfig,
    LlavaForConditionalGeneration,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    NemotronConfig,
    Olmo2Config,
    PegasusXConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    SpeechT5Config,
    StableLmConfig,
    Starcoder2Config,
    T5Config,
    T5EncoderModel,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTForImageClassification,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    XLMConfig,
    XLMModel,
    XLNetConfig,
    YolosConfig,
)
from zoo import HEADS, HIDDEN, NEURONS, NEW_VIT, SIZE, ZOO, zoo_model

from hf_worm import Ticket, TicketSearch, WormConfig, WormTrainer, load_compact

GRANULARITIES = (["neurons"], ["heads"], ["neurons", "heads"])
RATIOS = (0.1, 0.5, 0.9)
OWN_HEAD_SIZE = ("llama", "qwen2", *(["vit"] if NEW_VIT else []))  # families whose configuration can say fewer heads


def drawn(model: nn.Module, **settings: Any) -> tuple[Ticket, nn.Module]:
    """A ticket by the weights as they are, and a copy of the model with it drawn."""
    copied = copy.deepcopy(model)
    search = TicketSearch(copied, WormConfig(**settings))
    search.observe()
    return search.draw(), copied


def inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 8, 8)}
    if model.main_input_name == "input_values":
        return {"input_values": torch.randn(2, 100)}
    return {"input_ids": torch.randint(3, 40, (2, 7))}


def outputs(model: nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**given)[0]


def modest(name: str) -> nn.Module:
    """With weights of the size that trained ones have: outputs are near 1."""
    model = zoo_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.2)
    return model


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("layers", GRANULARITIES, ids="+".join)
@pytest.mark.parametrize("name", ZOO)
def test_compact_equals_drawn_and_comes_back(name: str, layers: list[str], ratio: float, tmp_path: Path) -> None:
    model = modest(name)
    ticket, zeroed = drawn(model, layers=layers, prune_ratio=ratio)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    compact = ticket.compact(model)
    given = inputs(model)
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items()), "it is a copy"
    zeros = sum(int((parameter == 0).sum()) for parameter in zeroed.parameters())
    assert size(compact) == size(model) - zeros
    assert not any((parameter == 0).any() for parameter in compact.parameters())

    compact.save_pretrained(tmp_path)
    loaded = load_compact(tmp_path)
    assert type(loaded) is type(model)
    assert {**loaded.config.to_dict(), "_name_or_path": ""} == {**compact.config.to_dict(), "_name_or_path": ""}
    assert torch.equal(outputs(loaded, given), outputs(compact, given))
    expressible = layers == ["neurons"] or name in OWN_HEAD_SIZE
    if expressible and not hasattr(compact.config, "worm_compact"):
        plain = type(model).from_pretrained(tmp_path)
        assert torch.equal(outputs(plain, given), outputs(compact, given))
    else:
        assert not (name == "vit" and NEW_VIT) and layers != ["neurons"], "its configuration says any number"
        with pytest.raises(RuntimeError, match="mismatched"):
            type(model).from_pretrained(tmp_path)


def test_a_configuration_that_says_the_shapes_says_them_in_its_own_fields() -> None:
    ticket, _ = drawn(zoo_model("bert"), layers=["neurons"], prune_ratio=0.25)
    assert ticket.compact(zoo_model("bert")).config.intermediate_size == 0.75 * NEURONS
    ticket, _ = drawn(zoo_model("llama"), layers=["heads"], prune_ratio=0.5)
    config = ticket.compact(zoo_model("llama")).config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (3, 1, SIZE)
    assert not hasattr(config, "worm_compact")


SMALL = {"vocab_size": 40, "hidden_size": HIDDEN, "intermediate_size": NEURONS, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "pad_token_id": 0}
SIDES = {
    f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("num_hidden_layers", "num_attention_heads")
}


def fused(name: str) -> nn.Module:
    """A model some of whose blocks have the gate and what it gates in one projection."""
    torch.manual_seed(1)
    if name == "phi3":
        return Phi3ForCausalLM(Phi3Config(**SMALL))
    if name == "glm4":
        return Glm4ForCausalLM(Glm4Config(**SMALL, num_key_value_heads=2, head_dim=6))
    if name == "modernbert":
        return ModernBertForSequenceClassification(ModernBertConfig(**SMALL, mlp_bias=True))
    if name == "dinov2":
        sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2}
        return Dinov2Model(Dinov2Config(**sizes, use_swiglu_ffn=True, image_size=8, patch_size=4))
    sizes = {"vocab_size": 40, "hidden_size": HIDDEN, "intermediate_size": NEURONS}
    return MoonshineForConditionalGeneration(MoonshineConfig(**sizes, **SIDES))


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ["phi3", "glm4", "modernbert", "dinov2", "moonshine"])
def test_neurons_of_fused_gates(name: str, ratio: float, tmp_path: Path) -> None:
    model = fused(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ticket, zeroed = drawn(model, layers=["neurons"], prune_ratio=ratio)
    assert not [one for one in caught if "Not all" in str(one.message)]
    assert len(ticket.masks) == (4 if name == "moonshine" else 2)
    assert all(int((~mask).sum()) == round(ratio * len(mask)) for mask in ticket.masks.values())
    compact = ticket.compact(model)
    assert size(compact) == size(model) - sum(int((parameter == 0).sum()) for parameter in zeroed.parameters())
    given = inputs(model)
    if name == "moonshine":
        given = {"input_values": torch.randn(2, 2000), "decoder_input_ids": torch.randint(3, 40, (2, 4))}
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    compact.save_pretrained(tmp_path)
    said = type(model).from_pretrained if name != "dinov2" else load_compact  # which has a ratio of its width
    assert torch.equal(outputs(said(tmp_path), given), outputs(compact, given))


@pytest.mark.parametrize("ratio", RATIOS)
def test_fields_of_different_widths_are_said_each(ratio: float, tmp_path: Path) -> None:
    sizes = {"d_model": HIDDEN, "encoder_layers": 1, "decoder_layers": 2, "vocab_size": 40}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    torch.manual_seed(1)
    model = BartModel(BartConfig(**sizes, **heads, encoder_ffn_dim=NEURONS, decoder_ffn_dim=2 * NEURONS))
    ticket, zeroed = drawn(model, layers=["neurons"], prune_ratio=ratio)
    compact = ticket.compact(model)
    config = compact.config
    left = [size - round(ratio * size) for size in (NEURONS, 2 * NEURONS)]
    assert [config.encoder_ffn_dim, config.decoder_ffn_dim] == left and not hasattr(config, "worm_compact")
    compact.save_pretrained(tmp_path)
    given = inputs(model)
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs(BartModel.from_pretrained(tmp_path), given), outputs(compact, given))


def test_a_number_of_heads_that_the_configuration_refuses_is_recorded() -> None:
    """Of six heads with a key and a value each, five are left: 24 is no multiple of 5, which Llama asks for."""
    if not hasattr(LlamaConfig, "validate_architecture"):
        pytest.skip("this version of Transformers takes any number of heads")
    model = AutoModel.from_config(LlamaConfig(**{**ZOO["llama"][0].to_diff_dict(), "num_key_value_heads": HEADS}))
    ticket, _ = drawn(model, layers=["heads"], prune_ratio=0.17)
    config = ticket.compact(model).config
    assert config.num_attention_heads == HEADS
    assert [len(kept) for kept in config.worm_compact["heads"].values()] == [5, 5]


@pytest.mark.parametrize("layers", GRANULARITIES, ids="+".join)
@pytest.mark.parametrize("name", ["bert", "mpnet", "llama"])
def test_layers_with_different_numbers_of_units(name: str, layers: list[str], tmp_path: Path) -> None:
    model = modest(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(()) + 0.5)
    ticket, zeroed = drawn(model, layers=layers, prune_ratio=0.25, scope="global")
    assert len({int(mask.sum()) for mask in ticket.masks.values()}) > 1, "they are all alike"
    compact = ticket.compact(model)
    given = inputs(model)
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    compact.save_pretrained(tmp_path)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(compact, given))
    with pytest.raises(RuntimeError, match="mismatched"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["bert", "mpnet", "vit"])
def test_a_compact_model_can_be_made_smaller_still(name: str, tmp_path: Path) -> None:
    model = modest(name)
    given = inputs(model)
    for layers, ratio in ((["heads"], 0.34), (["neurons"], 0.3), (["heads", "neurons"], 0.5)):
        ticket, zeroed = drawn(model, layers=layers, prune_ratio=ratio)
        expected = outputs(zeroed, given)
        model = ticket.compact(model)
        torch.testing.assert_close(outputs(model, given), expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(model, given))


def test_units_of_some_layers_are_cut_out_of_these(tmp_path: Path) -> None:
    model = modest("bert")
    ticket, zeroed = drawn(model, layers=["neurons@*.layer.1.*", "heads@*.layer.0.*"])
    compact, given = ticket.compact(model), inputs(model)
    assert [block.intermediate.dense.out_features for block in compact.encoder.layer] == [NEURONS, NEURONS // 2]
    assert [block.attention.self.num_attention_heads for block in compact.encoder.layer] == [HEADS // 2, HEADS]
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    compact.save_pretrained(tmp_path)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(compact, given))
    assert {kind: len(layers) for kind, layers in compact.config.worm_compact.items()} == {"neurons": 1, "heads": 1}


def test_a_compact_model_trains(bert: BertForSequenceClassification) -> None:
    ticket, _ = drawn(bert, layers=["neurons", "heads"])
    compact = ticket.compact(bert).train()
    compact(input_ids=torch.randint(0, 64, (4, 6)), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in compact.parameters())


def test_a_fresh_process_without_hf_worm_loads_what_the_configuration_says(tmp_path: Path) -> None:
    model = modest("bert")
    ticket, zeroed = drawn(model, layers=["neurons"])
    ticket.compact(model).save_pretrained(tmp_path)
    torch.save(given := inputs(model), tmp_path / "given.pt")
    program = (
        "import sys, torch; sys.modules['hf_worm'] = None\n"
        "from transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(tmp_path)!r}).eval()\n"
        f"print(model(**torch.load({str(tmp_path / 'given.pt')!r}))[0].double().flatten().tolist())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    expected = outputs(zeroed, given).flatten().double()
    torch.testing.assert_close(torch.tensor(json.loads(found)).double(), expected, rtol=1e-4, atol=1e-5)


SIZES = {"vocab_size": 40, "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": HEADS}
SIZES |= {"intermediate_size": NEURONS, "max_position_embeddings": 32}


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=40, hidden_size=HIDDEN, n_layer=1, n_head=HEADS),  # says no number of neurons
        GPT2Config(vocab_size=40, n_embd=HIDDEN, n_layer=1, n_head=HEADS),  # says four times the width
        GPT2Config(vocab_size=40, n_embd=HIDDEN, n_layer=1, n_head=HEADS, n_inner=HIDDEN),  # rows as many as columns
        GPTNeoConfig(**{**SIZES, "num_layers": 1, "num_heads": HEADS, "attention_types": [[["global"], 1]]}),
        GPTNeoXConfig(**SIZES),
        NemotronConfig(**SIZES, num_key_value_heads=2),
        Starcoder2Config(**SIZES, num_key_value_heads=2),
        XLNetConfig(vocab_size=40, d_model=HIDDEN, n_layer=1, n_head=HEADS, d_inner=NEURONS),
    ],
    ids=lambda config: config.model_type,
)
def test_neurons_of_other_families(config: PreTrainedConfig, tmp_path: Path) -> None:
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    ticket, zeroed = drawn(model, layers=["neurons"])
    assert len(ticket.masks) == 1
    compact = ticket.compact(model)
    given = inputs(model)
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    compact.save_pretrained(tmp_path)
    load = load_compact if config.model_type == "bloom" else type(model).from_pretrained
    assert torch.equal(outputs(load(tmp_path), given), outputs(compact, given))


def test_neurons_of_torchs_own_transformer() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 6, 20, batch_first=True), 2)
    ticket, zeroed = drawn(model, layers=["neurons"])
    compact, given = ticket.compact(model), torch.randn(2, 5, 24)
    assert [layer.linear1.out_features for layer in compact.layers] == [10, 10]
    torch.testing.assert_close(compact.eval()(given), zeroed.eval()(given))


def test_scattered_zeros_cannot_be_cut_out(bert: BertForSequenceClassification) -> None:
    ticket, _ = drawn(bert)
    with pytest.raises(ValueError, match=r"Units of `bert\.encoder.* are single weights: .* Search for units"):
        ticket.compact(bert)


def test_heads_that_share_a_position_bias_cannot_be_cut_out(tmp_path: Path) -> None:
    model = AutoModel.from_config(T5Config(d_model=24, num_heads=6, d_kv=4, num_layers=1, d_ff=20, vocab_size=40))
    ticket, _ = drawn(model, layers=["heads"])
    with pytest.raises(ValueError, match="`T5Attention` has a position bias for each head"):
        ticket.compact(model)
    config = WormConfig(layers=["heads"], compact=True)
    with pytest.raises(ValueError, match="`T5Attention` has a position bias for each head"):  # and not after the search
        WormTrainer(model=model, args=arguments(tmp_path), worm_config=config)
    ticket, _ = drawn(model, layers=["neurons"])
    assert ticket.compact(model).config.d_ff == 10


def test_heads_of_some_layers_that_share_a_position_bias_cannot_be_cut_out() -> None:
    """The bias goes on from layer to layer, and the first, which has it, keeps all its heads."""
    model = AutoModel.from_config(T5Config(d_model=24, num_heads=6, d_kv=4, num_layers=2, d_ff=20, vocab_size=40))
    ticket, _ = drawn(model, layers=["heads@encoder.block.1.*"])
    with pytest.raises(ValueError, match="`T5Attention` has a position bias for each head"):
        ticket.compact(model)


def gemma3n() -> PreTrainedModel:
    sizes = {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "num_kv_shared_layers": 0}
    own = {"vocab_size_per_layer_input": 40, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3nTextConfig(**sizes, **own, layer_types=kinds, activation_sparsity_pattern=[0.95, 0.0])
    return Gemma3nForCausalLM(config)


def bitnet() -> PreTrainedModel:
    return BitNetForCausalLM(BitNetConfig(**SMALL, num_key_value_heads=2))


def bigbird() -> PreTrainedModel:
    return BigBirdForSequenceClassification(BigBirdConfig(**{**SMALL, "vocab_size": 70}, max_position_embeddings=64))


@pytest.mark.parametrize(
    ("make", "word", "message"),
    [
        (gemma3n, "neurons", "`Gemma3nTextMLP` keeps the largest activations by statistics of all neurons"),
        (bitnet, "neurons", r"`BitNetMLP` has another weight for each neuron, `ffn_sub_norm.weight` of shape \(20,\)"),
        (bigbird, "heads", "`BigBirdBlockSparseAttention` is replaced at run time.*attention_type='original_full'"),
    ],
    ids=["gemma3n", "bitnet", "bigbird"],
)
def test_what_depends_on_their_number_elsewhere_cannot_be_cut_out(
    make: Callable[[], PreTrainedModel], word: str, message: str
) -> None:
    model = make()
    ticket, _ = drawn(model, layers=[word])
    with pytest.raises(ValueError, match=message):
        ticket.compact(model)


SEQ2SEQ = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 1), ("ffn_dim", 20))}
SEQ2SEQ |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}


@pytest.mark.parametrize(
    "config",
    [
        AutoformerConfig(prediction_length=4, d_model=HIDDEN, **SEQ2SEQ),
        FSMTConfig(langs=["en", "de"], src_vocab_size=40, tgt_vocab_size=40, d_model=HIDDEN, **SEQ2SEQ),
        LEDConfig(vocab_size=40, d_model=HIDDEN, **SEQ2SEQ, attention_window=4),
        MoonshineConfig(vocab_size=40, hidden_size=HIDDEN, intermediate_size=NEURONS, **SIDES),
        PegasusXConfig(vocab_size=40, d_model=HIDDEN, **SEQ2SEQ),
        SpeechT5Config(vocab_size=40, hidden_size=HIDDEN, **SEQ2SEQ),
    ],
    ids=lambda config: config.model_type,
)
def test_attentions_that_depend_on_the_number_of_their_heads_cannot_be_cut(config: PreTrainedConfig) -> None:
    model = AutoModel.from_config(config)
    ticket, _ = drawn(model, layers=["heads"])
    with pytest.raises(
        ValueError, match=r"`.*Attention` depends on the number of its heads in more than their projections"
    ):
        ticket.compact(model)


def test_heads_of_a_bigbird_that_has_seen_a_short_text_cannot_be_cut_out() -> None:
    """It has put ordinary attentions in the place of its own, and its configuration says nothing of that."""
    model = bigbird()
    model(torch.tensor([[1, 2, 3]]))
    assert type(model.bert.encoder.layer[0].attention.self).__name__ == "BigBirdSelfAttention"
    ticket, _ = drawn(model, layers=["heads"])
    with pytest.raises(ValueError, match="`BigBirdSelfAttention` is replaced at run time"):
        ticket.compact(model)


def tie(first: nn.Module, second: nn.Module, names: Sequence[str], kinds: Sequence[str] = ("weight",)) -> None:
    for name, kind in itertools.product(names, kinds):
        setattr(second.get_submodule(name), kind, getattr(first.get_submodule(name), kind))


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("neurons", ["output.dense"]),
        ("heads", ["attention.self.key", "attention.self.value"]),
        ("heads", [*(f"attention.self.{role}" for role in ("query", "key", "value")), "attention.output.dense"]),
    ],
    ids=["output", "key and value", "weights without biases"],
)
def test_units_that_share_some_of_their_weights_cannot_be_cut_out(
    word: str, names: list[str], bert: BertForSequenceClassification
) -> None:
    tie(*bert.bert.encoder.layer, names)
    ticket, _ = drawn(bert, layers=[word])
    with pytest.raises(
        ValueError, match=f"The {word} of `.*` share some of their weights with other layers, but not all"
    ):
        ticket.compact(bert)


def test_units_that_share_all_of_their_weights_are_cut_out(bert: BertForSequenceClassification) -> None:
    tie(*bert.bert.encoder.layer, ["intermediate.dense"], ["weight", "bias"])
    tie(*bert.bert.encoder.layer, ["output.dense"])
    ticket, zeroed = drawn(bert, layers=["neurons"])
    assert len(ticket.masks) == 1
    given = inputs(bert)
    torch.testing.assert_close(outputs(ticket.compact(bert), given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)


def test_heads_with_one_weight_for_query_and_key_are_cut_out(bert: BertForSequenceClassification) -> None:
    for block in bert.bert.encoder.layer:
        block.attention.self.key.weight = block.attention.self.query.weight
    ticket, zeroed = drawn(bert, layers=["heads"])
    given = inputs(bert)
    torch.testing.assert_close(outputs(ticket.compact(bert), given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)


def test_heads_of_a_bigbird_that_attends_to_all_are_cut_out(tmp_path: Path) -> None:
    sizes = {**SMALL, "vocab_size": 70, "max_position_embeddings": 64}
    model = BigBirdForSequenceClassification(BigBirdConfig(**sizes, attention_type="original_full"))
    ticket, zeroed = drawn(model, layers=["heads"])
    compact = ticket.compact(model)
    compact.save_pretrained(tmp_path)
    given = inputs(model)
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(compact, given))


def test_a_number_of_heads_that_a_class_asserts_against_is_recorded(tmp_path: Path) -> None:
    model = XLMModel(XLMConfig(vocab_size=40, emb_dim=HIDDEN, n_layers=2, n_heads=HEADS, max_position_embeddings=32))
    ticket, zeroed = drawn(model, layers=["heads"], prune_ratio=0.17)
    compact = ticket.compact(model)
    compact.save_pretrained(tmp_path)
    given = inputs(model)
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(compact, given))


OLMO2 = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 6, "num_hidden_layers": 1}
OLMO2 |= {"intermediate_size": 20, "vocab_size": 40}


def test_heads_with_a_norm_over_all_of_them_cannot_be_cut_out(tmp_path: Path) -> None:
    model = AutoModel.from_config(Olmo2Config(**OLMO2))
    ticket, _ = drawn(model, layers=["heads"])
    with pytest.raises(ValueError, match=r"`Olmo2Attention` has another weight, `q_norm.weight` of shape \(24,\)"):
        ticket.compact(model)
    with pytest.raises(ValueError, match="`Olmo2Attention` has another weight"):
        WormTrainer(model=model, args=arguments(tmp_path), worm_config=WormConfig(layers=["heads"], compact=True))


def test_heads_with_a_norm_of_their_own_each_cannot_be_cut_out() -> None:
    """Fresh ones are equal, so that the first of them would do for others until they are trained."""
    config = StableLmConfig(**OLMO2, qk_layernorm=True, pad_token_id=0)  # transformers 5.0 has no default
    ticket, _ = drawn(AutoModel.from_config(config), layers=["heads"])
    with pytest.raises(ValueError, match=r"`StableLmAttention` has another weight, `q_layernorm.norms.0.weight`"):
        ticket.compact(AutoModel.from_config(config))


@pytest.mark.parametrize("layers", [["neurons"], ["heads"]], ids="+".join)
def test_a_configuration_whose_field_says_more_than_the_neurons(layers: list[str], tmp_path: Path) -> None:
    """`intermediate_size` of LiLT is the width of another stream of layers too."""
    sizes = {"intermediate_size": NEURONS, "channel_shrink_ratio": 2, "max_position_embeddings": 32}
    small = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    model = AutoModel.from_config(LiltConfig(**small, **sizes))
    ticket, zeroed = drawn(model, layers=layers)
    if layers == ["heads"]:
        with pytest.raises(ValueError, match="`LiltSelfAttention` has another weight"):
            ticket.compact(model)
        return
    compact = ticket.compact(model)
    assert compact.config.intermediate_size == NEURONS
    compact.save_pretrained(tmp_path)
    given = {"input_ids": torch.randint(3, 40, (2, 7)), "bbox": torch.zeros(2, 7, 4, dtype=torch.long)}
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(compact, given))


@pytest.mark.parametrize(
    "kind", [BertForSequenceClassification, ViTForImageClassification, LlamaForSequenceClassification]
)
def test_a_loaded_model_has_its_loss(kind: type, tmp_path: Path) -> None:
    config = copy.deepcopy(ZOO[kind.base_model_prefix.replace("model", "llama")][0])
    config.pad_token_id = 0
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(()) + 0.5)
    ticket, _ = drawn(model, layers=["heads", "neurons"], scope="global")
    compact = ticket.compact(model)
    assert hasattr(compact.config, "worm_compact")
    compact.save_pretrained(tmp_path)
    given = {**inputs(model), "labels": torch.tensor([0, 1])}
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(compact, given))


def test_weights_that_transformers_converts_are_converted(tmp_path: Path) -> None:
    """YOLOS among others is saved under other names than its modules have."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": HEADS, "intermediate_size": NEURONS}
    config = YolosConfig(**sizes, image_size=[8, 8], patch_size=4, num_detection_tokens=2)
    model = AutoModel.from_config(config)
    ticket, _ = drawn(model, layers=["heads"], prune_ratio=0.5)
    compact = ticket.compact(model)
    compact.save_pretrained(tmp_path)
    given = {"pixel_values": torch.randn(2, 3, 8, 8)}
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(compact, given))


class Mine(BertForSequenceClassification):
    """A class that Transformers does not have."""


def test_a_class_of_ones_own_is_named(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    model = Mine(bert.config)
    ticket, _ = drawn(model, layers=["heads"])
    compact = ticket.compact(model)
    compact.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"class `Mine`, which Transformers does not have: name the class"):
        load_compact(tmp_path)
    loaded = load_compact(tmp_path, architecture=Mine)
    assert type(loaded) is Mine
    given = inputs(model)
    assert torch.equal(outputs(loaded, given), outputs(compact, given))
    with pytest.raises(ValueError, match=r"must be a model's own class, .* got `'BertModel'`"):
        load_compact(tmp_path, architecture="BertModel")
    with pytest.raises(ValueError, match=r"must be a model's own class, .* got `AutoModel`"):
        load_compact(tmp_path, architecture=AutoModel)


class TakesMore(BertForSequenceClassification):
    def __init__(self, config: Any, more: int) -> None:
        super().__init__(config)


@pytest.mark.parametrize("layers", GRANULARITIES, ids="+".join)
def test_a_class_that_takes_more_than_a_configuration(bert: BertForSequenceClassification, layers: list[str]) -> None:
    model = TakesMore(bert.config, 1)
    ticket, zeroed = drawn(model, layers=layers)
    given = inputs(model)
    torch.testing.assert_close(outputs(ticket.compact(model), given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)


def test_a_compiled_model_is_taken_out_of_its_wrapper(bert: BertForSequenceClassification) -> None:
    ticket, zeroed = drawn(bert, layers=["neurons"])
    compact = ticket.compact(torch.compile(bert, backend="eager"))
    assert type(compact) is BertForSequenceClassification
    given = inputs(bert)
    torch.testing.assert_close(outputs(compact, given), outputs(zeroed, given), rtol=1e-5, atol=1e-5)


def test_a_parallel_model_is_taken_out_of_its_wrapper(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    """`DistributedDataParallel` knows the parameters of the larger model."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(bert)
        ticket, _ = drawn(bert, layers=["neurons"])
        for wrapped in (parallel, torch.compile(parallel, backend="eager")):
            compact = ticket.compact(wrapped)
            assert type(compact) is BertForSequenceClassification
            assert compact.config.intermediate_size == bert.config.intermediate_size // 2
    finally:
        distributed.destroy_process_group()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/nowhere is neither a folder nor the id of a Hub reposit"):
        load_compact(tmp_path / "nowhere")


def test_options_are_those_of_from_pretrained(bert: BertForSequenceClassification, tmp_path: Path) -> None:
    ticket, _ = drawn(bert, layers=["heads"])
    ticket.compact(bert).save_pretrained(tmp_path)
    model, info = load_compact(tmp_path, hidden_dropout_prob=0.3, dtype=torch.bfloat16, output_loading_info=True)
    assert type(model) is BertForSequenceClassification and not info["missing_keys"]
    assert model.config.hidden_dropout_prob == 0.3 and model.dtype == torch.bfloat16
    assert load_compact(tmp_path, dtype="auto").dtype == torch.float32
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "config.json").rename(tmp_path / "elsewhere" / "config.json")
    assert load_compact(tmp_path, config=str(tmp_path / "elsewhere")).config.worm_compact == model.config.worm_compact


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("layers", GRANULARITIES, ids="+".join)
def test_a_classifier_and_its_base_model_load_from_each_other(layers: list[str], scope: str, tmp_path: Path) -> None:
    """As plain `from_pretrained` has it of unpruned models; and the base may be saved out of the classifier."""
    model = AutoModelForSequenceClassification.from_config(ZOO["bert"][0])
    ticket, _ = drawn(model, layers=layers, scope=scope)
    compact = ticket.compact(model)
    given = inputs(model)
    expected = outputs(compact.bert, given)
    compact.save_pretrained(tmp_path / "classifier")
    compact.bert.save_pretrained(tmp_path / "base")
    assert torch.equal(outputs(load_compact(tmp_path / "base"), given), expected)
    assert torch.equal(outputs(load_compact(tmp_path / "classifier", architecture=BertModel), given), expected)
    again = load_compact(tmp_path / "base", architecture=BertForSequenceClassification)
    assert torch.equal(outputs(again.bert, given), expected)


def test_an_encoder_loads_from_the_whole_model(tmp_path: Path) -> None:
    model = AutoModel.from_config(T5Config(vocab_size=40, d_model=24, d_kv=4, d_ff=20, num_layers=2, num_heads=6))
    ticket, _ = drawn(model, layers=["neurons"], scope="global")
    compact = ticket.compact(model)
    compact.save_pretrained(tmp_path)
    given = {"input_ids": torch.randint(3, 40, (2, 7))}
    loaded = load_compact(tmp_path, architecture=T5EncoderModel)
    assert torch.equal(outputs(loaded, given), outputs(compact.encoder, given))


class Around(nn.Module):
    """A module of one's own around a model of Transformers."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(24, 2)

    def forward(self, **given: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(**given)[0])


def composite(name: str) -> PreTrainedModel:
    """A model of two others, each of which has a configuration within that of the whole."""
    text = {**ZOO["bert"][0].to_diff_dict(), "num_hidden_layers": 1}
    vision = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 12}
    vision |= {"image_size": 8, "patch_size": 4}
    if name == "text and vision":
        configs = (CLIPVisionConfig(**vision), BertConfig(**text))
        return VisionTextDualEncoderModel(VisionTextDualEncoderConfig.from_vision_text_configs(*configs))
    if name == "llava":
        language = LlamaConfig(**{**ZOO["llama"][0].to_diff_dict(), "num_hidden_layers": 1})
        return LlavaForConditionalGeneration(
            LlavaConfig(vision_config=CLIPVisionConfig(**vision), text_config=language, image_token_index=39)
        )
    decoder = BertConfig(**{**text, "is_decoder": True, "add_cross_attention": True})
    configs = (BertConfig(**{**text, "intermediate_size": 12, "num_hidden_layers": 2}), decoder)
    return EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*configs))


def parts(model: nn.Module) -> dict[str, PreTrainedModel]:
    """By name, those that have a configuration of their own."""
    found = {}
    for name, part in model.named_modules():
        if isinstance(part, PreTrainedModel) and part.config is not model.config:
            found[name] = part
    return found


def weights(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("layers", GRANULARITIES, ids="+".join)
@pytest.mark.parametrize("name", ["text and vision", "llava", "encoder-decoder"])
def test_a_composite_model_comes_back_and_so_do_its_parts(
    name: str, layers: list[str], scope: str, tmp_path: Path
) -> None:
    model = composite(name)
    for ratio in (0.25, 0.5):  # smaller, and smaller still
        model = drawn(model, layers=layers, prune_ratio=ratio, scope=scope)[0].compact(model)
    assert len(parts(model)) >= 2
    for place, saved in {"whole": model, **parts(model)}.items():
        saved.save_pretrained(tmp_path / place)
        loaded = load_compact(tmp_path / place, type(saved))
        assert all(map(torch.equal, weights(loaded), weights(saved)))
        if layers == ["neurons"] and scope == "layer":
            plain = type(saved).from_pretrained(tmp_path / place)
            assert all(map(torch.equal, weights(plain), weights(saved)))
            assert not hasattr(plain.config, "worm_compact")


def test_what_a_part_says_the_whole_does_not_record() -> None:
    """Llama's configuration says any number of heads, CLIP's that of a vision model doesn't."""
    model = composite("llava")
    config = drawn(model, layers=["heads"], prune_ratio=0.5)[0].compact(model).config
    assert config.text_config.num_attention_heads == HEADS // 2
    assert not hasattr(config.text_config, "worm_compact")
    assert {name.partition(".")[0] for name in config.worm_compact["heads"]} == {"vision_tower"}
    assert len(config.vision_config.worm_compact["heads"]) == 2


LANGUAGE = {**SMALL, "model_type": "llama", "num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2}


def test_a_field_of_a_part_that_other_weights_go_by_stays(tmp_path: Path) -> None:
    """Voxtral's projector is as wide as the neurons of its audio part are many."""
    audio = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    audio |= {"num_mel_bins": 16, "max_source_positions": 8, "vocab_size": 40}
    model = VoxtralForConditionalGeneration(VoxtralConfig(audio_config=audio, text_config=LANGUAGE, audio_token_id=39))
    compact = drawn(model, layers=["neurons"])[0].compact(model)
    assert compact.config.audio_config.intermediate_size == 96
    assert {name.split(".")[-5] for name in compact.config.worm_compact["neurons"]} == {"audio_tower", "layers"}
    compact.save_pretrained(tmp_path)
    assert all(map(torch.equal, weights(load_compact(tmp_path)), weights(compact)))


def test_two_parts_of_one_configuration_are_recorded_in_the_whole(tmp_path: Path) -> None:
    vision = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    tokens = {"image_token_index": 38, "video_token_index": 39}
    config = VideoLlavaConfig(
        vision_config={**vision, "image_size": 8, "patch_size": 4}, text_config=LANGUAGE, **tokens
    )
    torch.manual_seed(1)
    model = VideoLlavaForConditionalGeneration(config)
    for ratio in (0.25, 0.5):
        model = drawn(model, layers=["heads"], prune_ratio=ratio, scope="global")[0].compact(model)
    model.save_pretrained(tmp_path)
    assert all(map(torch.equal, weights(load_compact(tmp_path)), weights(model)))
    assert not hasattr(model.config.vision_config, "worm_compact")


@pytest.mark.parametrize("wrapper", [Around, nn.DataParallel])
@pytest.mark.parametrize("layers", GRANULARITIES, ids="+".join)
def test_a_model_inside_another_module_says_its_shapes(layers: list[str], wrapper: type, tmp_path: Path) -> None:
    model = wrapper(zoo_model("bert"))
    ticket, _ = drawn(model, layers=layers)
    inner = next(ticket.compact(model).children())
    inner.save_pretrained(tmp_path)
    given = inputs(inner)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(inner, given))


def test_a_ticket_of_another_model_is_refused() -> None:
    ticket, _ = drawn(zoo_model("bert"), layers=["neurons"])
    with pytest.raises(ValueError, match="are not those of the ticket"):
        ticket.compact(ticket.compact(zoo_model("bert")))
    with pytest.raises(ValueError, match="are not those of the ticket"):
        ticket.rest(zoo_model("llama"))


def test_a_ticket_of_a_model_that_is_cut_already_is_refused_with_the_cause(bert: BertForSequenceClassification) -> None:
    ticket, _ = drawn(bert, layers=["neurons"])
    with pytest.raises(ValueError, match="as many units as the ticket keeps: what was pruned seems to be cut out"):
        ticket.apply_(ticket.compact(bert))


def test_a_class_that_no_auto_class_knows_has_to_be_named(tmp_path: Path) -> None:
    save = zoo_model("bert").save_pretrained
    save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "someones_own"}))
    with pytest.raises(ValueError, match=r"(?s)someones_own.*has to be named: `load_compact\(..., architecture=...\)`"):
        load_compact(tmp_path)


@pytest.mark.parametrize("word", ["neurons", "heads"])
def test_a_layer_of_which_nothing_is_left_is_refused(word: str, bert: BertForSequenceClassification) -> None:
    ticket, _ = drawn(bert, layers=[word])
    first = next(iter(ticket.masks))
    ticket.masks[first][:] = False
    with pytest.raises(ValueError, match=f"The ticket keeps no unit of `{re.escape(first)}`"):
        ticket.compact(bert)


def test_an_ordinary_checkpoint_loads_too(tmp_path: Path) -> None:
    model = modest("bert")
    model.save_pretrained(tmp_path)
    given = inputs(model)
    assert torch.equal(outputs(load_compact(tmp_path), given), outputs(model, given))


@pytest.mark.parametrize(
    "damage",
    [
        {"worm_compact": []},
        {"worm_compact": {"heads": {"encoder.layer.0.attention.self.query.weight": []}}},
        {"worm_compact": {"heads": {"encoder.layer.0.attention.self.query.weight": ["a"]}}},
        {"worm_compact": {"heads": {"encoder.layer.0.attention.self.query.weight": [0, 99]}}},
        {"worm_compact": {"heads": {"encoder.layer.0.attention.self.query.weight": [0, 0]}}},
        {"worm_compact": {"heads": {"encoder.layer.0.attention.self.query.weight": [3, 1]}}},
        {"worm_compact": {"heads": {"nothing": [0]}}},
        {"worm_compact": {"neurons": {"encoder.layer.0.intermediate.dense.weight": 99}}},
        {"worm_compact": {}},
        {"worm_compact": {"neurons": {"encoder.layer.0.intermediate.dense.weight": 0}}},
        {"worm_compact": {"wings": {}}},
        {"architectures": ["BertForWorms"]},
        {"architectures": None},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_with_the_folder_named(damage: dict[str, Any], tmp_path: Path) -> None:
    ticket, _ = drawn(zoo_model("bert"), layers=["heads"])
    ticket.compact(zoo_model("bert")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **damage}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_compact(tmp_path)
