"""Training and validation loss of the three runs of docs/tutorial/03-read-the-curves.md.

Measured on two cores of an AMD EPYC (Zen 4) on 29 November 2026. `train/loss` is the mean of the five logged values
that end at the step.
"""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.plot import Plot

STEPS = range(50, 601, 50)
RUNS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # title: train/loss, val/loss
    "curves: it learns": (
        (3.45, 2.78, 2.52, 2.48, 2.37, 2.17, 2.03, 2.0, 1.88, 1.89, 1.77, 1.77),
        (2.58, 2.34, 2.24, 2.14, 2.08, 1.97, 1.9, 1.82, 1.77, 1.73, 1.69, 1.67),
    ),
    "small: little text": (
        (3.29, 2.5, 2.29, 1.97, 1.76, 1.52, 1.3, 1.11, 1.0, 0.83, 0.7, 0.73),
        (3.1, 2.96, 2.94, 2.86, 2.72, 2.75, 2.76, 2.81, 2.79, 2.82, 2.91, 2.92),
    ),
    "high: learning rate 0.3": (
        (3.59, 4.41, 5.78, 3.77, 3.54, 4.18, 3.81, 3.41, 3.29, 3.39, 3.32, 3.3),
        (3.57, 6.02, 4.73, 3.34, 3.47, 3.98, 3.68, 3.45, 3.37, 3.38, 3.26, 3.23),
    ),
}
LOW, HIGH = 0.0, 6.5  # nats per token
WIDTH, LEFT, GAP = 185, 44, 38


def draw() -> Canvas:
    canvas = Canvas(
        720,
        255,
        "Curves of three runs",
        "Both losses fall together; train/loss falls while val/loss rises; both stay high and jump.",
    )
    for index, (title, (train, val)) in enumerate(RUNS.items()):
        x = LEFT + index * (WIDTH + GAP)
        plot = Plot(canvas, x, 62, WIDTH, 150, (0, 600), (LOW, HIGH))
        plot.axes((0, 200, 400, 600), range(7), x_label="step")
        canvas.text(x, 20, title, anchor="start")
        plot.line(zip(STEPS, train, strict=True), color="blue-line")
        plot.line(zip(STEPS, val, strict=True), color="red-line", dashed=True)
    for x, color, text, dashed in (
        (LEFT, "blue-line", "train/loss", False),
        (LEFT + 110, "red-line", "val/loss", True),
    ):
        canvas.line([(x, 42), (x + 24, 42)], color=color, dashed=dashed, width=2)
        canvas.text(x + 30, 42, text, anchor="start", color="muted", size=12)
    return canvas
