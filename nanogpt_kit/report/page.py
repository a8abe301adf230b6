"""One self-contained HTML file: text, warnings, tables, and plotly figures where plotly is installed.

The figures' script is in the file, and a content security policy keeps the browser from fetching anything.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Collection, Iterable, Sequence
from importlib.resources import files
from string import Template
from typing import Any, Literal, Protocol

from nanogpt_kit.core.errors import printable

NO_FIGURES = "The report has no figures, since plotly is not installed: pip install 'nanogpt-kit[plots]'."

# In page.html, the policy lets plotly draw: it compiles functions with eval, and saves images through data: and blob:.
# In page.css, figures have no background, and grey axes that fit both colour schemes.
TEMPLATE = files(__package__) / "page.html"
STYLE = files(__package__) / "page.css"
SCRIPT = files(__package__) / "page.js"

LONG_CELL = 40  # characters; the text of longer cells is wrapped
LONG_HEADING = 16  # characters; longer names of options are wrapped


VerdictKind = Literal["better", "worse", "undecided"]
Table = tuple[Sequence[str], Iterable[Sequence[object]]]  # columns and rows


class Figure(Protocol):
    """A plotly figure. Plotly may not be installed."""

    def to_html(self, **options: Any) -> str: ...


def has_figures() -> bool:
    """Whether plotly can be imported."""
    try:
        import plotly.graph_objects  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return False
    return True


class Page:
    """A report, whose parts have the order in which they were added. Text is escaped: it is never HTML."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []
        self.sections: list[str] = []
        self.figure_count = 0

    def lead(self, text: str) -> None:
        """Adds the main result, in one line."""
        self.parts.append(f"<p>{html_text(text)}</p>")

    def note(self, text: str) -> None:
        """Adds a note on how to read the part below."""
        self.parts.append(f'<p class="note">{html_text(text)}</p>')

    def warning(self, text: str) -> None:
        self.parts.append(f'<p class="warning" role="note">{html_text(text)}</p>')

    def command(self, text: str) -> None:
        """Adds a command to copy into a shell."""
        self.parts.append(f"<pre>{html_text(text)}</pre>")

    def section(self, title: str) -> None:
        self.sections.append(title)
        self.parts.append(f'<h2 id="section-{len(self.sections)}">{html_text(title)}</h2>')

    def block(
        self,
        title: str,
        note: str = "",
        figure: Figure | None = None,
        *,
        figures: Iterable[Figure] = (),
        instead: Table | None = None,
        min_width: int = 0,
    ) -> None:
        """Adds a section whose heading, note and figure are on one page in print.

        `figures` are small ones, beside each other. Without any figure the table `instead` takes their place; a block
        without anything to show is left out.
        """
        panels = list(figures)
        if figure is None and not panels and instead is None:
            return
        first = len(self.parts)
        self.section(title)
        if note:
            self.note(note)
        if figure is not None:
            self.figure(figure, min_width)
        if panels:
            self.gallery(panels)
        if figure is None and not panels and instead is not None:
            self.table(*instead)
        self.parts[first:] = [f'<section class="block">{"".join(self.parts[first:])}</section>']

    def verdict(self, text: str, kind: VerdictKind) -> None:
        """Adds a box with a verdict: its word in the colour of its kind, then the text."""
        word = f"<strong>{kind.capitalize()}</strong>"
        self.parts.append(f'<p class="verdict {kind}">{word} {html_text(text)}</p>')

    def mapping(self, rows: Iterable[tuple[str, object]]) -> None:
        """Adds a list of names with their values; None is left out."""
        body = "\n".join(
            f'<tr><th scope="row">{html_text(name)}</th>{table_cell(value, None)}</tr>'
            for name, value in rows
            if value is not None
        )
        self.parts.append(f'<div class="wide"><table class="mapping"><tbody>{body}</tbody></table></div>')

    def texts(self, columns: Sequence[tuple[str, str]]) -> None:
        """Adds texts side by side, each with its title. Whitespace is kept, and control characters are escaped."""
        cells = "".join(
            f"<div><h3>{html_text(title)}</h3><pre>\n{html_text(text)}</pre></div>"
            for title, text in columns  # of a pre, HTML leaves out the first newline
        )
        self.parts.append(f'<div class="texts">{cells}</div>')

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        marked: int | None = None,
        numbers: Collection[int] = (),
    ) -> None:
        """Adds a table; cells are numbers, text, or None. `marked` is the index of a highlighted row, and `numbers`
        are those of columns whose text is numbers, which are aligned at the right."""
        lines = [list(row) for row in rows]
        kinds = [decimals_of_column([row[at] for row in lines]) for at in range(len(columns))]
        aligned = [kind is not None or at in numbers for at, kind in enumerate(kinds)]
        head = "".join(map(heading_cell, columns, aligned))
        body = "\n".join(
            f"<tr{' class=marked' * (at == marked)}>{''.join(map(table_cell, row, kinds, aligned))}</tr>"
            for at, row in enumerate(lines)
        )
        self.parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
        )

    def figure(self, figure: Figure, min_width: int = 0) -> None:
        """Adds a figure as wide as the page, but at least `min_width` pixels."""
        style = f' style="min-width: {min_width}px"' if min_width else ""
        self.parts.append(f'<div class="wide"><div class="figure"{style}>{self._figure_html(figure, True)}</div></div>')

    def gallery(self, figures: Iterable[Figure]) -> None:
        """Adds small figures, as many in a row as fit."""
        panels = [f"<div>{self._figure_html(figure, False)}</div>" for figure in figures]
        most = max(1, min(len(panels), 3))  # a figure is drawn before the next exists, and does not shrink for it
        self.parts.append(f'<div class="gallery" style="--most: {most}">{"".join(panels)}</div>')

    def _figure_html(self, figure: Figure, has_buttons: bool) -> str:
        self.figure_count += 1
        return figure.to_html(
            full_html=False,
            include_plotlyjs=self.figure_count == 1,  # its script of 5 MB, once
            include_mathjax=False,
            div_id=f"figure-{self.figure_count}",
            config={"displaylogo": False, "responsive": True, "displayModeBar": "hover" if has_buttons else False},
        )

    def html(self) -> str:
        links = "".join(
            f'<a href="#section-{index}">{html_text(name)}</a> ' for index, name in enumerate(self.sections, 1)
        )
        return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
            title=html_text(self.title),
            style=STYLE.read_text(encoding="utf-8"),
            links=f"<nav>{links}</nav>" if links else "",
            parts="\n".join(self.parts),
            script=f"<script>\n{SCRIPT.read_text(encoding='utf-8')}</script>" if self.figure_count else "",
        )


