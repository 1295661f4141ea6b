"""The `hf-worm` command: one door to its subcommands."""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from hf_worm import __version__

DESCRIPTION = """\
Prune while you fine-tune: early-bird tickets and WORM gradient truncation.

  hf-worm glue     fine-tune, prune and retrain a model on a task of GLUE, or on your own sentences
  hf-worm image    train, prune and retrain an image classifier
  hf-worm layers   show which layers of a model would be watched and pruned
  hf-worm show     show what runs have left: result, observations, layers; --figures for plots
  hf-worm demo     the whole method on a small pretrained BERT, offline, in a few minutes

Each of them takes --help."""
# Modules with a `main(argv)`, each imported when it is asked for: data sets and images take their time.
COMMANDS = {
    "glue": "hf_worm.commands.glue.command",
    "image": "hf_worm.commands.image.command",
    "layers": "hf_worm.commands.layers",
    "show": "hf_worm.commands.show.command",
    "demo": "hf_worm.commands.glue.demo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): What follows `hf-worm`; by default the arguments of this process.

    Returns:
        `int`: The exit status: 0 for done, 2 for wrong arguments, 130 for interrupted.
    """
    parser = ArgumentParser("hf-worm", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=list(COMMANDS), metavar=f"{{{','.join(COMMANDS)}}}")
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # of any encoding: a δ that it lacks ends no run
            stream.reconfigure(errors="replace")
    status: int = import_module(COMMANDS[parser.parse_args(argv[:1]).command]).main(argv[1:])
    return status
