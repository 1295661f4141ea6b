"""Tiny models of every family whose neurons and heads are known, and what the parts of their blocks are called."""

import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPTJConfig,
    LlamaConfig,
    MPNetConfig,
    PreTrainedConfig,
    Qwen2Config,
    RobertaConfig,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
)

HIDDEN, NEURONS, HEADS, SIZE = 24, 20, 6, 4  # SIZE: of a head
USUAL = {"vocab_size": 40, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS}
VIT = ViTConfig(
    hidden_size=HIDDEN,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    intermediate_size=NEURONS,
    image_size=8,
    patch_size=4,
)
USUAL |= {"intermediate_size": NEURONS, "max_position_embeddings": 32}

NEW_VIT = any(name.endswith("attention.q_proj") for name, _ in ViTModel(VIT).named_modules())
VIT_NAMES = (
    ("mlp.fc1 mlp.fc2", "attention.q_proj attention.k_proj attention.v_proj attention.o_proj")
    if NEW_VIT
    else (  # until transformers 5.0 is dropped
        "intermediate.dense output.dense",
        "attention.attention.query attention.attention.key attention.attention.value attention.output.dense",
    )
)

# Config; names of the projections in and out of the neurons; of query, key, value and output; key-value heads.
ZOO: dict[str, tuple[PreTrainedConfig, str, str, str, int]] = {
    name: (config, neurons, heads.rpartition(" ")[0], heads.rpartition(" ")[2], groups)
    for name, (config, neurons, heads, groups) in {
        "bert": (
            BertConfig(**USUAL),
            "intermediate.dense output.dense",
            "attention.self.query attention.self.key attention.self.value attention.output.dense",
            HEADS,
        ),
        "roberta": (
            RobertaConfig(**USUAL),
            "intermediate.dense output.dense",
            "attention.self.query attention.self.key attention.self.value attention.output.dense",
            HEADS,
        ),
        "electra": (
            ElectraConfig(**USUAL, embedding_size=8),
            "intermediate.dense output.dense",
            "attention.self.query attention.self.key attention.self.value attention.output.dense",
            HEADS,
        ),
        "deberta_v2": (
            DebertaV2Config(**USUAL),
            "intermediate.dense output.dense",
            "attention.self.query_proj attention.self.key_proj attention.self.value_proj attention.output.dense",
            HEADS,
        ),
        "mpnet": (
            MPNetConfig(**USUAL),
            "intermediate.dense output.dense",
            "attention.attn.q attention.attn.k attention.attn.v attention.attn.o",
            HEADS,
        ),
        "albert": (
            AlbertConfig(**USUAL, embedding_size=8),
            "ffn ffn_output",
            "attention.query attention.key attention.value attention.dense",
            HEADS,
        ),
        "distilbert": (
            DistilBertConfig(vocab_size=40, dim=HIDDEN, n_layers=2, n_heads=HEADS, hidden_dim=NEURONS),
            "ffn.lin1 ffn.lin2",
            "attention.q_lin attention.k_lin attention.v_lin attention.out_lin",
            HEADS,
        ),
        "vit": (
            VIT,
            *VIT_NAMES,
            HEADS,
        ),
        "wav2vec2": (
            Wav2Vec2Config(
                **USUAL,
                conv_dim=(8,),
                conv_stride=(5,),
                conv_kernel=(10,),
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
            ),
            "feed_forward.intermediate_dense feed_forward.output_dense",
            "attention.q_proj attention.k_proj attention.v_proj attention.out_proj",
            HEADS,
        ),
        "gptj": (
            GPTJConfig(
                vocab_size=40, n_positions=32, n_embd=HIDDEN, n_layer=2, n_head=HEADS, rotary_dim=SIZE, n_inner=NEURONS
            ),
            "mlp.fc_in mlp.fc_out",
            "attn.q_proj attn.k_proj attn.v_proj attn.out_proj",
            HEADS,
        ),
        "llama": (
            LlamaConfig(**USUAL, num_key_value_heads=2),
            "mlp.gate_proj mlp.up_proj mlp.down_proj",
            "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj",
            2,
        ),
        "qwen2": (
            Qwen2Config(**USUAL, num_key_value_heads=3),
            "mlp.gate_proj mlp.up_proj mlp.down_proj",
            "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj",
            3,
        ),
    }.items()
}


def zoo_model(name: str) -> nn.Module:
    model = AutoModel.from_config(ZOO[name][0]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # biases begin at 0
    return model
