"""How the validation split is cut into windows, so that each token except the first is a target once."""

from __future__ import annotations

import numpy as np

from drawing.canvas import Canvas
from nanogpt_kit.data.batches import evaluation_batches
from nanogpt_kit.data.split import Split

TEXT, BLOCK = "to be or not", 4
CELL = 42


def draw() -> Canvas:
    canvas = Canvas(
        640,
        268,
        "Evaluation of a whole split",
        "Windows that do not overlap: each token but the first is a target once.",
    )
    left = 108
    canvas.text(left - 12, 38, "split", anchor="end", size=13)
    for index, character in enumerate(TEXT):
        canvas.box(left + index * CELL, 20, CELL - 4, 34, character.replace(" ", "␣"), mono=True, fill="gray")
    split = Split(np.frombuffer(TEXT.encode(), np.uint8), np.array([0]), has_eot=False)
    for row, batch in enumerate(evaluation_batches(split, BLOCK, 1)):
        y = 84 + row * 56
        canvas.text(left - 12, y + 17, f"window {row + 1}", anchor="end", size=13)
        start = int(batch.starts[0])
        for offset, target in enumerate(batch.targets[0].tolist()):
            x = left + (start + offset + 1) * CELL
            if target >= 0:
                canvas.box(x, y, CELL - 4, 34, chr(target).replace(" ", "␣"), mono=True, fill="green")
        read = left + start * CELL
        canvas.rectangle(read, y + 38, 4 * CELL - 4, 4, fill="blue-line")
    canvas.text(
        left,
        256,
        "green: the targets of a window; blue line: the tokens that it reads",
        color="muted",
        size=12,
        anchor="start",
    )
    return canvas
