"""A run that is killed and resumed takes the same steps with the same batches as one that was never killed."""

from __future__ import annotations

from drawing.canvas import Canvas

CELL, LEFT = 54, 110


def draw() -> Canvas:
    canvas = Canvas(
        660, 290, "Exact resume", "The three steps after the checkpoint are taken again, with the same batches."
    )
    rows = (("never killed", range(10), 40), ("killed", range(7), 122), ("resumed", range(4, 10), 204))
    for name, steps, y in rows:
        canvas.text(LEFT - 14, y + 20, name, anchor="end", size=13)
        for step in steps:
            lost = name == "killed" and step >= 4
            fill = "gray" if lost else "green" if name == "resumed" else "blue"
            canvas.box(LEFT + step * CELL, y, CELL - 6, 40, f"b{step}", fill=fill, mono=True, size=13, dashed=lost)
    canvas.text(LEFT + 5 * CELL, 18, "the batch of each step, a function of its number", color="muted", size=12)
    x = LEFT + 4 * CELL - 3
    canvas.line([(x, 108), (x, 196)], color="green-line", width=3)
    canvas.text(x - 10, 184, "checkpoint of step 4", color="green-line", size=12, anchor="end")
    x = LEFT + 7 * CELL
    canvas.line([(x, 114), (x + 18, 132)], color="red-line", width=3)
    canvas.line([(x, 132), (x + 18, 114)], color="red-line", width=3)
    canvas.text(x + 28, 123, "killed", color="red-line", size=12, anchor="start")
    canvas.text(x + 28, 150, "lost, and taken again", color="muted", size=12, anchor="start")
    canvas.text(LEFT + 5 * CELL, 266, "the same weights at the end, bit for bit", color="muted", size=12)
    return canvas
