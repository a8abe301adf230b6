"""Measurements at several widths whose slopes are known."""

from __future__ import annotations

import dataclasses
from typing import Any

from nanogpt_kit.bench.width_slopes import PlaceScaling, WidthScaling

WIDTHS = (16, 64, 128)


def make_place(name: str, change: float, start: float = 0.0, steps: int = 3) -> PlaceScaling:
    """A place whose features grow by power laws of the width, and whose change grows with each step, too."""
    sizes = tuple(tuple(0.5 * width**start for _ in range(steps + 1)) for width in WIDTHS)
    changes = tuple(tuple(0.25 * step * width**change for step in range(steps + 1)) for width in WIDTHS)
    return PlaceScaling(name, WIDTHS, sizes, changes)


def make_scaling(*places: PlaceScaling, **changes: Any) -> WidthScaling:
    scaling = WidthScaling(
        name="planted",
        n_embd=48,
        widths=WIDTHS,
        seeds=2,
        steps=3,
        warmup_steps=100,
        learning_rate=2e-3,
        batch_tokens=1280,
        has_base_width=False,
        places=places,
        diverged={},
    )
    return dataclasses.replace(scaling, **changes)


EVEN = make_scaling(make_place("input", 0.0), make_place("h.0.attn", -0.0625), make_place("logits", -0.375, -0.5))
UNEVEN = make_scaling(make_place("input", -0.125), make_place("h.0.attn", 1.25, 0.5), make_place("loss", 0.0625))
