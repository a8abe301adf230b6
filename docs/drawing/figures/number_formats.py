"""The bits of four number formats, and what they can hold."""

from __future__ import annotations

from drawing.canvas import Canvas

FORMATS = (  # name, bits of the exponent, bits of the fraction, largest number, step after 1
    ("fp32", 8, 23, "3.4e38", "1.2e-7"),
    ("tf32", 8, 10, "3.4e38", "0.001"),
    ("bf16", 8, 7, "3.4e38", "0.008"),
    ("fp16", 5, 10, "65,504", "0.001"),
)
CELL, ROW = 12, 44


def draw() -> Canvas:
    canvas = Canvas(
        660,
        262,
        "Number formats",
        "Each number has a sign, an exponent and a fraction; the two 16-bit formats divide 15 bits differently.",
    )
    left, top = 66, 58
    for column, name in ((left + 32 * CELL + 66, "largest"), (left + 32 * CELL + 150, "step after 1")):
        canvas.text(column, top - 22, name, color="muted", size=12)
    for row, (name, exponent, fraction, largest, step) in enumerate(FORMATS):
        y = top + row * ROW
        canvas.text(left - 12, y + 11, name, anchor="end", mono=True)
        for bit in range(1 + exponent + fraction):
            fill = "red-line" if bit == 0 else "green-line" if bit <= exponent else "blue-line"
            canvas.rectangle(left + bit * CELL, y, CELL - 2, 22, fill=fill, opacity=0.75)
        canvas.text(left + 32 * CELL + 66, y + 11, largest, mono=True, size=13)
        canvas.text(left + 32 * CELL + 150, y + 11, step, mono=True, size=13)
    legend = (("red-line", "sign"), ("green-line", "exponent: how large"), ("blue-line", "fraction: how exact"))
    x = left
    for fill, text in legend:
        canvas.rectangle(x, 238, CELL - 2, CELL - 2, fill=fill, opacity=0.75)
        canvas.text(x + 18, 243, text, anchor="start", color="muted", size=12)
        x += 34 + 7 * len(text)
    return canvas
