"""Windows of frequent tokens first: each epoch goes from easy to hard.

A window is easy where many of its tokens are among the most frequent ones of the text. Chance, by the seed, shifts its
place.

Source: Bengio et al. 2009, "Curriculum Learning" (ICML), whose language model first learns from the windows of frequent
words alone.
"""

from __future__ import annotations

import numpy as np

from nanogpt_kit.api import Field, Order, OrderContext, computed_once

CHUNK_TOKENS = 2**24  # read at once


class EasyFirst(Order):
    frequent: int = Field(10, ge=1, description="number of the most frequent tokens, which are easy")
    noise: float = Field(0.1, ge=0, description="largest random addition to a window's fraction of easy tokens")

    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        ranking = computed_once(ctx.tokens, (self, ctx.block_size, ctx.seed), lambda: self.ranking(ctx))
        places = ctx.first_window + np.arange(ctx.batch_windows)  # counted over all epochs
        return ranking[places % len(ranking)] * ctx.block_size

    def ranking(self, ctx: OrderContext) -> np.ndarray:
        """(n_windows,) int64: the windows of the text, the easiest first."""
        n_windows = (ctx.n_tokens - 1) // ctx.block_size  # each needs one more token as target
        text = ctx.tokens[: n_windows * ctx.block_size].reshape(n_windows, ctx.block_size)
        chunks = np.array_split(text, -(-text.size // CHUNK_TOKENS))  # the text may be larger than the memory
        counts = np.zeros(1 + max(int(chunk.max()) for chunk in chunks), dtype=np.int64)
        for chunk in chunks:
            counts += np.bincount(chunk.ravel(), minlength=len(counts))
        is_easy = np.zeros(len(counts), dtype=bool)
        is_easy[np.argsort(-counts, kind="stable")[: self.frequent]] = True
        easy = np.concatenate([is_easy[chunk].mean(axis=1) for chunk in chunks])
        return np.argsort(-easy - self.noise * np.random.default_rng(ctx.seed).random(n_windows), kind="stable")
