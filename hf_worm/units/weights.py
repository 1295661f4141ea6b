"""Attention projections, found by the names that they have side by side."""

from typing import Literal, get_args

from torch import nn

from .names import Named

Role = Literal["query", "key", "value"]
ROLES: tuple[Role, ...] = get_args(Role)

# The names of query, key and value in one attention, and who uses them.
FAMILIES = (
    ("q_proj", "k_proj", "v_proj"),  # BART, Llama, CLIP, and most others
    ("query", "key", "value"),  # BERT and its kin
    ("q", "k", "v"),  # T5, MPNet, XLNet
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT, XLM, Flaubert
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2, ProphetNet
    ("linear_q", "linear_k", "linear_v"),  # conformers
    ("to_q", "to_k", "to_v"),  # diffusion transformers
    ("wq", "wk", "wv"),  # Llama's original code
    ("Wq", "Wk", "Wv"),  # CTRL
    ("q_head", "k_head", "v_head"),  # Funnel
    ("project_q", "project_k", "project_v"),  # CPM-Ant
    ("projection_query", "projection_key", "projection_value"),  # CvT
    ("to_query", "to_key", "to_value"),  # SwiftFormer
    ("q_linear", "k_linear", "v_linear"),  # DAB-DETR
    ("query_global", "key_global", "value_global"),  # Longformer's global attention, beside its local one
    ("layout_query", "layout_key", "layout_value"),  # LiLT's layout stream, beside its text
    ("q_proj_weight", "k_proj_weight", "v_proj_weight"),  # `nn.MultiheadAttention` with `kdim` or `vdim`
)

# Names of one weight that holds query, key and value.
FUSED = (
    "c_attn",  # GPT-2
    "query_key_value",  # GPT-NeoX, BLOOM, Falcon
    "qkv",  # BEiT-like vision models
    "qkv_proj",  # Phi-3, CodeGen
    "Wqkv",  # ModernBERT, MPT
    "qkv_linear",  # LayoutLMv2
    "queries_keys_values",  # LeViT
    "in_proj",  # DeBERTa; state-space models use it for something else, outside any attention
    "in_proj_qkv",  # gated linear attention
    "in_proj_qkvz",
    "in_proj_weight",  # `nn.MultiheadAttention`
)

# A child of the projection that holds its weight: an adapter's base (LoRA), or the linear layer inside a thin wrapper.
INNER = ("base_layer", "linear")


def projections(named: Named, role: Role) -> list[nn.Parameter]:
    """Weights of the attention projections in one role, cross-attention included.

    A projection is a weight of two dimensions or more with a family's name for the role, in a module that has both a
    query and a key of that family.

    Args:
        named (`list[tuple[str, nn.Parameter]]`): All parameters of the model.
        role (`str`): `"query"`, `"key"` or `"value"`.
    """
    places = [(_place(name), parameter) for name, parameter in named if parameter.dim() >= 2]
    taken = {place for place, _ in places}
    return [
        parameter
        for (parent, child), parameter in places
        for family in FAMILIES
        if child == family[ROLES.index(role)] and (parent, family[0]) in taken and (parent, family[1]) in taken
    ]


def fused_projections(named: Named) -> Named:
    """The weights that hold query, key and value in one."""
    fused = []
    for name, parameter in named:
        parent, child = _place(name)
        if parameter.dim() >= 2 and child in FUSED and (child != "in_proj" or in_attention(parent)):
            fused.append((name, parameter))
    return fused


def in_attention(path: str) -> bool:
    """Whether the path goes through a module that is called an attention."""
    return "attn" in path.lower() or "attention" in path.lower()


def _place(name: str) -> tuple[str, str]:
    """The path of the module that a projection would belong to, and the projection's own name there."""
    name = name.removesuffix(".weight")
    parent, _, child = name.rpartition(".")
    while parent and child in INNER:
        parent, _, child = parent.rpartition(".")
    return parent, child
