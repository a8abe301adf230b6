"""Tables of text: aligned, and cut where a terminal is narrow."""

from __future__ import annotations

import pytest

from nanogpt_kit.cli.text_table import Column, display_width, table_lines

COLUMNS = [
    Column("run", ["first/aaaa", "second/bbbbbbbb"], "left", 8),
    Column("state", ["ok", "failed"], rank=2),
    Column("loss", ["1.5", ""]),
    Column("note", ["a long remark on it", ""], "right", 6, rank=1),
]


def test_without_a_width_every_text_is_whole() -> None:
    assert table_lines(COLUMNS, None) == (
        [
            "run              state   loss  note",
            "first/aaaa       ok      1.5   a long remark on it",
            "second/bbbbbbbb  failed",
        ],
        [],
    )


def test_the_run_is_whole_before_the_note_is() -> None:
    lines, left_out = table_lines(COLUMNS, 41)
    assert lines[1:] == ["first/aaaa       ok      1.5   a long re…", "second/bbbbbbbb  failed"]
    assert left_out == []


def test_a_run_is_cut_at_its_left_end() -> None:
    lines, left_out = table_lines(COLUMNS, 30)
    assert lines == ["run       state   loss  note", "…st/aaaa  ok      1.5   a lon…", "…bbbbbbb  failed"]
    assert left_out == []


def test_columns_that_do_not_fit_are_left_out_and_named() -> None:
    assert table_lines(COLUMNS, 25)[1] == ["loss"]
    assert table_lines(COLUMNS, 20)[1] == ["loss", "note"]
    assert table_lines(COLUMNS, 12)[1] == ["state", "loss", "note"]


@pytest.mark.parametrize("width", range(3, 60))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(display_width, table_lines(COLUMNS, width)[0])) <= width


def test_characters_of_two_columns_keep_the_columns_aligned() -> None:
    lines, _ = table_lines([Column("a", ["\u8a9e\u8a9e", "e\u0301"]), Column("b", ["x", "y"])], None)
    assert lines == ["a     b", "\u8a9e\u8a9e  x", "e\u0301     y"]
