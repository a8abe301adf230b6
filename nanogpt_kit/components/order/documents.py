"""Windows of whole documents, as many as fit, chosen by best fit: no document that fits into a window is cut.

Documents longer than block_size are cut into pieces of block_size tokens and a rest. Their lengths are packed once, so
each epoch has the same number of windows. Each epoch has every document once, another distribution of the documents of
equal length among the windows, and another order of the windows and of the documents within them. What no document fits
into is padding.

It keeps 8 bytes for each document, and 16 more for one that is longer than a window.

Source: Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830 (Best-fit Packing).
"""

from __future__ import annotations

import numpy as np

from nanogpt_kit.api import OrderContext, PackedOrder, PackedWindows, computed_once
from nanogpt_kit.components.order.packing import Packing
from nanogpt_kit.components.order.permutation import ROUNDS

ONE_DOCUMENT = np.zeros(1, dtype=np.int64)


class Documents(PackedOrder):
    def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
        packing = packing_of(ctx)
        window, end = ctx.first_window, ctx.first_window + ctx.batch_windows  # counted over all epochs
        parts = []
        while window < end:  # a batch may span several epochs
            epoch, position = divmod(window, packing.n_windows)
            indices = np.arange(position, min(packing.n_windows, position + end - window))
            keys = np.random.SeedSequence([ctx.seed, epoch]).generate_state(2 * ROUNDS, np.uint64)
            starts, lengths, rows = packing.windows(indices, keys)
            parts.append((starts, lengths, rows + (window - ctx.first_window)))
            window += len(indices)
        return PackedWindows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def packing_of(ctx: OrderContext) -> Packing:
    """Packed where it is asked for first."""
    documents = ONE_DOCUMENT if ctx.documents is None else ctx.documents
    options = ctx.n_tokens, ctx.block_size, ctx.has_eot
    return computed_once(documents, (Packing, *options), lambda: Packing(documents, *options))
