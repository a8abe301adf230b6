"""Seconds of a run with and without compiling, from the measurements that stand in compile_decision.py."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.plot import Plot

EAGER, COMPILED = 0.0421, 0.0240  # seconds of the passes of a step at 128 wide, 4 blocks, bf16, Zen 4
COLD, WARM = 29.0, 3.0  # seconds to compile these 4 blocks, with an empty cache and with a warm one
STEPS = 3000


def draw() -> Canvas:
    canvas = Canvas(
        560, 330, "When compiling pays", "Compiling costs seconds at the beginning and saves some in every step."
    )
    plot = Plot(canvas, 60, 44, 470, 232, (0, STEPS), (0, 130))
    plot.axes((0, 500, 1000, 1500, 2000, 2500, 3000), (0, 25, 50, 75, 100, 125), "steps", "seconds")
    plot.line([(0, 0), (STEPS, EAGER * STEPS)], color="red-line")
    plot.line([(0, COLD), (STEPS, COLD + COMPILED * STEPS)], color="blue-line")
    plot.line([(0, WARM), (STEPS, WARM + COMPILED * STEPS)], color="green-line")
    for cost, color in ((COLD, "blue-line"), (WARM, "green-line")):
        steps = cost / (EAGER - COMPILED)
        plot.point(steps, EAGER * steps, color=color)
    plot.label(2150, 113, "not compiled", color="red-line", anchor="end")
    plot.label(60, 60, "compiled, empty cache", color="blue-line")
    plot.label(1760, 35, "compiled, warm cache", color="green-line")
    return canvas
