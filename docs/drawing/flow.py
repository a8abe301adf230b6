"""A chain of stages from top to bottom, each with the definition in the code that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.code_blocks import definition

from drawing.canvas import Canvas

HEIGHT, GAP, WIDTH = 46, 26, 300  # of a box; between two


@dataclass(frozen=True)
class Stage:
    """One box: what happens, where in the code, and what comes out of it."""

    text: str
    path: str = ""  # below nanogpt_kit/
    name: str = ""  # the definition in that file
    result: str = ""  # beside the arrow to the next stage
    fill: str = "paper"


def draw_flow(title: str, description: str, stages: Sequence[Stage]) -> Canvas:
    """Raises AssertionError where a definition is not in its file."""
    canvas = Canvas(720, len(stages) * (HEIGHT + GAP) - GAP + 20, title, description)
    for index, stage in enumerate(stages):
        y = 10 + index * (HEIGHT + GAP)
        box = canvas.box(10, y, WIDTH, HEIGHT, stage.text, fill=stage.fill)
        if stage.path:
            definition(f"nanogpt_kit/{stage.path}", stage.name)
            canvas.text(WIDTH + 30, y + 15, stage.name, anchor="start", mono=True, size=13)
            canvas.text(WIDTH + 30, y + 33, stage.path, anchor="start", mono=True, size=11, color="muted")
        if index + 1 < len(stages):
            x, bottom = box.bottom
            canvas.arrow((x, bottom), (x, bottom + GAP))
            canvas.text(x + 10, bottom + GAP / 2, stage.result, anchor="start", color="muted", size=12)
    return canvas
