"""A page without figures: what its parts say, and that nothing of what they are given is HTML."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.core.errors import printable
from nanogpt_kit.report.page import Page, format_number

EVIL = "<script>alert(1)</script>&lt;\x1b[31m\u202e\x00"


class Reader(HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page.html())

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Drawing:
    """A figure, as far as a page knows it."""

    def to_html(self, **options: Any) -> str:
        return f"<div id={options['div_id']}>drawn</div>"


def test_no_part_takes_text_for_html() -> None:
    page = Page(EVIL)
    for add in (page.lead, page.note, page.warning, page.command, page.section):
        add(EVIL)
    page.verdict(EVIL, "worse")
    page.block(EVIL, EVIL, instead=([EVIL], [[EVIL]]))
    page.table([EVIL], [[EVIL]])
    page.mapping([(EVIL, EVIL)])
    page.texts([(EVIL, EVIL)])
    reader = Reader(page)
    assert "script" not in reader.tags
    assert reader.text.count("<script>alert(1)</script>&lt;") == 20


def test_a_control_character_cannot_be_in_a_page() -> None:
    page = Page(EVIL)
    page.texts([(EVIL, EVIL)])
    page.mapping([(EVIL, EVIL)])
    page.table([EVIL], [[EVIL]])
    page.lead(EVIL)
    assert not set("\x1b\u202e\x00") & set(page.html())
    assert r"\u001b[31m\u202e\u0000" in page.html()


@given(st.text(max_size=60))
def test_texts_keep_their_whitespace(text: str) -> None:
    page = Page("a")
    page.texts([("title", f"{text}\n\t  end")])
    (found,) = re.findall(r"<pre>(.*?)</pre>", page.html(), re.DOTALL)
    assert found.startswith("\n"), "HTML leaves out the first newline of a pre"
    assert html.unescape(found[1:]) == printable(f"{text}\n\t  end")


@pytest.mark.parametrize("kind", ["better", "worse", "undecided"])
def test_a_verdict_has_its_word_and_not_only_a_colour(kind: Any) -> None:
    page = Page("a")
    page.verdict("0.021 lower", kind)
    assert f"{kind.capitalize()} 0.021 lower" in Reader(page).text


def test_a_block_is_a_section_of_which_print_separates_nothing() -> None:
    page = Page("a")
    page.block("Curves", "How to read them.", Drawing())
    page.block("Parameters", figures=[Drawing(), Drawing()])
    text = page.html()
    (first, second) = re.findall(r'<section class="block">(.*?)</section>', text, re.DOTALL)
    assert [part in first for part in ("Curves</h2>", "How to read them.", "figure-1")] == [True] * 3
    assert [part in second for part in ("Parameters</h2>", "figure-2", "figure-3")] == [True] * 3
    assert '<a href="#section-2">Parameters</a>' in text
    assert re.search(r"\.block \{[^}]*break-inside: avoid", text)


def test_without_a_figure_a_block_has_its_table_and_without_either_it_is_left_out() -> None:
    page = Page("a")
    page.block("Curves", "How to read them.", None, instead=(["step", "loss"], [[10, 3.25]]))
    page.block("Parameters", "A note on nothing.")
    text = Reader(page).text
    assert "3.25" in text
    assert "Parameters" not in text
    assert "A note on nothing" not in text


def test_a_figure_is_shown_instead_of_its_table() -> None:
    page = Page("a")
    page.block("Curves", "", Drawing(), instead=(["step"], [[10]]))
    assert "<table" not in page.html()


def test_a_page_without_figures_has_no_script() -> None:
    page = Page("a")
    page.lead("b")
    assert "<script" not in page.html()


def test_a_mapping_leaves_out_what_is_not_known() -> None:
    page = Page("a")
    page.mapping([("version", "0.2.0"), ("commit", None), ("seeds", 5), ("tokens", 12_345_678), ("loss", 2.5)])
    text = page.html()
    assert re.findall(r'<th scope="row">(\w+)</th>', text) == ["version", "seeds", "tokens", "loss"]
    assert "12,345,678" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_345_678, "12,345,678"),
        (12_345_678.0, "12,345,678"),
        (3.28411, "3.2841"),
        (0.00031249, "0.000312"),
        (-0.0, "0"),
        (99_999.4, "99999"),
        (1e20, "1e+20"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([2.981, 2.9528], ["2.9810", "2.9528"]),
        ([0.0123, 0.02], ["0.0123", "0.02"]),  # rates have the digits that they were given
        ([-0.0, 0.5], ["0", "0.5"]),
        ([4, 0.5], ["4", "0.5"]),
        ([float("nan"), 0.25], ["nan", "0.25"]),
        ([123_456.0, 0.5], ["123,456", "0.5"]),
    ],
)
def test_a_column_has_as_many_decimals_a_cell_unless_it_has_small_numbers(
    values: list[float], cells: list[str]
) -> None:
    page = Page("a")
    page.table(["value"], [[value] for value in values])
    assert re.findall(r'<td class="number">(.*?)</td>', page.html()) == cells


def test_long_names_of_columns_are_wrapped_at_their_parts_and_names_of_runs_are_not() -> None:
    page = Page("a")
    page.table(["optimizer.weight_decay", "val/loss"], [["trial-0001-s7", "out of memory"]])
    assert "optimizer.<wbr>weight_<wbr>decay</th><th>val/loss</th>" in page.html()
    assert "<td>trial-0001-s7</td><td class=words>out of memory</td>" in page.html()


def test_a_long_heading_is_not_wrapped_within_a_number() -> None:
    page = Page("x")
    page.table(["optimizer.lr=0.0125"], [])
    assert "<th>optimizer.<wbr>lr=<wbr>0.0125</th>" in page.html()
