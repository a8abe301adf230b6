"""Differences with their intervals and verdicts: the table of docs/records/README.md as a picture."""

from __future__ import annotations

import re
from pathlib import Path

from drawing.canvas import Canvas
from drawing.plot import Plot

RECORDS = Path(__file__).parents[2] / "records" / "README.md"
ROW = re.compile(
    r"^\| (.+?) \| .*? \| ([+-][\d.]+) \| (-?[\d.]+) to (-?[\d.]+) \| .*? \| (better|worse|undecided) \|", re.M
)
COLORS = {"better": "green-line", "worse": "red-line", "undecided": "line"}
HEIGHT = 40  # of a row


def draw() -> Canvas:
    rows = ROW.findall(RECORDS.read_text(encoding="utf-8"))
    assert len(rows) == 4, rows
    canvas = Canvas(
        720, len(rows) * HEIGHT + 92, "Four changes with their verdicts", "Differences of val/loss with 95% intervals."
    )
    plot = Plot(canvas, 150, 30, 450, len(rows) * HEIGHT, (-0.25, 0.45), (0, len(rows)))
    plot.axes([-0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4], [], "val/loss, change minus base: five paired seeds")
    plot.line([(0, 0), (0, len(rows))], color="muted", dashed=True, width=1)
    for index, (name, difference, low, high, verdict) in enumerate(rows):
        y = len(rows) - index - 0.5
        color = COLORS[verdict]
        plot.line([(float(low), y), (float(high), y)], color=color, width=3)
        plot.point(float(difference), y, color=color, radius=5)
        middle = plot.at(0, y)[1]
        canvas.text(136, middle, name, anchor="end", size=13)
        canvas.text(612, middle, verdict, anchor="start", size=13, color=color if verdict != "undecided" else "muted")
    return canvas
