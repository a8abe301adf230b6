"""How a page looks in a browser without a network: wide, on a phone, in the dark, and printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("plotly")

from nanogpt_kit.report.page import Page
from nanogpt_kit.report.plots import add_dots, bar_chart, empty_figure
from tests.report.pictures import PAPER, PHONE, Browser, View, assert_readable
from tests.report.sample_page import sample_page


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "sample.html"
    path.write_text(sample_page(has_parallel=False).html(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def view(browser: Browser, sample: Path) -> View:
    return browser.open(sample, PHONE)


def write_page(tmp_path: Path, page: Page) -> Path:
    path = tmp_path / "page.html"
    path.write_text(page.html(), encoding="utf-8")
    return path


def shown_colors(view: View, selector: str) -> set[str]:
    return set(view.evaluate(f"[...document.querySelectorAll('{selector}')].map((one) => getComputedStyle(one).fill)"))


def test_a_page_is_readable_on_a_phone_and_wide(view: View) -> None:
    assert view.unreadable() == {}
    plots = view.evaluate(
        "[...document.querySelectorAll('.nsewdrag')].map((one) => one.getBoundingClientRect().height)"
    )
    assert min(plots) > 100, "also below a legend of ten rows"
    view.resize(1400)
    assert view.unreadable() == {}
    assert view.complaints == []


def test_the_text_of_figures_has_the_colour_of_the_scheme(view: View) -> None:
    selector = ".xtick text, .ytick text, .legendtext, .infolayer .xtitle, .barlayer text"
    view.emulate(scheme="dark")
    assert shown_colors(view, selector) == {"rgb(227, 231, 236)"}
    view.emulate(media="print", scheme="dark")
    assert shown_colors(view, selector) == {"rgb(31, 35, 40)"}, "paper is white"
    view.emulate()
    assert shown_colors(view, selector) == {"rgb(31, 35, 40)"}


def test_print_separates_no_heading_from_what_it_is_about(view: View) -> None:
    view.emulate(media="print")
    values = view.evaluate(
        "Object.fromEntries([['h2', 'breakAfter'], ['.note', 'breakAfter'], ['.block', 'breakInside'],"
        "['.figure', 'breakInside'], ['tr', 'breakInside']].map(([selector, property]) =>"
        "[selector, getComputedStyle(document.querySelector(selector))[property]]))"
    )
    view.emulate()
    assert values == dict.fromkeys(("h2", ".note", ".block", ".figure", "tr"), "avoid")


def test_samples_are_columns_that_become_rows_on_a_phone(view: View) -> None:
    places = "[...document.querySelectorAll('.texts pre')].map((one) => Math.round(one.getBoundingClientRect().left))"
    view.resize(PHONE)
    assert len(set(view.evaluate(places))) == 1
    view.resize(1400)
    assert len(set(view.evaluate(places))) == 3
    assert "It is the <b>east</b> & Juliet\\u001b[31m.\n\n\nJULIET:" in view.evaluate(
        "document.querySelector('.texts pre').textContent"
    )


@pytest.mark.slow
def test_figures_are_as_wide_as_the_paper_in_print_and_follow_the_window_again(view: View) -> None:
    view.resize(PAPER)
    view.emulate(media="print")
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    widths = view.evaluate("[...document.querySelectorAll('.svg-container')].map((one) => one.clientWidth)")
    unreadable = view.unreadable()
    view.evaluate("dispatchEvent(new Event('afterprint'))")
    view.emulate()
    view.resize(PHONE)
    assert 0.95 * PAPER < max(widths) <= PAPER
    assert (unreadable, view.unreadable()) == ({}, {})
    view.resize(1400)


@pytest.mark.slow
def test_the_browser_sees_what_is_cut_equal_or_printed_over_each_other(browser: Browser, tmp_path: Path) -> None:
    """What the other tests rely on."""
    page = Page("planted")
    cut = empty_figure(260, "x", "y")
    add_dots(cut, [(0, 1.0), (1, 2.0)], [0, 1], "same", {})
    add_dots(cut, [(0, 1.5), (1, 2.5)], [0, 1], "same", {})
    cut.update_yaxes(tickvals=[1, 2], ticktext=["a label that is far too long", "b"], automargin=False)
    page.figure(cut)
    bars = bar_chart({"a": 1.0, "b": 0.5}, ["a text over others", "b"])
    bars.update_layout(yaxis={"tickvals": [0, 0.1], "ticktext": ["one", "other"]})
    page.figure(bars)
    page.parts.append('<div style="width: 3000px">far</div>')
    page.parts.append("<script>console.error('wrong'); new Image().src = 'http://example.com/a.png'</script>")
    view = browser.open(write_page(tmp_path, page))
    found = view.unreadable()
    view.close()
    assert [word in str(found["cut"]) for word in ("far too long", "b'")] == [True, False]
    assert found["equal"] == ["figure-1: same"]
    assert "figure-2: one / other" in found["overlapping"]
    assert [one.split()[0] for one in found["wide"]] == ["DIV"]
    assert any("wrong" in one for one in view.complaints)


@pytest.mark.slow
def test_a_legend_of_many_takes_no_room_from_the_figure(browser: Browser, tmp_path: Path) -> None:
    page = Page("many")
    figure = empty_figure(260, "x", "y")
    for at in range(24):
        add_dots(figure, [(at, at)], [at], f"run {at} of a long name", {})
    page.figure(figure)
    assert_readable(browser, write_page(tmp_path, page))
    view = browser.open(write_page(tmp_path, page), PHONE)
    plot = view.evaluate("document.querySelector('.nsewdrag').getBoundingClientRect().height")
    view.close()
    assert plot > 120


@pytest.mark.slow
def test_a_page_with_a_wide_table_and_parallel_coordinates_is_printed(browser: Browser, tmp_path: Path) -> None:
    view = browser.open(write_page(tmp_path, sample_page()))
    unreadable = view.unreadable()
    view.pdf(tmp_path / "page.pdf")
    widths = view.evaluate("[...document.querySelectorAll('.js-plotly-plot')].map((one) => one.layout.width || 0)")
    view.close()
    assert unreadable == {}
    assert not any(widths), "figures follow the window again"
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) in range(4, 8)
    assert view.complaints == []
