"""Windows at random positions, drawn with replacement, as in nanoGPT."""

from __future__ import annotations

import numpy as np

from nanogpt_kit.api import Order, OrderContext


class Random(Order):
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        generator = np.random.default_rng([ctx.seed, step])
        return generator.integers(0, ctx.n_tokens - ctx.block_size, size=ctx.batch_windows)
