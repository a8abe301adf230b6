"""Probabilities of three tokens, and the loss as a function of the probability of the target."""

from __future__ import annotations

import math

from drawing.canvas import Canvas
from drawing.plot import Plot

LOGITS = {"a": 2.0, "b": 1.0, "c": 0.0}  # of the worked example of the page


def draw() -> Canvas:
    canvas = Canvas(
        660,
        290,
        "From logits to a loss",
        "Left: softmax of the logits 2, 1 and 0. Right: the loss is minus the logarithm of the target's probability.",
    )
    total = sum(map(math.exp, LOGITS.values()))
    probabilities = {token: math.exp(logit) / total for token, logit in LOGITS.items()}
    bars = Plot(canvas, 60, 40, 190, 180, (0, 3), (0, 1))
    bars.axes([], [0, 0.5, 1], "", "probability")
    for index, (token, p) in enumerate(probabilities.items()):
        x, top = bars.at(index + 0.2, p)
        _, bottom = bars.at(0, 0)
        fill = "green-line" if token == "b" else "blue-line"
        canvas.rectangle(x, top, 38, bottom - top, fill=fill, opacity=0.75)
        canvas.text(x + 19, top - 11, f"{p:.3f}", size=12)
        canvas.text(x + 19, bottom + 16, f"{token}: {LOGITS[token]:.0f}", mono=True, size=13)
    canvas.text(155, 262, "token: logit", color="muted", size=12)
    curve = Plot(canvas, 370, 40, 260, 180, (0, 1), (0, 5))
    curve.axes([0, 0.25, 0.5, 0.75, 1], [0, 1, 2, 3, 4, 5], "probability of the target", "loss in nats")
    curve.line([(p / 200, -math.log(p / 200)) for p in range(2, 201)])
    target = probabilities["b"]
    curve.point(target, -math.log(target), color="green-line", radius=5)
    curve.label(target + 0.05, -math.log(target) + 0.3, f"target b: {-math.log(target):.3f}")
    uniform = 1 / len(LOGITS)
    curve.point(uniform, -math.log(uniform), color="muted", radius=4)
    curve.label(uniform + 0.05, -math.log(uniform) + 0.12, f"equal for all: {-math.log(uniform):.3f}")
    return canvas
