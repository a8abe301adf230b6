"""Each window once in an epoch, with a constant stride, so that a few steps cover the whole text evenly.

Change how `starts` follows from the index of a window among all: a pure function, so that a resumed run needs no state.
Source: Weyl 1916, "Über die Gleichverteilung von Zahlen mod. Eins"; the golden ratio spreads most evenly.
"""

import math

import numpy as np

from nanogpt_kit.api import Field, Order, OrderContext


class EvenOrder(Order):
    stride: float = Field(
        0.618034, gt=0, lt=1, description="distance of consecutive windows, as a fraction of the text"
    )

    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        n_windows = (ctx.n_tokens - 1) // ctx.block_size
        stride = max(1, round(self.stride * n_windows))
        while math.gcd(stride, n_windows) > 1:  # so that it meets every window
            stride += 1
        epochs, places = np.divmod(ctx.first_window + np.arange(ctx.batch_windows, dtype=np.int64), n_windows)
        first = (ctx.seed * 7919 % n_windows + epochs * 104729) % n_windows  # another window in each epoch
        indices: np.ndarray = (first + places * stride) % n_windows
        return indices * ctx.block_size
