"""Consecutive windows from the beginning of the text to its end, then again: no shuffling.

Source: the readers of llm.c and nanochat, which stream their shards in order (karpathy/llm.c, llmc/dataloader.h).
"""

from __future__ import annotations

import numpy as np

from nanogpt_kit.api import Order, OrderContext


class Sequential(Order):
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        n = (ctx.n_tokens - 1) // ctx.block_size  # windows per epoch; each needs one more token as target
        indices = ctx.first_window + np.arange(ctx.batch_windows)  # counted over all epochs
        return indices % n * ctx.block_size
