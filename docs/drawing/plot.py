"""Axes on a canvas: lines and points in units of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from drawing.canvas import Canvas, Point


@dataclass
class Plot:
    """A rectangle of a canvas with an x and a y axis; `log_x` gives a logarithmic one."""

    canvas: Canvas
    x: float
    y: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_x: bool = False

    def axes(
        self,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        x_label: str = "",
        y_label: str = "",
        text: Callable[[float], str] = lambda value: f"{value:g}",
    ) -> None:
        """Both axes, faint lines at the ticks of y, and labels."""
        bottom, right = self.y + self.height, self.x + self.width
        for value in y_ticks:
            _, y = self.at(self.x_range[0], value)
            self.canvas.line([(self.x, y), (right, y)], color="gray", width=1)
            self.canvas.text(self.x - 8, y, text(value), anchor="end", color="muted", size=12)
        for value in x_ticks:
            x, _ = self.at(value, self.y_range[0])
            self.canvas.line([(x, bottom), (x, bottom + 4)], width=1)
            self.canvas.text(x, bottom + 16, text(value), color="muted", size=12)
        self.canvas.line([(self.x, self.y), (self.x, bottom), (right, bottom)], width=1)
        self.canvas.text(self.x + self.width / 2, bottom + 34, x_label, color="muted", size=12)
        self.canvas.text(self.x - 8, self.y - 14, y_label, anchor="start", color="muted", size=12)

    def at(self, x: float, y: float) -> Point:
        """Where a point of the data is on the canvas."""
        along = fraction(x, self.x_range, self.log_x)
        up = fraction(y, self.y_range)
        return self.x + along * self.width, self.y + self.height - up * self.height

    def line(
        self, points: Iterable[Point], *, color: str = "blue-line", dashed: bool = False, width: float = 2
    ) -> None:
        self.canvas.line([self.at(*point) for point in points], color=color, dashed=dashed, width=width)

    def point(self, x: float, y: float, *, color: str = "blue-line", radius: float = 3.5) -> None:
        self.canvas.circle(*self.at(x, y), radius, fill=color)

    def label(self, x: float, y: float, text: str, *, color: str = "ink", anchor: str = "start") -> None:
        self.canvas.text(*self.at(x, y), text, color=color, anchor=anchor, size=13)


def fraction(value: float, bounds: tuple[float, float], logarithmic: bool = False) -> float:
    low, high = bounds
    if logarithmic:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)
