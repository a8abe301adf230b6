"""How `learned` and `rope` give the same token another vector at each position."""

from __future__ import annotations

import math

from drawing.canvas import Canvas

CENTER_Y, UNIT = 140, 62
TOKEN = (1.0, 0.5)  # of the worked example of the page, as the positions below
POSITIONS = ((0.2, -0.4), (-0.2, 0.3), (0.1, 0.6))


def draw() -> Canvas:
    canvas = Canvas(
        620,
        270,
        "Two ways to encode positions",
        "Left: a vector for the position is added to that of the token. Right: the vector is rotated by an angle for "
        "each position.",
    )
    left = (60.0, 195.0)
    canvas.text(150, 18, "learned: added", bold=True)
    axes(canvas, left, right=200, up=150)
    token = at(left, TOKEN, 105)
    canvas.arrow(left, token, color="blue-line", width=2.5)
    canvas.text(token[0] - 66, token[1] + 12, "token", color="blue-line", size=13)
    for index, (x, y) in enumerate(POSITIONS):
        end = at(left, (TOKEN[0] + x, TOKEN[1] + y), 105)
        canvas.arrow(token, end, color="green-line")
        side = "end" if x < 0 else "start"
        canvas.text(end[0] + (-6 if x < 0 else 6), end[1] - 4, f"position {index}", anchor=side, size=12)
    center = (450.0, float(CENTER_Y))
    canvas.text(450, 18, "rope: rotated", bold=True)
    circle = [
        (
            center[0] + UNIT * 1.25 * math.cos(step / 32 * math.pi),
            center[1] - UNIT * 1.25 * math.sin(step / 32 * math.pi),
        )
        for step in range(65)
    ]
    canvas.line(circle, color="gray", width=1)
    for position in range(5):
        angle = float(position)  # the first pair of features rotates by one radian a position
        end = at(center, (math.cos(angle), math.sin(angle)), UNIT * 1.25)
        canvas.arrow(center, end, color="blue-line", width=2)
        x, y = at(center, (math.cos(angle), math.sin(angle)), UNIT * 1.55)
        canvas.text(x, y, str(position), size=13)
    canvas.text(450, 254, "1 radian for each position", color="muted", size=12)
    canvas.text(150, 254, "the same token at three positions", color="muted", size=12)
    return canvas


def at(origin: tuple[float, float], point: tuple[float, float], unit: float) -> tuple[float, float]:
    return origin[0] + point[0] * unit, origin[1] - point[1] * unit


def axes(canvas: Canvas, origin: tuple[float, float], right: float, up: float) -> None:
    canvas.line([(origin[0], origin[1] - up), origin, (origin[0] + right, origin[1])], color="gray", width=1)
