"""FFN neurons, found by the names that the projections of a feed-forward block have side by side."""

from torch import nn

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
)


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
    if any(weight.shape[0] != units for weight in weights[:-1]):
        return ()
    biases = [parameters[f"{block}{name}.bias"] for name in inputs if f"{block}{name}.bias" in parameters]
    if any(len(bias) != units for bias in biases):  # a `Conv1D` of GPT-2, whose rows are columns
        return ()
    rows = [View(parameter, Slices(0, units)) for parameter in (*weights[:-1], *biases)]
    return (*rows, View(leading_out, Slices(1, units)))
