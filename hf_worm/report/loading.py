"""The origin of a model, its name, and the call that loads its checkpoint."""

import os
import sys
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel

from hf_worm.compact import RECORD


def origin(model: nn.Module) -> str:
    """Find the folder or the id on the Hub that the model was loaded from; empty where it was not."""
    name: str = getattr(getattr(model, "config", None), "_name_or_path", "")
    return name


def model_name(model: nn.Module) -> str:
    """Name a model by what it was loaded from, or by its class where it was made from a configuration."""
    name = origin(model)
    if os.path.isdir(name):
        name = Path(os.path.abspath(name)).name  # a card is for others to read: the path is of no use to them
    return name or type(model).__name__


def recorded(model: nn.Module) -> bool:
    """Tell whether the shapes of a compact model are more than its configuration can say."""
    return getattr(getattr(model, "config", None), RECORD, None) is not None


def loading(model: nn.Module) -> dict[str, Any]:
    """Find what loads a checkpoint of this model, by the model's class.

    Args:
        model (`nn.Module`): The model that was saved.

    Returns:
        `dict`: `module` and `class`, to be imported; `call`, which takes the checkpoint's name: the class, or its
        `from_pretrained`, or `None` where the checkpoint is the weights of a plain `nn.Module`; `options`, what it
        takes beside the name; `architecture`, for `load_compact`: module and name of a class that Transformers lacks.
        Where the checkpoint carries the model's code, or needs its base model (PEFT), the class is an Auto class.
    """
    kind = type(model)
    if recorded(model):
        found = {"module": "hf_worm", "class": "load_compact", "call": "load_compact", "options": {}}
        known = hasattr(transformers, kind.__name__)
        return found if known else {**found, "architecture": [kind.__module__, kind.__name__]}
    module, name, options = _importable(model)
    call = None
    if hasattr(kind, "from_pretrained"):
        call = f"{name}.from_pretrained"
    elif hasattr(kind, "save_pretrained"):
        call = name
    return {"module": module, "class": name, "call": call, "options": options}


def _importable(model: nn.Module) -> tuple[str, str, dict[str, Any]]:
    """Find the class to import: its module, its name, and what `from_pretrained` then takes beside the checkpoint."""
    kind = type(model)
    module, name = kind.__module__, kind.__name__
    package = module.partition(".")[0]
    exports = sys.modules.get(package)
    if isinstance(model, PreTrainedModel) and model._auto_class is not None:
        return "transformers", model._auto_class, {"trust_remote_code": True}
    if hasattr(exports, f"Auto{name}"):
        classes = getattr(getattr(model, "config", None), "num_labels", 2)
        # Without `num_labels` the base model would get a head for two classes.
        return package, f"Auto{name}", {} if classes == 2 else {"num_labels": classes}
    return package if getattr(exports, name, None) is kind else module, name, {}
