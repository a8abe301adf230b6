"""Three pairs of runs, their differences, and the interval of the mean: the example of docs/guide/comparing.md."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.plot import Plot
from nanogpt_kit.comparison.intervals import Sample

SEEDS = (1337, 1338, 1339)
BASE = (2.0663, 2.0621, 2.0581)
CONTENDER = (2.0549, 2.0426, 2.0069)


def draw() -> Canvas:
    canvas = Canvas(
        660, 300, "Paired differences", "Every pair is better, and the interval of the mean difference contains 0."
    )
    left = Plot(canvas, 60, 50, 230, 190, (0.5, 3.5), (2.0, 2.08))
    left.axes((), (2.0, 2.02, 2.04, 2.06, 2.08), "", "val/loss", text=lambda value: f"{value:.2f}")
    right = Plot(canvas, 390, 50, 240, 190, (0.5, 4.5), (-0.1, 0.04))
    right.axes((), (-0.08, -0.04, 0, 0.04), "", "difference: contender minus base", text=lambda value: f"{value:.2f}")
    differences = [after - before for before, after in zip(BASE, CONTENDER, strict=True)]
    for index, (seed, before, after) in enumerate(zip(SEEDS, BASE, CONTENDER, strict=True), start=1):
        left.line([(index, before), (index, after)], color="line", width=1.5)
        left.point(index, before, color="blue-line", radius=5)
        left.point(index, after, color="violet-line", radius=5)
        right.point(index, differences[index - 1], color="green-line", radius=5)
        for plot, bottom in ((left, 2.0), (right, -0.1)):
            x, y = plot.at(index, bottom)
            canvas.text(x, y + 14, str(seed), color="muted", size=12)
    canvas.text(*left.at(0.6, 2.0725), "base", color="blue-line", size=13, anchor="start")
    canvas.text(*left.at(0.6, 2.043), "contender", color="violet-line", size=13, anchor="start")
    sample = Sample.of(differences)
    low, high = sample.interval()
    right.line([(0.5, 0), (4.5, 0)], color="line", width=1.5)
    right.line([(4, low), (4, high)], color="red-line", width=3)
    right.point(4, sample.mean, color="red-line", radius=5)
    x, y = right.at(4, -0.1)
    canvas.text(x, y + 14, "mean, 95%", color="red-line", size=12)
    canvas.text(345, 284, "seeds", color="muted", size=12)
    return canvas
