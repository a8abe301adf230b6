"""Which positions attend to which in a window of six tokens."""

from __future__ import annotations

from drawing.canvas import Canvas

TOKENS = ("To", "be", "or", "not", "to", "be")
CELL = 36


def draw() -> Canvas:
    canvas = Canvas(
        430, 300, "The causal mask", "Each token attends to itself and to the tokens before it: a lower triangle."
    )
    left, top = 90, 60
    for row, query in enumerate(TOKENS):
        y = top + row * CELL
        canvas.text(left - 10, y + CELL / 2, query, anchor="end", mono=True)
        for column, key in enumerate(TOKENS):
            x = left + column * CELL
            if row == 0:
                canvas.text(x + CELL / 2, top - 14, key, mono=True)
            fill = "blue-line" if column <= row else "gray"
            canvas.rectangle(x + 1, y + 1, CELL - 2, CELL - 2, fill=fill, opacity=0.75 if column <= row else 1)
    canvas.text(left + 3 * CELL, 20, "keys: the positions that are read", color="muted", size=12)
    canvas.text(
        left + 6 * CELL + 14,
        top + 3 * CELL,
        "queries:\nthe positions\nthat read",
        color="muted",
        size=12,
        anchor="start",
    )
    return canvas
