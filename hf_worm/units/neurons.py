"""FFN neurons, found by the names that the projections of a feed-forward block have side by side."""

from typing import Any

from torch import nn

from .layer import Slices, View
from .names import Named
from .weights import in_attention

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
    (("c_fc",), "c_proj"),  # GPT-2, GPT-Neo, Starcoder2
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
TURNED = "Conv1D"  # GPT-2's projection, whose weight is the transpose of that of an `nn.Linear`
# Projections that may hold a gate's rows ahead of those that it gates, or after them: a neuron has one of each.
GATED = ("gate_up_proj", "Wi", "weights_in", "fc1")


def neurons(model: nn.Module, named: Named) -> list[tuple[View, ...]]:
    """Views of the hidden neurons of every feed-forward block: rows and biases leading in, columns leading out.

    Args:
        model (`nn.Module`): The model.
        named (`list[tuple[str, nn.Parameter]]`): All its parameters.
    """
    parameters = dict(named)
    turned = {module.weight for module in model.modules() if type(module).__name__ == TURNED}
    found: dict[nn.Parameter, tuple[View, ...]] = {}  # by the projection that leads out
    for name in parameters:
        for inputs, output in FAMILIES:
            block = name.removesuffix(f"{inputs[0]}.weight")
            if block != name and (not block or block.endswith(".")):
                views = _of_block(parameters, block, inputs, output, turned)
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
    parameters: dict[str, nn.Parameter], block: str, inputs: tuple[str, ...], output: str, turned: set[Any]
) -> tuple[View, ...]:
    """Views of a block's neurons; none where it is no such block.

    Args:
        parameters (`dict[str, nn.Parameter]`): All of the model, by name.
        block (`str`): What the names of the block's parameters begin with.
        inputs, output: One of [`FAMILIES`].
        turned (`set[nn.Parameter]`): Weights whose columns lead out of a projection, and whose rows lead in.
    """
    found = [parameters.get(f"{block}{name}.weight") for name in (*inputs, output)]
    leading_out = found[-1]
    weights = [weight for weight in found if weight is not None and weight.dim() == 2]
    if leading_out is None or len(weights) != len(inputs) + 1:
        return ()
    rows, columns = (1, 0) if leading_out in turned else (0, 1)
    units = leading_out.shape[columns]
    parts = 2 if inputs[0] in GATED and len(weights[0]) == 2 * units else 1
    biases = [parameters[f"{block}{name}.bias"] for name in inputs if f"{block}{name}.bias" in parameters]
    leading_in = [(weight, rows) for weight in weights[:-1]] + [(bias, 0) for bias in biases]
    if any(parameter.shape[axis] != parts * units for parameter, axis in leading_in):
        return ()
    views = [View(parameter, Slices(axis, units, parts)) for parameter, axis in leading_in]
    return (*views, View(leading_out, Slices(columns, units)))
