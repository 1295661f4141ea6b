"""Names by which the parts of an architecture are known: the one table that a new architecture is added to.

The tables are looked up when a model is searched. `docs/families.md` shows how to add an entry.
"""

from dataclasses import dataclass

# Attributes of an attention that hold the width of one head.
HEAD_SIZES = ("attention_head_size", "head_dim", "key_value_proj_dim")
# Attributes of an attention that are proportional to the number of its heads: counts, and the width of all together.
HEAD_COUNTS = (
    "num_attention_heads",
    "num_heads",
    "n_heads",
    "num_key_value_heads",
    "all_head_size",
    "inner_dim",
    "embed_dim",
)
# Paths of the output projection from the attention; the last is that of BERT and its kin, which have it beside.
OUTPUTS = ("o_proj", "out_proj", "o", "out_lin", "dense", "../output.dense")


@dataclass(frozen=True)
class Attention:
    """Names of the parts of an attention in one family of models.

    Args:
        query, key, value (`str`): Names of the projections, which are children of one module: the attention.
        outputs (`tuple[str, ...]`, *optional*, defaults to `OUTPUTS`):
            Paths that the output projection may have, seen from the attention; `../` leads to the module around it.
            The first that is an `nn.Linear` counts.
        head_sizes (`tuple[str, ...]`, *optional*, defaults to `HEAD_SIZES`):
            Attributes of the attention that may hold the width of one head. The first that it has counts.
        head_counts (`tuple[str, ...]`, *optional*, defaults to `HEAD_COUNTS`):
            Attributes of the attention that are proportional to the number of its heads.
    """

    query: str
    key: str
    value: str
    outputs: tuple[str, ...] = OUTPUTS
    head_sizes: tuple[str, ...] = HEAD_SIZES
    head_counts: tuple[str, ...] = HEAD_COUNTS

    @property
    def projections(self) -> tuple[str, str, str]:
        """Query, key and value."""
        return self.query, self.key, self.value


@dataclass(frozen=True)
class FeedForward:
    """Names of the projections of a feed-forward block in one family of models.

    Args:
        inputs (`tuple[str, ...]`): Paths of the projections into the hidden neurons, the gate's among them.
        output (`str`): Path of the projection out of them, from the same module.
        may_hold_gate (`bool`, *optional*, defaults to `False`):
            Whether the first of `inputs` may have twice as many rows as there are neurons: those of a gate, and those
            of what it gates, one half after the other.
    """

    inputs: tuple[str, ...]
    output: str
    may_hold_gate: bool = False

    @property
    def projections(self) -> tuple[str, ...]:
        """The paths of all projections, the output's last."""
        return *self.inputs, self.output


@dataclass(frozen=True)
class FusedProjection:
    """Name of one weight that holds query, key and value.

    Args:
        name (`str`): The name.
        only_in_attention (`bool`, *optional*, defaults to `False`):
            Whether other modules use the name for something else, so that it counts below an attention alone.
    """

    name: str
    only_in_attention: bool = False


