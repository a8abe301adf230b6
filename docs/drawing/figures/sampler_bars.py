"""The probabilities of five tokens after each sampler, computed by the components."""

from __future__ import annotations

import torch

from drawing.canvas import Canvas
from nanogpt_kit.components.sampler.min_p import MinP
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK
from nanogpt_kit.components.sampler.top_p import TopP
from nanogpt_kit.core.kinds import Sampler

TOKENS = ("the", "a", "an", "no", "or")
LOGITS = (2.0, 1.0, 0.5, 0.0, -1.0)
CHAINS = (  # title, sampler
    ("the model", None),
    ("temperature 0.5", Temperature(value=0.5)),
    ("temperature 2", Temperature(value=2.0)),
    ("top_k, k = 2", TopK(k=2)),
    ("top_p, p = 0.8", TopP(p=0.8)),
    ("min_p, p = 0.2", MinP(p=0.2)),
)
BAR, HEIGHT = 30, 96


def draw() -> Canvas:
    canvas = Canvas(660, 330, "Samplers", "What each sampler makes of the probabilities of five tokens.")
    for index, (title, sampler) in enumerate(CHAINS):
        left, top = 30 + index % 3 * 212, 44 + index // 3 * 166
        canvas.text(left + 5 * BAR / 2, top - 18, title, size=13)
        for column, (token, probability) in enumerate(zip(TOKENS, probabilities(sampler), strict=True)):
            x, height = left + column * BAR, probability * HEIGHT
            canvas.rectangle(x, top + HEIGHT - height, BAR - 5, height, fill="blue-line", opacity=0.75)
            text = f"{probability:.2f}" if probability else "0"
            canvas.text(x + BAR / 2 - 2.5, top + HEIGHT - height - 8, text, size=10, color="muted")
            canvas.text(x + BAR / 2 - 2.5, top + HEIGHT + 12, token, size=12, mono=True)
        canvas.line([(left - 4, top + HEIGHT), (left + 5 * BAR, top + HEIGHT)], width=1)
    return canvas


def probabilities(sampler: Sampler | None) -> list[float]:
    logits = torch.tensor([LOGITS])
    if sampler is not None:
        logits = sampler.transform(logits, torch.tensor([[0]]))
    found: list[float] = logits.softmax(dim=-1)[0].tolist()
    return found
