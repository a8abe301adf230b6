"""ALiBi: no positions in the features; each head's scores lose a fixed slope with each token of distance.

Source: Press et al. 2021, arXiv:2108.12409; where n_head is not a power of two, slopes as in the authors' code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanogpt_kit.api import LayerContext, Position, Positional


class ALiBi(Position):
    relative = True
    acts_in_mixers = True

    def build(self, ctx: LayerContext) -> Positional:
        return Slopes(ctx.n_head)


class Slopes(Positional):
    by_head: Tensor  # (H,)

    def __init__(self, n_head: int) -> None:
        super().__init__()
        self.register_buffer("by_head", torch.tensor(alibi_slopes(n_head)), persistent=False)

    def slopes(self) -> Tensor:
        return self.by_head


def alibi_slopes(n_head: int) -> list[float]:
    """2^-1 to 2^-8 for 8 heads; between powers of two, completed by every other slope of the next power."""
    power = 2 ** math.floor(math.log2(n_head))
    series = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-8 * (head + 1) / (2 * power)) for head in range(0, 2 * power, 2)]
    return series + between[: n_head - power]
