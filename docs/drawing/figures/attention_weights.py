"""Scores, mask and weights of the worked example of attention: three tokens, two features."""

from __future__ import annotations

import torch

from drawing.canvas import Canvas
from nanogpt_kit.nn.view import View

QUERIES = KEYS = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
CELL = 52


def draw() -> Canvas:
    canvas = Canvas(
        640,
        236,
        "From scores to weights",
        "The scores of three tokens; those of later keys are masked; softmax makes weights of the others, row by row.",
    )
    q, k = torch.tensor(QUERIES), torch.tensor(KEYS)
    scores = q @ k.T / 2**0.5  # (T, S)
    mask = View.causal(torch.arange(3)[None]).mask()[0, 0]  # (T, S)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    titles = ("scores: q · k / √2", "later keys masked", "weights: softmax of rows")
    for index, (title, values) in enumerate(zip(titles, (scores, scores, weights), strict=True)):
        left, top = 30 + index * 208, 56
        canvas.text(left + 1.5 * CELL, 22, title, size=13)
        for row in range(3):
            for column in range(3):
                x, y = left + column * CELL, top + row * CELL
                attends = bool(mask[row, column])
                if index and not attends:
                    canvas.rectangle(x + 1, y + 1, CELL - 2, CELL - 2, fill="gray")
                    continue
                canvas.rectangle(x + 1, y + 1, CELL - 2, CELL - 2, fill="blue")
                if index == 2:
                    weight = float(weights[row, column])
                    height = weight * (CELL - 2)
                    canvas.rectangle(x + 1, y + CELL - 1 - height, CELL - 2, height, fill="blue-line", opacity=0.35)
                canvas.text(x + CELL / 2, y + CELL / 2, f"{float(values[row, column]):.2f}", size=13)
        if index < 2:
            middle = top + 1.5 * CELL
            canvas.arrow((left + 3 * CELL + 12, middle), (left + 200, middle))
    canvas.text(320, 226, "rows: queries 0, 1, 2; columns: keys 0, 1, 2", color="muted", size=12)
    return canvas
