"""Kinds from text to batches: dataset, tokenizer, order."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field

from nanogpt_kit.core.options import Component, PathStr

if TYPE_CHECKING:
    import numpy as np


Document = str | Iterable[str]  # one that is too long to hold comes in pieces, and can be gone through again


class Dataset(Component):
    """Yields documents; the core tokenizes and writes them.

    One that holds tokens already gives `tokens` instead, and perhaps the `vocabulary` that its tokenizer had learnt.
    """

    kind: ClassVar[str] = "dataset"

    @property
    def splits(self) -> tuple[str, ...]:
        """`train` and `val`, and perhaps `test`, which nothing looks at unless asked."""
        return ("train", "val")

    @property
    def has_own_splits(self) -> bool:
        """Whether others have split it, so that a text may be in two splits: such ones are counted and reported."""
        return True

    @abstractmethod
    def documents(self, split: str) -> Iterator[Document]:
        """The documents of a split, in an order that never changes. Raises KitError for text it cannot read."""

    def documents_with_split(self) -> Iterator[tuple[str, Document]]:
        """Every document of every split, once, with its split; `train` comes last where splits follow each other."""
        for split in train_last(self.splits):
            for document in self.documents(split):
                yield split, document

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash over everything that decides the documents: contents, not paths. Asked at every start."""

    def text_bytes(self) -> int | None:
        """How much text there is, over all splits and as far as can be told at once; None where it cannot."""
        return None

    def tokens(self, split: str) -> Iterator[np.ndarray] | None:
        """The ids of a split in pieces (n,), where the dataset is tokenized already; its text is not asked for then."""
        return None

    def token_count(self) -> int | None:
        """How many `tokens` there are, over all splits and as far as can be told at once; None where it cannot."""
        return None

    def token_place(self, split: str, index: int) -> str:
        """Where the token number `index` (from 0) of `tokens` stands, for messages."""
        return f"token {index} of {split}"

    def vocabulary(self) -> Mapping[str, Any] | None:
        """The state that restores the tokenizer of `tokens`, where that one learns; see `Encoder.state`."""
        return None


def train_last(splits: Iterable[str]) -> list[str]:
    """The largest split after those that it is compared with."""
    return sorted(splits, key=lambda split: split == "train")


@dataclass(frozen=True, kw_only=True)
class TextContext:
    """What a tokenizer may learn from."""

    splits: tuple[str, ...]
    documents: Callable[[str], Iterator[str]]  # of a split; long ones come in pieces


class Stream(Protocol):
    """Decodes a text token by token: all that it returns, joined, is what `Encoder.decode` makes of the whole."""

    def add(self, token: int) -> str:
        """What is certain now, whatever follows, and was not returned before."""

    def rest(self) -> str:
        """What was uncertain, where nothing follows."""


class ByteStream:
    """The stream of tokens that stand for the same bytes wherever they are."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self.characters.decode(self.encoder.decode_bytes([token]))

    def rest(self) -> str:
        return self.characters.decode(b"", final=True)


class Encoder(ABC):
    """A tokenizer at work. `state` and `Tokenizer.restore` carry it through data folders and checkpoints."""

    is_expensive: ClassVar[bool] = True  # whether encoding text costs more than handing it to another process

    vocab_size: int
    eot_id: int | None  # written after each document, where there is one

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of ids, all in [0, vocab_size), for each text. Raises KitError for text it cannot encode."""

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, as a whole text; special tokens have none."""

    def cut(self, text: str) -> int:
        """Where the beginning of a document may be cut, as late as can be: both sides encode to the ids of the whole.

        Long documents are encoded in such pieces; 0 where no place is known to be good.
        """
        return 0

    def unknown(self, text: str, ids: np.ndarray) -> int:
        """How many characters or tokens of `text` its `ids` do not stand for."""
        return 0

    def decode(self, ids: Iterable[int]) -> str:
        """Text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream(self, before: Sequence[int] = ()) -> Stream:
        """Decodes the text that follows the tokens `before` as it is made.

        A tokenizer whose tokens mean other bytes beside other tokens has to say how.
        """
        return ByteStream(self)

    def state(self) -> dict[str, Any]:
        """What was learnt from the text, as JSON values; empty where the options say it all."""
        return {}


class Tokenizer(Component):
    """Makes an encoder, by learning from the text or from its options alone."""

    kind: ClassVar[str] = "tokenizer"
    location_options: ClassVar[frozenset[str]] = frozenset(
        {"from_run"}
    )  # options that say where something is, not what
    from_run: PathStr | None = Field(
        None, min_length=1, description="a run whose vocabulary to take, as for training on from it; left out: own"
    )

    @abstractmethod
    def build(self, ctx: TextContext) -> Encoder: ...

    def known_vocab_size(self) -> int | None:
        """How many tokens there are, where the options alone decide it; None where the text does."""
        return None

    def fingerprint(self) -> str:
        """A hash over what decides the tokens besides the options, such as the contents of a file that they name."""
        return ""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> Encoder:
        """The encoder whose `state()` this is."""


@dataclass(frozen=True, kw_only=True)
class OrderContext:
    n_tokens: int  # in the split
    block_size: int
    batch_windows: int  # windows of one optimizer step, over all ranks
    seed: int
    documents: np.ndarray | None = (
        None  # (n_documents,) int64, ascending: where the first token of each is; a memory map
    )


class Order(Component):
    """Which windows each step sees: a pure function, so that resuming is arithmetic."""

    kind: ClassVar[str] = "order"
    at_documents: bool = Field(
        False, description="whether each window moves on to the first document that begins within it"
    )

    @abstractmethod
    def starts(self, step: int, ctx: OrderContext) -> np.ndarray:
        """(batch_windows,) int64: where each window starts, at most n_tokens - block_size - 1."""
