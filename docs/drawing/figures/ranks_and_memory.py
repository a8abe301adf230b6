"""What each of two processes holds with ddp and with fsdp."""

from __future__ import annotations

from drawing.canvas import Canvas

LAYERS = ("weights", "gradients", "optimizer state")
FILLS = ("blue-line", "green-line", "violet-line")


def draw() -> Canvas:
    canvas = Canvas(
        640, 316, "ddp and fsdp", "With ddp each process holds everything; with fsdp each holds one half of everything."
    )
    for column, (name, parts) in enumerate((("ddp", 1), ("fsdp", 2))):
        left = 30 + column * 310
        canvas.text(left + 135, 20, name, mono=True, bold=True)
        for rank in range(2):
            x = left + rank * 145
            canvas.box(x, 40, 125, 178)
            canvas.text(x + 62, 58, f"rank {rank}", color="muted", size=12)
            for row, (layer, fill) in enumerate(zip(LAYERS, FILLS, strict=True)):
                y = 74 + row * 46
                canvas.text(x + 12, y + 8, layer, anchor="start", size=12)
                canvas.rectangle(x + 12, y + 20, 101, 14, fill="gray")
                width = 101 / parts
                canvas.rectangle(x + 12 + rank * (width if parts > 1 else 0), y + 20, width, 14, fill=fill, opacity=0.8)
        canvas.arrow((left + 62, 222), (left + 62, 244), (left + 207, 244), (left + 207, 222))
        canvas.arrow((left + 207, 244), (left + 62, 244), (left + 62, 222))
        what = ("gradients are summed", "weights are gathered, layer by layer;\ngradients are summed and divided up")[
            column
        ]
        canvas.text(left + 135, 264, what, color="muted", size=12)
    return canvas
