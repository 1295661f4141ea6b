"""`hf-worm layers`: show which layers of a model would be watched and pruned, without loading its weights."""

import os
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress

import torch
import transformers
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_worm.commands.image.model import NEW_MODELS
from hf_worm.commands.job.model import model_errors_named
from hf_worm.commands.output import print_to_its_end, refuse
from hf_worm.compact import RECORD
from hf_worm.compact.load import outline
from hf_worm.config import WormConfig
from hf_worm.report.layout import Table
from hf_worm.report.text import percent
from hf_worm.units import RepresentativeLayer, representative_layers

PROGRAM = "hf-worm layers"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the representative layers of a model: their names and shapes, and their share of the model.

    Args:
        argv (`Sequence[str]`, *optional*): What follows `hf-worm layers`; by default the arguments of this process.

    Returns:
        `int`: The exit status. 0: done. 2: the model can't be made, or has no such layers; a line on stderr says why.
    """
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        with model_errors_named(options.model):
            model, entries = _model(options)
        layers = representative_layers(model, entries)
    except (ValueError, OSError) as error:
        return refuse(PROGRAM, error)
    print_to_its_end(layers_text(model, layers))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        PROGRAM, description="Show which layers of a model would be watched and pruned. Loads no weights."
    )
    parser.add_argument(
        "model",
        type=os.path.expanduser,
        help=f"a model's folder, or its id on the Hub, or {' or '.join(NEW_MODELS)}, as of `hf-worm image`",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        help="query, key, value, batchnorm, neurons, heads, parameter names or patterns (default: query key; batchnorm "
        f"of {' and '.join(NEW_MODELS)}, and of folders of them)",
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run the model's own code, if it has any")
    return parser


def layers_text(model: nn.Module, layers: Sequence[RepresentativeLayer]) -> str:
    """List layers with their shapes, and say what share of the model they are."""
    rows = [
        [layer.name, " × ".join(map(str, layer.shape)) + (f" {layer.granularity}s" if layer.summed else "")]
        for layer in layers
    ]
    watched = sum(view.weight.numel() for layer in layers for view in layer.views)
    whole = sum(parameter.numel() for parameter in model.parameters())
    lines = [line.rstrip() for line in Table(["layer", "shape"], rows, words=(0, 1)).lines(head=False)]
    summary = f"{len(layers)} layers, {watched:,} weights: {percent(watched / whole)} of the {whole:,} of "
    return "\n".join([*lines, f"{summary}`{type(model).__name__}`."])


def _model(options: Namespace) -> tuple[nn.Module, Sequence[str]]:
    """Make the model without weights, and find out which layers to look for."""
    if options.model in NEW_MODELS:
        config: PreTrainedConfig = NEW_MODELS[options.model].config()
    else:
        config = AutoConfig.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
    of_cnns = tuple(new.config for new in NEW_MODELS.values())
    usual = WormConfig.cnn() if isinstance(config, of_cnns) else WormConfig()
    entries = (usual if options.layers is None else WormConfig(layers=options.layers)).layers
    if hasattr(config, RECORD):
        return outline(config, options.model), entries
    return without_weights(config, entries, options.trust_remote_code), entries


def without_weights(config: PreTrainedConfig, entries: Sequence[str], trust_remote_code: bool = False) -> nn.Module:
    """Make the model of a configuration on the `meta` device: a classifier, as commands train it, or what was saved.

    Args:
        config (`PreTrainedConfig`): The configuration.
        entries (`Sequence[str]`): What is to be found in it, as in `WormConfig.layers`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Run the model's own code, if it has any.

    Returns:
        `nn.Module`: The classifier of the saved model, if it has the same layers, but perhaps for the prefix that a
        base model gets under a head. Another model is shown as it was saved: as a translator, or of text and images.

    Raises:
        ValueError: No Auto class knows the architecture.
    """
    with torch.device("meta"):
        made = _candidates(config, trust_remote_code)
    base: object = MODEL_MAPPING.get(type(config), None)
    prefix = f"{made[0].base_model_prefix}." if type(made[-1]) is base else ""
    first, last = ([name.removeprefix(prefix) for name in _found(model, entries)] for model in (made[0], made[-1]))
    return made[0] if first == last else made[-1]


def _candidates(config: PreTrainedConfig, trust_remote_code: bool) -> list[nn.Module]:
    """Make the classifier of a configuration, and the model that was saved; where there is neither, the base model."""
    made: list[nn.Module] = []
    for auto in (AutoModelForSequenceClassification, AutoModelForImageClassification):
        with suppress(ValueError):  # the architecture has no such head
            made.append(auto.from_config(config, trust_remote_code=trust_remote_code))  # type: ignore[no-untyped-call]
            break
    saved = getattr(transformers, (config.architectures or ["none"])[0], None)
    if isinstance(saved, type) and issubclass(saved, PreTrainedModel):
        made.append(saved(config))
    if not made:
        made.append(AutoModel.from_config(config, trust_remote_code=trust_remote_code))  # type: ignore[no-untyped-call]
    return made


def _found(model: nn.Module, entries: Sequence[str]) -> list[str]:
    """List the names of the layers of a model, if it has any."""
    with warnings.catch_warnings(action="ignore"), suppress(ValueError):
        return [layer.name for layer in representative_layers(model, entries)]
    return []
