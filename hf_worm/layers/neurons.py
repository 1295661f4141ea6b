"""FFN neurons, found by the names that the projections of a feed-forward block have side by side."""

from torch import nn

from .attention import in_attention
from .layer import Slices, View
from .names import Named

# The projections into the hidden neurons, gated ones with their gate, and the one out of them.
FAMILIES = (
    (("intermediate.dense",), "output.dense"),  # BERT and its kin
    (("gate_proj", "up_proj"), "down_proj"),  # Llama, Qwen2, and most decoders
    (("fc1",), "fc2"),  # ViT, BART, CLIP
    (("intermediate_dense",), "output_dense"),  # Wav2Vec2 and its kin
    (("fc_in",), "fc_out"),  # GPT-J
    (("lin1",), "lin2"),  # DistilBERT
    (("wi_0", "wi_1"), "wo"),  # T5 1.1
    (("wi",), "wo"),  # T5
    (("ffn",), "ffn_output"),  # ALBERT
    (("dense_h_to_4h",), "dense_4h_to_h"),  # GPT-NeoX, BLOOM, Falcon
    (("c_fc",), "c_proj"),  # GPT-Neo, Starcoder2; GPT-2's are no `nn.Linear`
    (("up_proj",), "down_proj"),  # Nemotron
    (("w1", "w3"), "w2"),  # Llama's original code
    (("linear1",), "linear2"),  # `nn.TransformerEncoderLayer`
    (("layer_1",), "layer_2"),  # XLNet
    (("linear_fc1",), "linear_fc2"),  # Qwen3's vision
    (("intermediate_query.dense",), "output_query.dense"),  # BLIP-2's queries
    (("gate_up_proj",), "down_proj"),  # Phi-3, GLM-4
    (("Wi",), "Wo"),  # ModernBERT
    (("weights_in",), "weights_out"),  # DINOv2's SwiGLU
)
# Projections that may hold a gate's rows ahead of those that it gates, or after them: a neuron has one of each.
GATED = ("gate_up_proj", "Wi", "weights_in", "fc1")


def neurons(named: Named) -> list[tuple[View, ...]]:
    """Views of the hidden neurons of every feed-forward block: rows and biases leading in, columns leading out.

    Args:
        named (`list[tuple[str, nn.Parameter]]`): All parameters of the model.
    """
    parameters = dict(named)
    found: dict[nn.Parameter, tuple[View, ...]] = {}  # by the projection that leads out
    for name in parameters:
        for inputs, output in FAMILIES:
            block = name.removesuffix(f"{inputs[0]}.weight")
            if block != name and (not block or block.endswith(".")):
                views = _of_block(parameters, block, inputs, output)
                leading_out = parameters.get(f"{block}{output}.weight")
                if leading_out is not None and len(views) > len(found.get(leading_out, ())):  # a gate belongs to it
                    found[leading_out] = views
    return list(found.values())


def leading_out(named: Named) -> Named:
    """The weights that go by the name of a projection out of a feed-forward block, outside attentions.

    Args:
        named (`list[tuple[str, nn.Parameter]]`): All parameters of the model.
    """
    ends = tuple(f".{output}{inner}.weight" for _, output in FAMILIES for inner in ("", ".linear"))
    return [
        (name, weight)
        for name, weight in named
        if weight.dim() == 2 and f".{name}".endswith(ends) and not in_attention(name)
    ]


def experts(named: Named) -> Named:
    """The weights of experts that are kept together in one parameter, whose neurons are no rows of a matrix.

    Args:
        named (`list[tuple[str, nn.Parameter]]`): All parameters of the model.
    """
    return [(name, weight) for name, weight in named if weight.dim() == 3 and "experts" in name.split(".")]


def _of_block(
    parameters: dict[str, nn.Parameter], block: str, inputs: tuple[str, ...], output: str
) -> tuple[View, ...]:
    """Views of a block's neurons; none where it is no such block."""
    leading_in = [parameters.get(f"{block}{name}.weight") for name in inputs]
    leading_out = parameters.get(f"{block}{output}.weight")
    weights = [weight for weight in (*leading_in, leading_out) if weight is not None and weight.dim() == 2]
    if leading_out is None or len(weights) != len(inputs) + 1:
        return ()
    units = leading_out.shape[1]
    parts = 2 if inputs[0] in GATED and len(weights[0]) == 2 * units else 1
    biases = [parameters[f"{block}{name}.bias"] for name in inputs if f"{block}{name}.bias" in parameters]
    # The biases of GPT-2's `Conv1D` are as many as the columns of its weight.
    if any(len(parameter) != parts * units for parameter in (*weights[:-1], *biases)):
        return ()
    rows = [View(parameter, Slices(0, units, parts)) for parameter in (*weights[:-1], *biases)]
    return (*rows, View(leading_out, Slices(1, units)))