ATTENTIONS: tuple[Attention, ...] = (
    Attention("q_proj", "k_proj", "v_proj"),  # BART, Llama, CLIP, and most others
    Attention("query", "key", "value"),  # BERT and its kin
    Attention("q", "k", "v"),  # T5, MPNet, XLNet
    Attention("q_lin", "k_lin", "v_lin"),  # DistilBERT, XLM, Flaubert
    Attention("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2, ProphetNet
    Attention("linear_q", "linear_k", "linear_v"),  # conformers
    Attention("to_q", "to_k", "to_v"),  # diffusion transformers
    Attention("wq", "wk", "wv"),  # Llama's original code
    Attention("Wq", "Wk", "Wv"),  # CTRL
    Attention("q_head", "k_head", "v_head"),  # Funnel
    Attention("project_q", "project_k", "project_v"),  # CPM-Ant
    Attention("projection_query", "projection_key", "projection_value"),  # CvT
    Attention("to_query", "to_key", "to_value"),  # SwiftFormer
    Attention("q_linear", "k_linear", "v_linear"),  # DAB-DETR
    Attention("query_global", "key_global", "value_global"),  # Longformer's global attention, beside its local one
    Attention("layout_query", "layout_key", "layout_value"),  # LiLT's layout stream, beside its text
    Attention("q_proj_weight", "k_proj_weight", "v_proj_weight"),  # `nn.MultiheadAttention` with `kdim` or `vdim`
)

FEED_FORWARDS: tuple[FeedForward, ...] = (
    FeedForward(("intermediate.dense",), "output.dense"),  # BERT and its kin
    FeedForward(("gate_proj", "up_proj"), "down_proj"),  # Llama, Qwen2, and most decoders
    FeedForward(("fc1",), "fc2", may_hold_gate=True),  # ViT, BART, CLIP; Moonshine's decoder has a gate
    FeedForward(("intermediate_dense",), "output_dense"),  # Wav2Vec2 and its kin
    FeedForward(("fc_in",), "fc_out"),  # GPT-J
    FeedForward(("lin1",), "lin2"),  # DistilBERT
    FeedForward(("wi_0", "wi_1"), "wo"),  # T5 1.1
    FeedForward(("wi",), "wo"),  # T5
    FeedForward(("ffn",), "ffn_output"),  # ALBERT
    FeedForward(("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX, BLOOM, Falcon
    FeedForward(("c_fc",), "c_proj"),  # GPT-2, GPT-Neo, Starcoder2
    FeedForward(("up_proj",), "down_proj"),  # Nemotron
    FeedForward(("w1", "w3"), "w2"),  # Llama's original code
    FeedForward(("linear1",), "linear2"),  # `nn.TransformerEncoderLayer`
    FeedForward(("layer_1",), "layer_2"),  # XLNet
    FeedForward(("linear_fc1",), "linear_fc2"),  # Qwen3's vision
    FeedForward(("intermediate_query.dense",), "output_query.dense"),  # BLIP-2's queries
    FeedForward(("gate_up_proj",), "down_proj", may_hold_gate=True),  # Phi-3, GLM-4
    FeedForward(("Wi",), "Wo", may_hold_gate=True),  # ModernBERT
    FeedForward(("weights_in",), "weights_out", may_hold_gate=True),  # DINOv2's SwiGLU
)

FUSED_PROJECTIONS: tuple[FusedProjection, ...] = (
    FusedProjection("c_attn"),  # GPT-2
    FusedProjection("query_key_value"),  # GPT-NeoX, BLOOM, Falcon
    FusedProjection("qkv"),  # BEiT-like vision models
    FusedProjection("qkv_proj"),  # Phi-3, CodeGen
    FusedProjection("Wqkv"),  # ModernBERT, MPT
    FusedProjection("qkv_linear"),  # LayoutLMv2
    FusedProjection("queries_keys_values"),  # LeViT
    FusedProjection("in_proj", only_in_attention=True),  # DeBERTa; another thing in state-space models
    FusedProjection("in_proj_qkv"),  # gated linear attention
    FusedProjection("in_proj_qkvz"),
    FusedProjection("in_proj_weight"),  # `nn.MultiheadAttention`
)

# Names of a projection's child that holds its weight.
ADAPTER_BASE = "base_layer"  # the weight below an adapter (LoRA)
WRAPPED = "linear"  # the linear layer inside a thin wrapper
INNER = (ADAPTER_BASE, WRAPPED)

# Class of GPT-2's projection, whose weight is the transpose of that of an `nn.Linear`.
TRANSPOSED = "Conv1D"
# A parameter of differential attentions (DiffLlama), which give half of the values to all heads.
DIFFERENTIAL = "lambda_q1"

# Fields of a model's configuration that may hold the number of neurons of a feed-forward block.
NEURON_FIELDS = (
    "intermediate_size",
    "hidden_dim",
    "d_ff",
    "d_inner",
    "n_inner",
    "ffn_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "ffn_hidden_size",
    "shared_expert_intermediate_size",
)

# Attentions whose heads can be pruned, but not cut out, by the end of the class's full name: they count heads by the
# width of their input or of the configuration, or average over them.
DEPENDING_ON_HEADS = (
    "AutoformerAttention",
    "modeling_fsmt.Attention",
    "GroupViTAttention",
    "LEDDecoderAttention",
    "MoonshineAttention",
    "PegasusXAttention",
    "SpeechT5Attention",  # which is given a position bias for each head
    "TrOCRAttention",
)
# BigBird and its kin replace these where inputs are short, by ones with as many heads as the configuration says.
REPLACED_AT_RUN_TIME = "BlockSparseAttention"
REPLACEMENTS = ("BigBirdSelfAttention", "BigBirdPegasusSelfAttention")
