"""Loss curves of two arms over three seeds: the values of docs/records/curves.toml as a picture."""

from __future__ import annotations

from pathlib import Path

import tomli

from drawing.canvas import Canvas
from drawing.plot import Plot

RECORD = Path(__file__).parents[2] / "records" / "curves.toml"
COLORS = {"learned": "blue-line", "rope": "violet-line"}


def draw() -> Canvas:
    record = tomli.loads(RECORD.read_text(encoding="utf-8"))
    canvas = Canvas(
        720, 330, "Loss curves of two arms", "Validation loss of three seeds with learned, and with rotary positions."
    )
    plot = Plot(canvas, 60, 30, 530, 230, (0, 1500), (1.2, 2.8))
    plot.axes([0, 500, 1000, 1500], [1.2, 1.6, 2.0, 2.4, 2.8], "step", "val/loss", text=lambda value: f"{value:g}")
    for arm, color in COLORS.items():
        runs = record[arm]["values"]
        for values in runs:
            points = [(step, value) for step, value in zip(record["steps"], values, strict=True) if value <= 2.8]
            plot.line(points, color=color, width=1.3)
        last = sum(values[-1] for values in runs) / len(runs)
        plot.label(1520, last, f"{arm} {last:.3f}", color=color)
    return canvas
