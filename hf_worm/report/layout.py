"""Tables and paragraphs as plain text or as Markdown: lays cells out, and formats nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

WIDTH = 100  # columns of a terminal
INDENT = "  "


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Args:
        head (`list[str]`): A title for each column.
        rows (`list[list[str]]`): The cells of each row, as many as the head has.
        words (`tuple[int, ...]`, *optional*, defaults to `(0,)`): Places of the columns that hold words, not numbers.
    """

    head: list[str]
    rows: list[list[str]]
    words: tuple[int, ...] = (0,)

    def lines(self, head: bool = True) -> list[str]:
        """Lay the table out as lines of text: words to the left, numbers to the right."""
        rows = [self.head, *self.rows] if head else self.rows
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) if place in self.words else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]

    def markdown(self) -> str:
        """Lay the table out as Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def side_by_side(first: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    """Lay out tables with the same first column and as many of the others as fit, one table under another.

    Args:
        first (`Sequence[str]`): The first column, its head included.
        columns (`Sequence[Sequence[str]]`): The others, each of the same length.
    """
    lines: list[str] = []
    start = 0
    while start < len(columns):
        end = start + 1
        while end < len(columns) and _width([first, *columns[start : end + 1]]) <= WIDTH - len(INDENT):
            end += 1
        head, *rows = map(list, zip(first, *columns[start:end], strict=True))
        lines += [*([""] if lines else []), *Table(head, rows).lines()]
        start = end
    return lines


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Put a title over lines and indent them; without lines there is no section."""
    return ["", title, *(f"{INDENT}{line}".rstrip() for line in lines)] if lines else []


def paragraph(text: str) -> list[str]:
    """Break a text into lines that leave room for an indent and for the number of a run."""
    return wrap(text, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