def html_text(text: str) -> str:
    """Text as HTML, without tags and control characters."""
    return html.escape(printable(text))


def decimals_of_column(cells: Sequence[object]) -> int | None:
    """Decimal places of a column; -1 where they differ by cell, None where not all cells are numbers."""
    there = [value for value in cells if value is not None]
    if not there or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        return None
    texts = [format_number(value) for value in there if isinstance(value, float)]
    is_plain = all(re.fullmatch(r"-?\d*[1-9]\d*\.?\d*|-?0\.[1-9]\d*", text) for text in texts)
    return max((len(text.partition(".")[2]) for text in texts), default=-1) if is_plain else -1


def heading_cell(text: str, is_number: bool) -> str:
    # Where it may be wrapped: not within a number
    parts = re.split(r"(?<=[_@=])|(?<=\D\.)", text) if len(text) > LONG_HEADING else [text]
    return f"<th{' class=number' * is_number}>{'<wbr>'.join(map(html_text, parts))}</th>"


def table_cell(value: object, decimals: int | None, is_right: bool = False) -> str:
    if value is None:
        return "<td></td>"
    if decimals is not None:
        is_even = decimals >= 0 and isinstance(value, float)
        return f'<td class="number">{f"{value:z.{decimals}f}" if is_even else format_number(value)}</td>'
    text = format_number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    kind = "number" if is_right else "long" if len(text) > LONG_CELL else "words" if " " in text else ""
    return f"<td{f' class={kind}' * bool(kind)}>{html_text(text)}</td>"


def format_number(value: Any, digits: int = 5) -> str:
    """A number as text, rounded to `digits`: 12,345,678, 3.2841, 0.000312."""
    if isinstance(value, int):
        return f"{value:,}"
    if 1e5 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:z.{3 if abs(value) < 0.1 else digits}g}"


def utc_time(seconds: float) -> str:
    """A time in seconds since 1970, such as "2026-01-02 03:04 UTC"."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):  # of a clock that was wrong
        return "an unknown time"


def first_characters(text: str, most: int) -> str:
    """One line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"
