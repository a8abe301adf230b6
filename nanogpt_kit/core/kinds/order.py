"""Kind order: which windows of the tokens each step trains on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from nanogpt_kit.core.errors import option_error
from nanogpt_kit.core.options import Component

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class OrderContext:
    """The split and the batches that an order chooses windows for."""

    n_tokens: int  # in the split
    block_size: int
    first_window: int  # the number of windows, over all ranks, in the steps before this one
    batch_windows: int  # windows of this step, over all ranks
    seed: int
    documents: np.ndarray | None = None  # (n_documents,) int64, ascending: index of each first token; a memory map
    tokens: np.ndarray | None = None  # (n_tokens,) the ids; a memory map
    has_eot: bool = False  # an end-of-text token follows each document; the next document opens with it


class Order(Component):
    """Chooses the windows of each step: a pure function of the step, so that a resumed run needs no saved state."""

    kind: ClassVar[str] = "order"
    at_documents: bool = Field(
        False, description="move each window forward to the first document that begins within it"
    )

    @abstractmethod
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        """(batch_windows,) int64: index of the first token of each window, at most n_tokens - block_size - 1."""


@dataclass(frozen=True)
class PackedWindows:
    """Windows made of pieces of the text, each piece of consecutive tokens. What is left of a window is padding."""

    starts: np.ndarray  # (P,) int64: the index of each piece's first token
    lengths: np.ndarray  # (P,) int64, at least 1: its tokens; the target of each is the token after it
    rows: np.ndarray  # (P,) int64, ascending: the index of the piece's window in the batch; each window has a piece


class PackedOrder(Order):
    """An order whose windows are made of several pieces, such as whole documents."""

    @model_validator(mode="after")
    def _begins_with_a_document(self) -> Self:
        if self.at_documents:
            name = type(self).__name__
            message = f"at_documents applies to windows of consecutive tokens, and {name} makes them of pieces"
            raise option_error("at_documents", f"{message}; remove at_documents")
        return self

    @abstractmethod
    def packed(self, step: int, ctx: OrderContext) -> PackedWindows:
        """`batch_windows` windows. A piece lies within one document; those of a window fit into block_size."""

    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        """(batch_windows,) int64: the first token of each window's first piece."""
        packed = self.packed(step, ctx)
        return packed.starts[packed.rows.searchsorted(range(ctx.batch_windows))]
