"""Which table of an experiment takes which kind, and which kinds are parts of the model."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any

from drawing.canvas import Canvas
from drawing.code_facts import quickstart
from nanogpt_kit import Experiment
from nanogpt_kit.core import kinds
from nanogpt_kit.core.options import Component

OUTSIDE = {"format"}  # chosen by `import` and `export`


def kinds_in(annotation: Any) -> Iterator[str]:
    if inspect.isclass(annotation) and issubclass(annotation, Component) and "kind" in vars(annotation):
        yield annotation.kind
    for part in typing.get_args(annotation):
        yield from kinds_in(part)


def draw() -> Canvas:
    tables = {name: kind for name, field in Experiment.model_fields.items() for kind in kinds_in(field.annotation)}
    model = type(quickstart().model)
    slots = {name: kind for name, field in model.model_fields.items() for kind in kinds_in(field.annotation)}
    shown = {*tables.values(), *slots.values(), *OUTSIDE}
    assert shown == set(kinds.KINDS), f"not drawn: {set(kinds.KINDS) ^ shown}"
    height = 40 * max(len(tables), len(slots) + 3) + 60
    canvas = Canvas(
        720, height, "Kinds and where they are chosen", "Tables of an experiment, and the slots of the model."
    )
    canvas.text(110, 20, "an experiment file", bold=True)
    canvas.text(590, 20, "the model's slots", bold=True)
    model_box = None
    for index, (name, _) in enumerate(tables.items()):
        field = Experiment.model_fields[name]
        several = typing.get_origin(field.annotation) is tuple or "tuple" in str(field.annotation)
        text = f"[[{name}]]" if several and name != "schedule" else f"[{name}]"
        box = canvas.box(
            20, 40 + 40 * index, 180, 32, text, mono=True, size=13, fill="green" if name == "model" else "blue"
        )
        model_box = box if name == "model" else model_box
    assert model_box is not None
    for index, name in enumerate(slots):
        box = canvas.box(500, 40 + 40 * index, 180, 32, name, mono=True, size=13, fill="green")
        canvas.line([model_box.right, (350, model_box.right[1]), (350, box.left[1]), box.left], head=True, width=1)
    y = 40 + 40 * (len(slots) + 1)
    canvas.box(500, y, 180, 32, "format", mono=True, size=13, fill="gray")
    canvas.text(590, y + 48, "chosen by import and export", color="muted", size=12)
    return canvas
