"""`hf-worm show`: arguments, output and exit status."""

import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from hf_worm.commands.output import print_to_its_end, refuse
from hf_worm.commands.show.reading import read_run
from hf_worm.report.comparison import comparison_text
from hf_worm.report.terminal import run_text

PROGRAM = "hf-worm show"
DESCRIPTION = """\
Show what runs have left: the result, what the search observed and decided, training, layers, and what is pruned.

  hf-worm show runs/digits-resnet18                   a run that has finished, is going on, or was killed
  hf-worm show runs/digits-resnet18/checkpoint-120    a checkpoint
  hf-worm show me/my-pruned-bert                      a saved or pushed model
  hf-worm show runs/mrpc/*-1 --figures figures        several runs side by side, and figures of them"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv (`Sequence[str]`, *optional*): What follows `hf-worm show`; by default the arguments of this process.

    Returns:
        `int`: The exit status. 0: all were shown. 2: the arguments won't do, or one of the runs can't be read; a line
        on stderr says why, and the others are shown.
    """
    parser = ArgumentParser(PROGRAM, description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        type=os.path.expanduser,
        help="a run's folder, a checkpoint, or a model on the Hub",
    )
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        type=Path,
        help="write distances.png, loss.png, fading.png, layers.png, masks.png and accuracy.png into it, those that "
        "there is something to show in, over those that are there",
    )
    options = parser.parse_args(argv)
    if options.figures is not None:
        try:
            from hf_worm.report.figures.writing import write_figures
        except ImportError as error:
            return refuse(PROGRAM, f'--figures needs matplotlib: pip install "hf_worm[plots]" ({error})')
    records, status = [], 0
    for path in options.runs:
        try:
            records.append(read_run(path))
        except (ValueError, OSError) as error:
            status = refuse(PROGRAM, str(error) if path in str(error) else f"{path}: {error}")
    if not records:
        return status
    try:
        print_to_its_end(run_text(records[0]) if len(records) == 1 else comparison_text(records))
        if options.figures is not None:
            print_to_its_end("\n  ".join(["\nFigures", *map(str, write_figures(records, options.figures))]))
    except OSError as error:
        return refuse(PROGRAM, error)
    return status
