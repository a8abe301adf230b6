"""A tree of parts with its root at the top left, a line for each part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drawing.canvas import Canvas

ROW, INDENT = 26, 24


@dataclass(frozen=True)
class Part:
    """A line: a name, what it is, a remark; and the parts below it."""

    name: str
    kind: str = ""
    remark: str = ""
    parts: Sequence[Part] = field(default=())


def draw_tree(title: str, description: str, root: Part, columns: tuple[float, float] = (250, 480)) -> Canvas:
    """`columns` are where what a part is and its remark begin."""
    rows = list(flat(root, 0))
    canvas = Canvas(720, len(rows) * ROW + 16, title, description)
    last_at_depth: dict[int, float] = {}
    for index, (part, depth) in enumerate(rows):
        x, y = 14 + depth * INDENT, 8 + ROW * index + ROW / 2
        if depth:
            parent = x - INDENT + 5
            canvas.line([(parent, last_at_depth[depth - 1] + 9), (parent, y), (x - 4, y)], width=1)
        last_at_depth[depth] = y
        canvas.text(x, y, part.name, anchor="start", mono=True, size=13, bold=not depth)
        canvas.text(columns[0], y, part.kind, anchor="start", size=13)
        canvas.text(columns[1], y, part.remark, anchor="start", size=12, color="muted")
    return canvas


def flat(part: Part, depth: int) -> list[tuple[Part, int]]:
    return [(part, depth), *(row for below in part.parts for row in flat(below, depth + 1))]
