"""The `hf-worm` command: one door to its subcommands."""

import os
import sys
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper

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

from hf_worm import __version__
from hf_worm.commands.glue import command as glue
from hf_worm.commands.glue import demo
from hf_worm.commands.image import command as image
from hf_worm.commands.image.model import NEW_MODELS
from hf_worm.commands.job.model import model_errors_named
from hf_worm.commands.job.parsing import error_line
from hf_worm.commands.show import command as show
from hf_worm.compact import RECORD
from hf_worm.compact.load import outline
from hf_worm.config import WormConfig
from hf_worm.units import RepresentativeLayer, representative_layers

DESCRIPTION = """\
Prune while you fine-tune: early-bird tickets and WORM gradient truncation.

  hf-worm glue     fine-tune, prune and retrain a model on a task of GLUE, or on your own sentences
  hf-worm image    train, prune and retrain an image classifier
  hf-worm layers   show which layers of a model would be watched and pruned
  hf-worm show     show what runs have left: result, observations, layers; --figures for plots
  hf-worm demo     the whole method on a small pretrained BERT, offline, in a few minutes

Each of them takes --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): What follows `hf-worm`; by default the arguments of this process.

    Returns:
        `int`: The exit status: 0 for done, 2 for wrong arguments, 130 for interrupted.
    """
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "glue": glue.main,
        "image": image.main,
        "layers": show_layers,
        "show": show.main,
        "demo": demo.main,
    }
    parser = ArgumentParser("hf-worm", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=list(commands), metavar=f"{{{','.join(commands)}}}")
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # of any encoding: a δ that it lacks ends no run
            stream.reconfigure(errors="replace")
    return commands[parser.parse_args(argv[:1]).command](argv[1:])


def show_layers(argv: Sequence[str]) -> int:
    """Print the representative layers of a model: their names and shapes, and their share of the model."""
    parser = ArgumentParser(
        "hf-worm layers", description="Show which layers of a model would be watched and pruned. Loads no weights."
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
    options = parser.parse_args(argv)
    try:
        with model_errors_named(options.model):
            if options.model in NEW_MODELS:
                config: PreTrainedConfig = NEW_MODELS[options.model].config()
            else:
                config = AutoConfig.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
            of_cnns = tuple(new.config for new in NEW_MODELS.values())
            usual = WormConfig.cnn() if isinstance(config, of_cnns) else WormConfig()
            entries = (usual if options.layers is None else WormConfig(layers=options.layers)).layers
            if hasattr(config, RECORD):
                model: nn.Module = outline(config, options.model)
            else:
                model = without_weights(config, entries, options.trust_remote_code)
        layers = representative_layers(model, entries)
    except (ValueError, OSError) as error:
        print(error_line("hf-worm layers", error), file=sys.stderr)
        return 2
    watched = sum(view.weight.numel() for layer in layers for view in layer.views)
    whole = sum(parameter.numel() for parameter in model.parameters())
    width = max(len(layer.name) for layer in layers)
    lines = []
    for layer in layers:
        kind = f" {layer.granularity}s" if layer.summed else ""
        lines.append(f"{layer.name:<{width}}  {' × '.join(map(str, layer.shape))}{kind}")
    lines.append(
        f"{len(layers)} layers, {watched:,} weights: {watched / whole:.1%} of the {whole:,} of "
        f"`{type(model).__name__}`."
    )
    show.print_to_its_end("\n".join(lines))
    return 0


def without_weights(config: PreTrainedConfig, entries: Sequence[str], trust_remote_code: bool = False) -> nn.Module:
    """The model of a configuration on the `meta` device: a classifier, as the commands train it, or what was saved.

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
    saved = getattr(transformers, (config.architectures or ["none"])[0], None)
    made: list[nn.Module] = []
    with torch.device("meta"):
        for auto in (AutoModelForSequenceClassification, AutoModelForImageClassification):
            with suppress(ValueError):  # the architecture has no such head
                made.append(auto.from_config(config, trust_remote_code=trust_remote_code))  # type: ignore[no-untyped-call]
                break
        if isinstance(saved, type) and issubclass(saved, PreTrainedModel):
            made.append(saved(config))
        if not made:
            made.append(AutoModel.from_config(config, trust_remote_code=trust_remote_code))  # type: ignore[no-untyped-call]
    base: object = MODEL_MAPPING.get(type(config), None)
    prefix = f"{made[0].base_model_prefix}." if type(made[-1]) is base else ""
    found = [[layer.name.removeprefix(prefix) for layer in _found(model, entries)] for model in made]
    return made[0] if found[0] == found[-1] else made[-1]


def _found(model: nn.Module, entries: Sequence[str]) -> Sequence[RepresentativeLayer]:
    """The layers of a model, if it has any."""
    with warnings.catch_warnings(action="ignore"), suppress(ValueError):
        return representative_layers(model, entries)
    return ()
