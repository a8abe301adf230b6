"""The order of a split of several sources: it decides the source of each window, and asks an order for its place there.

So every order chooses windows within each source as on a dataset of that source alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from pydantic import PrivateAttr

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.kinds import Order, OrderContext, PackedOrder, PackedWindows
from nanogpt_kit.data.packed import packed_windows
from nanogpt_kit.data.quota import QuotaSequence
from nanogpt_kit.data.split import Source, Split


def order_of_sources(order: Order, split: Split, quota: QuotaSequence | None) -> Order:
    """The order of a whole split, given the sources of its windows; `order` itself where the split has no sources."""
    if quota is None:
        return order
    parts = tuple((source, split.of_source(source)) for source in split.sources)
    of_sources = PackedOrderOfSources() if isinstance(order, PackedOrder) else OrderOfSources()
    of_sources._windows = WindowsOfSources(order, quota, parts)
    return of_sources


def checked_starts(order: Order, step: int, ctx: OrderContext, split: Split, of_source: str = "") -> np.ndarray:
    """(batch_windows,) the starts of an order, moved where it says so. Raises RunFailed for one outside the split."""
    starts = order.starts(step, ctx)
    last = ctx.n_tokens - ctx.block_size - 1
    if starts.shape != (ctx.batch_windows,) or starts.min() < 0 or starts.max() > last:
        expected = f"expected {ctx.batch_windows} starts from 0 to {last}"
        returned = f"order {type(order).__name__} returned starts {starts} for step {step}{of_source}"
        raise RunFailed(f"{returned}; {expected}")
    return split.move_to_documents(starts, ctx.block_size) if order.at_documents else starts


@dataclass(frozen=True)
class WindowsOfSources:
    """The windows of each step, as an order chooses them within each source."""

    order: Order
    quota: QuotaSequence
    parts: tuple[tuple[Source, Split], ...]

    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        starts = np.empty(ctx.batch_windows, np.int64)
        for source, split, places, own in self.contexts(ctx):
            name = f" and the source {source.name!r}"
            starts[places] = checked_starts(self.order, step, own, split, name) + source.first
        return starts

    def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
        assert isinstance(self.order, PackedOrder)
        starts, lengths, rows = [], [], []
        for source, _, places, own in self.contexts(ctx):
            packed = packed_windows(self.order, step, own, f" and the source {source.name!r}")
            starts.append(packed.starts + source.first)
            lengths.append(packed.lengths)
            rows.append(places[packed.rows])
        by_row = np.argsort(np.concatenate(rows), kind="stable")
        return PackedWindows(*(np.concatenate(column)[by_row] for column in (starts, lengths, rows)))

    def contexts(self, ctx: OrderContext) -> Iterator[tuple[Source, Split, np.ndarray, OrderContext]]:
        """(source, its tokens, the indices of its windows in the step, what its order is asked) of those with windows.

        Its windows are counted over the run as if there were no others.
        """
        sources = self.quota.of_windows(ctx.first_window, ctx.batch_windows)
        for index, (source, split) in enumerate(self.parts):
            places = np.flatnonzero(sources == index)
            if len(places):
                yield (
                    source,
                    split,
                    places,
                    replace(
                        ctx,
                        n_tokens=source.n_tokens,
                        first_window=self.quota.windows_before(index, ctx.first_window),
                        batch_windows=len(places),
                        documents=split.document_starts,
                        tokens=split.tokens,
                    ),
                )


class OrderOfSources(Order):
    """The order of a split of several sources, by an order of windows."""

    _windows: WindowsOfSources = PrivateAttr()

    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        return self._windows.starts(step, ctx)


class PackedOrderOfSources(PackedOrder):
    """The same, by an order that packs pieces."""

    _windows: WindowsOfSources = PrivateAttr()

    def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
        return self._windows.packed(step, ctx)
