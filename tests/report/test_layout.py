"""Tables as lines of text and as Markdown."""

import re

from hypothesis import given
from hypothesis import strategies as st

from hf_worm.report.layout import INDENT, WIDTH, Table, paragraph, section, side_by_side

TABLE = Table(["", "a", "why"], [["long", "1.0", "no"], ["b", "12.0", "yes: b"]], words=(0, 2))
WORDS = st.text("ab1.", min_size=1, max_size=8)


def test_words_are_to_the_left_and_numbers_to_the_right() -> None:
    assert TABLE.lines() == ["         a  why   ", "long   1.0  no    ", "b     12.0  yes: b"]
    assert TABLE.lines(head=False) == TABLE.lines()[1:]


def test_markdown_has_the_same_cells() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.markdown().splitlines()]
    assert rows == [TABLE.head, ["---"] * 3, *TABLE.rows]


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(WORDS, min_size=width, max_size=width), min_size=1)))
def test_no_cell_is_lost_and_all_lines_are_as_long(rows: list[list[str]]) -> None:
    table = Table(rows[0], rows[1:])
    assert [line.split() for line in table.lines()] == rows
    assert len({len(line) for line in table.lines()}) == 1


@given(st.integers(1, 30), st.integers(1, 12))
def test_tables_side_by_side_have_each_column_once_and_fit(count: int, width: int) -> None:
    columns = [[f"[{place}]".ljust(width, "x"), str(place)] for place in range(count)]
    lines = side_by_side(["", "row"], columns)
    assert all(len(line) <= WIDTH - len(INDENT) for line in lines)
    heads = [line.split() for line in lines[::3]]
    assert [cell for head in heads for cell in head] == [column[0] for column in columns]
    assert [cell for line in lines[1::3] for cell in line.split()[1:]] == [column[1] for column in columns]


def test_a_section_without_lines_is_none() -> None:
    assert section("Title", []) == []
    assert section("Title", ["one ", ""]) == ["", "Title", "  one", ""]


def test_paragraphs_leave_room_and_break_no_name() -> None:
    lines = paragraph("a-name " * 40 + "x" * 200)
    assert max(map(len, lines[:-1])) <= WIDTH - 8 and lines[-1] == "x" * 200
    assert all(re.fullmatch("(a-name ?)+", line) for line in lines[:-1])
