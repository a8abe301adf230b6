"""The text from its beginning to its end, window after window, over and over: no shuffling at all.

Source: the readers of llm.c and nanochat, which stream their shards in order (karpathy/llm.c, llmc/dataloader.h).
"""

from __future__ import annotations

import numpy as np

from nanogpt_kit.api import Order, OrderContext


class Sequential(Order):
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        n = (ctx.n_tokens - 1) // ctx.block_size  # windows of an epoch; each needs a token after it
        numbers = np.arange(step * ctx.batch_windows, (step + 1) * ctx.batch_windows)  # windows seen before this one
        return numbers % n * ctx.block_size
