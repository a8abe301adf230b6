"""Multipliers at given fractions of the run, with lines between them, or steps: a ramp, a drop, any shape.

Source: optax's piecewise_interpolate_schedule and piecewise_constant_schedule, in fractions of the run in place of
steps.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import model_validator

from nanogpt_kit.api import Field, Schedule, option_error

Fraction = Annotated[float, Field(ge=0, le=1)]
Multiplier = Annotated[float, Field(ge=0)]


class Piecewise(Schedule):
    knots: tuple[tuple[Fraction, Multiplier], ...] = Field(
        min_length=1, description="pairs of a fraction of the run and the multiplier there, in the order of the run"
    )
    shape: Literal["linear", "stepped"] = Field(
        "linear", description="course between two knots: a line, or the multiplier of the earlier one"
    )

    @model_validator(mode="after")
    def check_order(self) -> Self:
        for (before, _), (after, _) in pairwise(self.knots):
            if after <= before:
                raise option_error(
                    "knots", f"the fractions of the run should increase, and {after:g} follows {before:g}"
                )
        return self

    def multiplier(self, step: int, total_steps: float) -> float:
        progress = step / total_steps
        after = bisect_right(self.knots, progress, key=lambda knot: knot[0])  # index of the first knot that is later
        if after in (0, len(self.knots)) or self.shape == "stepped":
            return self.knots[max(0, after - 1)][1]
        (start, low), (end, high) = self.knots[after - 1 : after + 1]
        return low + (high - low) * (progress - start) / (end - start)
