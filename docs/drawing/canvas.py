"""An SVG of boxes, arrows and text whose colours follow a light or a dark page.

Lengths are in CSS pixels. Colours are names of PALETTE; text is set in the reader's sans-serif or monospaced font,
whose width is not known, so boxes are wider than their text.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field

PALETTE = {  # name: (on a light page, on a dark page); the same values as in docs/site/static/site.css
    "ink": ("#1f2328", "#f0f6fc"),
    "muted": ("#59636e", "#9198a1"),
    "line": ("#8c959f", "#656c76"),
    "paper": ("#ffffff", "#131416"),
    "blue": ("#ddf4ff", "#12314f"),
    "green": ("#dafbe1", "#12351f"),
    "yellow": ("#fff8c5", "#3c2e0a"),
    "red": ("#ffebe9", "#4a1f1d"),
    "violet": ("#fbefff", "#33225a"),
    "gray": ("#eff2f5", "#262c36"),
    "blue-line": ("#0969da", "#4493f8"),
    "green-line": ("#1a7f37", "#3fb950"),
    "yellow-line": ("#9a6700", "#d29922"),
    "red-line": ("#cf222e", "#f85149"),
    "violet-line": ("#8250df", "#ab7df8"),
}
SIZE = 14  # of text
LINE_HEIGHT = 1.3  # of the size
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle on a canvas, with the points at which arrows begin and end."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> Point:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        return self.x + self.width / 2, self.y + self.height

    @property
    def center(self) -> Point:
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass
class Canvas:
    """A drawing; `title` and `description` are what screen readers read."""

    width: float
    height: float
    title: str
    description: str = ""
    elements: list[str] = field(default_factory=list)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        text: str = "",
        *,
        fill: str = "paper",
        mono: bool = False,
        size: float = SIZE,
        note: str = "",
        dashed: bool = False,
    ) -> Box:
        """A rectangle with centred lines of text, and below them a smaller note."""
        line = f"{fill}-line" if f"{fill}-line" in PALETTE else "line"
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.elements.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" rx="6" '
            f'style="fill:{color(fill)};stroke:{color(line)}"{dash}/>'
        )
        found = Box(x, y, width, height)
        if text or note:
            lines = len(text.splitlines()) * size + len(note.splitlines()) * (size - 2)
            top = y + height / 2 - lines * LINE_HEIGHT / 2
            end = self.text(found.center[0], top, text, mono=mono, size=size, from_top=True)
            self.text(found.center[0], end, note, color="muted", size=size - 2, from_top=True)
        return found

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "middle",
        color: str = "ink",
        size: float = SIZE,
        mono: bool = False,
        bold: bool = False,
        from_top: bool = False,
    ) -> float:
        """Lines of text; `y` is the middle of the first one, or its top. Returns the bottom of the last one.

        `anchor` is start, middle or end.
        """
        style = f"fill:{named(color)};font-size:{number(size)}px" + (";font-weight:600" if bold else "")
        kind = ' class="mono"' if mono else ""
        middle = y + (size * LINE_HEIGHT / 2 if from_top else 0)
        for line in text.splitlines():
            self.elements.append(
                f'<text x="{number(x)}" y="{number(middle + 0.35 * size)}" text-anchor="{anchor}"{kind} '
                f'style="{style}">{html.escape(line, quote=False)}</text>'
            )
            middle += size * LINE_HEIGHT
        return middle - size * LINE_HEIGHT / 2

    def arrow(self, *points: Point, color: str = "line", dashed: bool = False, width: float = 1.5) -> None:
        """A line through points, with a head at its end."""
        self.line(points, color=color, dashed=dashed, width=width, head=True)

    def line(
        self,
        points: Iterable[Point],
        *,
        color: str = "line",
        dashed: bool = False,
        width: float = 1.5,
        head: bool = False,
    ) -> None:
        """A line through points."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        end = f' marker-end="url(#head-{color})"' if head else ""
        style = f"fill:none;stroke:{named(color)};stroke-width:{number(width)}"
        self.elements.append(f'<polyline points="{path}" style="{style}"{dash}{end}/>')

    def rectangle(self, x: float, y: float, width: float, height: float, *, fill: str, opacity: float = 1) -> None:
        """An area without an edge, such as a cell of a grid or a bar."""
        self.elements.append(
            f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" '
            f'style="fill:{named(fill)};opacity:{number(opacity)}"/>'
        )

    def circle(self, x: float, y: float, radius: float, *, fill: str = "ink") -> None:
        self.elements.append(
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" style="fill:{named(fill)}"/>'
        )

    def svg(self) -> str:
        """The file."""
        light, dark = (";".join(f"--{name}:{values[theme]}" for name, values in PALETTE.items()) for theme in (0, 1))
        heads = "".join(
            f'<marker id="head-{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" style="fill:{color(name)}"/></marker>'
            for name in PALETTE
            if f'url(#head-{name})"' in "".join(self.elements)
        )
        body = "\n".join(self.elements)
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" role="img" width="{number(self.width)}" '
            f'height="{number(self.height)}" viewBox="0 0 {number(self.width)} {number(self.height)}">\n'
            f"<title>{html.escape(self.title)}</title>\n<desc>{html.escape(self.description)}</desc>\n"
            f"<style>svg.figure{{{light}}}\n@media (prefers-color-scheme:dark){{svg.figure{{{dark}}}}}\n"
            "svg.figure text{font-family:system-ui,sans-serif}\n"
            "svg.figure text.mono{font-family:ui-monospace,monospace}\n"
            "svg.figure rect,svg.figure polyline{stroke-width:1.2}</style>\n"
            f"<defs>{heads}</defs>\n{body}\n</svg>\n"
        )


def color(name: str) -> str:
    assert name in PALETTE, f"no colour {name!r}; known: {', '.join(PALETTE)}"
    return f"var(--{name})"


named = color  # where a parameter has the name of the function


def number(value: float) -> str:
    """At most two decimals, so that a drawing is the same on every machine."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
