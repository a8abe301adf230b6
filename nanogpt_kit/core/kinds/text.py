"""Kinds from text to batches: dataset, tokenizer, order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nanogpt_kit.core.options import Component

if TYPE_CHECKING:
    import numpy as np


class Dataset(Component):
    """Yields documents; the core tokenizes and writes them.

    `splits` names what it has: `train` and `val`, and perhaps `test`, which nothing looks at unless asked.
    """

    kind: ClassVar[str] = "dataset"
    splits: ClassVar[tuple[str, ...]] = ("train", "val")

    @abstractmethod
    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, in an order that never changes. Raises KitError for text it cannot read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash over everything that decides the documents: contents, not paths."""


@dataclass(frozen=True, kw_only=True)
class TextContext:
    """What a tokenizer may learn from."""

    splits: tuple[str, ...]
    documents: Callable[[str], Iterator[str]]


class Encoder(ABC):
    """A tokenizer at work. `state` and `Tokenizer.restore` carry it through data folders and checkpoints."""

    vocab_size: int
    eot_id: int | None  # written after each document, where there is one

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of ids, all in [0, vocab_size), for each text. Raises KitError for text it cannot encode."""

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; special tokens have none."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def state(self) -> dict[str, Any]:
        """What was learnt from the text, as JSON values; empty where the options say it all."""
        return {}


class Tokenizer(Component):
    """Makes an encoder, by learning from the text or from its options alone."""

    kind: ClassVar[str] = "tokenizer"

    @abstractmethod
    def build(self, ctx: TextContext) -> Encoder: ...

    def known_vocab_size(self) -> int | None:
        """How many tokens there are, where the options alone decide it; None where the text does."""
        return None

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> Encoder:
        """The encoder whose `state()` this is."""


@dataclass(frozen=True, kw_only=True)
class OrderContext:
    n_tokens: int  # in the split
    block_size: int
    batch_windows: int  # windows of one optimizer step, over all ranks
    seed: int


class Order(Component):
    """Which windows each step sees: a pure function, so that resuming is arithmetic."""

    kind: ClassVar[str] = "order"

    @abstractmethod
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        """(batch_windows,) int64: where each window starts, at most n_tokens - block_size - 1."""
