"""One HTML file that needs nothing else: text, warnings, tables, and plotly's figures where plotly is installed.

The script of the figures is in the file, and a policy in its head tells the browser to fetch nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

NO_FIGURES = "There are no figures in this report, since plotly is not installed: pip install 'nanogpt-kit[plots]'."

# plotly compiles its drawing of lines with eval, and saves pictures by way of data and blob.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
)

# Figures have no background, and axes in a grey for both schemes, so that only their words change between the two.
STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #656d76; --line: #d0d7de;
  --shade: #f6f8fa; --mark: #fff3e0; --warn: #fff8e1; --edge: #d9822b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e3e7ec; --faint: #98a1ab; --line: #333a42;
  --shade: #1d2127; --mark: #38291a; --warn: #2a241a; --edge: #d9822b; } }
* { box-sizing: border-box; }
html { overflow-y: scroll; }
body { margin: 0 auto; max-width: 1200px; padding: 24px 32px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }
p { margin: 8px 0; max-width: 90ch; overflow-wrap: anywhere; }
nav { margin: 16px 0 0; font-size: 14px; } nav a { margin-right: 14px; white-space: nowrap; } a { color: inherit; }
.note { color: var(--faint); font-size: 14px; }
.warning { background: var(--warn); border-left: 4px solid var(--edge); padding: 8px 12px; max-width: none; }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.wide { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; background: var(--shade); vertical-align: bottom; }
.number { text-align: right; } td { white-space: nowrap; }
td.long { white-space: normal; min-width: 22em; max-width: 40em; overflow-wrap: anywhere; }
tr.marked td { background: var(--mark); font-weight: 600; }
.gallery { display: grid; gap: 8px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, max(310px, (100% - 16px) / var(--most))), 1fr)); }
.gallery > div, .figure { min-width: 0; }
.js-plotly-plot .infolayer text, .js-plotly-plot .cartesianlayer text, .js-plotly-plot .parcoords text
  { fill: var(--ink) !important; text-shadow: none !important; }
.js-plotly-plot .parcoords .axis path, .js-plotly-plot .parcoords .axis line { stroke: #868e96 !important; }
@media (hover: none) { .modebar { display: none !important; } }
@media (max-width: 600px) { body { padding: 16px 12px 48px; } }
@media print { @page { size: A4 landscape; margin: 10mm; } nav, .modebar { display: none !important; }
  body { padding: 0; } h2 { break-after: avoid; } tr, .figure, .gallery > div { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: 10px; } th, td { padding: 2px 5px; } td.long { min-width: 0; } }
"""


LONG = 40  # letters from which on a cell is broken into lines


class Figure(Protocol):
    """plotly's, to whoever has it."""

    def to_html(self, **options: Any) -> str: ...


def has_figures() -> bool:
    """Whether plotly can be imported."""
    try:
        import plotly.graph_objects  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return False
    return True


class Page:
    """Parts in the order in which they were added. All text is taken literally, never as HTML."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []
        self.sections: list[str] = []
        self.drawn = 0  # figures

    def lead(self, text: str) -> None:
        """A line of what matters most."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def note(self, text: str) -> None:
        """How to read what follows."""
        self.parts.append(f'<p class="note">{html.escape(text)}</p>')

    def warning(self, text: str) -> None:
        self.parts.append(f'<p class="warning" role="note">{html.escape(text)}</p>')

    def command(self, text: str) -> None:
        """To be copied into a shell."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def section(self, title: str) -> None:
        self.sections.append(title)
        self.parts.append(f'<h2 id="section-{len(self.sections)}">{html.escape(title)}</h2>')

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], marked: int | None = None) -> None:
        """Cells are numbers, words, or None. `marked` is the row that stands out."""
        lines = [list(row) for row in rows]
        kinds = [column_of([row[at] for row in lines]) for at in range(len(columns))]
        head = "".join(map(heading, columns, (kind is not None for kind in kinds)))
        body = "\n".join(
            f"<tr{' class=marked' * (at == marked)}>{''.join(map(cell, row, kinds))}</tr>"
            for at, row in enumerate(lines)
        )
        self.parts.append(
            f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
        )

    def figure(self, figure: Figure, min_width: int = 0) -> None:
        """Over the whole width, or wider than the page where it needs so many pixels."""
        style = f' style="min-width: {min_width}px"' if min_width else ""
        self.parts.append(f'<div class="wide"><div class="figure"{style}>{self._drawn(figure, True)}</div></div>')

    def gallery(self, figures: Iterable[Figure]) -> None:
        """Small ones, as many in a line as there is room for."""
        panels = [f"<div>{self._drawn(figure, False)}</div>" for figure in figures]
        most = max(1, min(len(panels), 3))  # a figure is drawn before the next is there, and does not give way to it
        self.parts.append(f'<div class="gallery" style="--most: {most}">{"".join(panels)}</div>')

    def _drawn(self, figure: Figure, has_buttons: bool) -> str:
        self.drawn += 1
        return figure.to_html(
            full_html=False,
            include_plotlyjs=self.drawn == 1,  # the 5 MB of its script, once
            include_mathjax=False,
            div_id=f"figure-{self.drawn}",
            config={"displaylogo": False, "responsive": True, "displayModeBar": "hover" if has_buttons else False},
        )

    def html(self) -> str:
        title = html.escape(self.title)
        links = "".join(
            f'<a href="#section-{number}">{html.escape(name)}</a> ' for number, name in enumerate(self.sections, 1)
        )
        return "\n".join(
            [
                '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
                f"<nav>{links}</nav>" if links else "",
                *self.parts,
                "</body>\n</html>\n",
            ]
        )


def column_of(cells: Sequence[object]) -> int | None:
    """Decimals of a column's fractions; -1 where each needs its own, None where not all of its cells are numbers."""
    there = [value for value in cells if value is not None]
    if not there or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        return None
    told = [number(value) for value in there if isinstance(value, float)]
    is_plain = all(re.fullmatch(r"-?\d*[1-9]\d*\.?\d*|-?0\.[1-9]\d*", text) for text in told)
    return max((len(text.partition(".")[2]) for text in told), default=-1) if is_plain else -1


def heading(text: str, is_number: bool) -> str:
    return f"<th{' class=number' * is_number}>{html.escape(text).replace('.', '.<wbr>')}</th>"


def cell(value: object, decimals: int | None) -> str:
    if value is None:
        return "<td></td>"
    if decimals is not None:
        is_even = decimals >= 0 and isinstance(value, float)
        return f'<td class="number">{f"{value:.{decimals}f}" if is_even else number(value)}</td>'
    text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return f"<td{' class=long' * (len(text) > LONG)}>{html.escape(text)}</td>"


def number(value: Any, digits: int = 5) -> str:
    """With as many digits as a reader compares: 12,345,678, 3.2841, 0.000312."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{3 if abs(value) < 0.1 else digits}g}"


def short(text: str, most: int) -> str:
    """One line of at most so many letters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"
