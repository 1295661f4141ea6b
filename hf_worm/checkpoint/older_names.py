"""Loads a checkpoint whose files name weights otherwise than the model does."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from hf_worm.compact.load import load_compact
from hf_worm.core.random_states import random_states_kept


def load_renamed(model: nn.Module, folder: str) -> bool:
    """Load the weights of a checkpoint, where its files have names for some of them that the model does not know.

    `save_pretrained` gives weights the names back under which `from_pretrained` found them, such as the
    `LayerNorm.gamma` of older BERT checkpoints, or of any BERT before transformers 5.6. The Trainer (5.23 at least)
    looks for the model's names alone, and leaves the weights as they are for which it finds none.

    Args:
        model (`nn.Module`): The model, which keeps its data types.
        folder (`str`): The checkpoint's folder.

    Returns:
        `bool`: Whether there were such names. Otherwise nothing is loaded.
    """
    if not isinstance(model, PreTrainedModel):
        return False
    own, known, renamed = model.state_dict().keys(), {}, False
    for file in Path(folder).glob("model*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            names = set(weights.keys())
            renamed |= not names <= own
            known.update({name: weights.get_tensor(name) for name in names & own})
    if not renamed:
        return False
    with random_states_kept():
        wide = torch.promote_types(model.dtype, torch.float32)
        saved = load_compact(folder, architecture=type(model), dtype=wide)
    # Parts that a script has exchanged or added are not in the model that the configuration describes.
    others = {name: weight for name, weight in saved.state_dict().items() if name in own and name not in known}
    model.load_state_dict({**others, **known})
    return True
