"""Loss by learning rate at two widths, from the table of docs/guide/mup.md."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.plot import Plot

RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
CURVES = (  # label, losses, colour, where the label is
    ("width 32", (2.744, 2.586, 2.538, 2.662, 2.653, 2.636), "blue-line", (1.05e-3, 2.86)),
    ("width 256, gpt2", (2.216, 2.116, 2.137, 2.529, 2.710, 2.943), "red-line", (1.05e-3, 2.29)),
    ("width 256, mup", (2.700, 2.547, 2.490, 2.457, 2.582, 2.629), "green-line", (8.5e-3, 2.34)),
)


def draw() -> Canvas:
    canvas = Canvas(
        580,
        340,
        "Learning rates at two widths",
        "The loss of the wide gpt2 rises steeply above its best rate; that of mup is as flat as at width 32.",
    )
    plot = Plot(canvas, 60, 44, 490, 240, (9e-4, 3.6e-2), (2.0, 3.0), log_x=True)
    plot.axes(RATES, (2.0, 2.2, 2.4, 2.6, 2.8, 3.0), "optimizer.lr", "val/loss after 300 steps")
    for label, losses, color, at in CURVES:
        plot.line(list(zip(RATES, losses, strict=True)), color=color)
        for rate, loss in zip(RATES, losses, strict=True):
            plot.point(rate, loss, color=color, radius=5 if loss == min(losses) else 2.5)
        plot.label(*at, label, color=color)
    return canvas
