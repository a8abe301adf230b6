"""The multipliers of five built-in schedules over a run, computed by the components."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.plot import Plot
from nanogpt_kit.components.schedule.constant import Constant
from nanogpt_kit.components.schedule.cosine import Cosine
from nanogpt_kit.components.schedule.inverse_sqrt import InverseSqrt
from nanogpt_kit.components.schedule.linear import Linear
from nanogpt_kit.components.schedule.wsd import WSD

STEPS, WARMUP = 1000, 100
CURVES = (  # name, schedule, colour, where its label is
    ("constant", Constant(warmup_steps=WARMUP), "yellow-line", (395, 1.09)),
    ("inverse_sqrt", InverseSqrt(warmup_steps=WARMUP), "red-line", (130, 0.42)),
    ("wsd", WSD(warmup_steps=WARMUP), "green-line", (905, 0.72)),
    ("cosine", Cosine(warmup_steps=WARMUP), "blue-line", (430, 0.85)),
    ("linear", Linear(warmup_steps=WARMUP), "violet-line", (640, 0.19)),
)


def draw() -> Canvas:
    canvas = Canvas(
        560, 330, "Schedules", "The multiplier of the learning rate in each step of a run, for five schedules."
    )
    plot = Plot(canvas, 60, 44, 470, 232, (0, STEPS), (0, 1.15))
    plot.axes((0, 100, 250, 500, 750, 1000), (0, 0.25, 0.5, 0.75, 1), "step", "multiplier of the learning rate")
    for name, curve, color, at in CURVES:
        steps = (*range(0, STEPS, 10), STEPS - 1)
        plot.line([(step, curve.multiplier(step, STEPS)) for step in steps], color=color)
        plot.label(*at, name, color=color)
    return canvas
