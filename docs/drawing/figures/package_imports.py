"""Which room of the package imports which: a matrix that is empty below its diagonal."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.code_facts import imports_between_rooms, rooms

CELL, LEFT, TOP = 27, 120, 104


def draw() -> Canvas:
    names, counts = rooms(), imports_between_rooms()
    size = CELL * len(names)
    canvas = Canvas(
        LEFT + size + 20,
        TOP + size + 40,
        "Imports between the packages of the kit",
        "Each row is a package and each column one that it imports; the number counts the modules that do.",
    )
    for index, name in enumerate(names):
        canvas.text(LEFT - 8, TOP + (index + 0.5) * CELL, name, anchor="end", mono=True, size=12)
        x = LEFT + (index + 0.5) * CELL
        canvas.elements.append(
            f'<text transform="translate({x + 4} {TOP - 8}) rotate(-60)" class="mono" '
            f'style="fill:var(--ink);font-size:12px">{name}</text>'
        )
    for row, name in enumerate(names):
        for column, other in enumerate(names):
            x, y = LEFT + column * CELL, TOP + row * CELL
            count = counts[name, other]
            is_allowed = column > row and other != "components" and (name != "components" or other == "api")
            assert not count or is_allowed, f"{name} imports {other}, which it may not"
            fill = "gray" if row == column else "blue" if count else "paper"
            canvas.rectangle(x + 1, y + 1, CELL - 2, CELL - 2, fill=fill)
            if count:
                canvas.text(x + CELL / 2, y + CELL / 2, str(count), size=11)
    canvas.text(
        LEFT, TOP + size + 22, "rows import columns; the number counts modules", anchor="start", color="muted", size=12
    )
    return canvas
