"""Prints for every command: errors, and texts of which a reader may want the beginning only."""

import os
import re
import shlex
import sys
from ast import literal_eval


def error_line(program: str, error: Exception | str) -> str:
    """Write an error as one line, with flags beside settings as Python has them.

    Args:
        program (`str`): The command.
        error (`Exception` or `str`): For a "`WormConfig(layers=['query'])`" in it, the flag is `--layers query`.
    """
    message = re.sub(r"`WormConfig\((\w+)=(\['[^`]*'\]|\[\"[^`]*\"\]|'[^`]*')\)`", _with_flag, str(error))
    return f"{program}: error: {' '.join(message.split())}"


def _with_flag(setting: re.Match[str]) -> str:
    value = literal_eval(setting[2])
    words = value if isinstance(value, list) else [value]
    return f"{setting[0]} (here: `--{setting[1]} {shlex.join(words)}`)"


def refuse(program: str, error: Exception | str) -> int:
    """Print an error on stderr, and return the exit status of wrong arguments."""
    print(error_line(program, error), file=sys.stderr)
    return 2


def print_to_its_end(text: str) -> None:
    """Print, or stop quietly where the reader, `head` for one, has left."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
