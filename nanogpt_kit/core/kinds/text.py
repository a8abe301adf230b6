"""Kinds from text to tokens: dataset, tokenizer."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field

from nanogpt_kit.core.kinds.marked_text import MarkedText, TokenBytes, spans_of_pieces
from nanogpt_kit.core.options import Component, PathStr

if TYPE_CHECKING:
    import numpy as np


# One that is too long for memory comes in parts, and can be iterated again; one that counts in part is a MarkedText.
Document = str | Iterable[str] | MarkedText


class Dataset(Component):
    """Yields documents, which are tokenized and written when a run prepares its data.

    A dataset of tokens implements `tokens` instead, and perhaps `vocabulary`, if their tokenizer was learnt.
    """

    kind: ClassVar[str] = "dataset"
    proportion_options: ClassVar[frozenset[str]] = frozenset()  # of it and of its tables: those that decide no text

    @property
    def splits(self) -> tuple[str, ...]:
        """`train` and `val`, and perhaps `test`, which is used only where an experiment names it."""
        return ("train", "val")

    @property
    def has_own_splits(self) -> bool:
        """Whether its source is already split. Then a text may be in two splits; those are counted and reported."""
        return True

    @abstractmethod
    def documents(self, split: str) -> Iterator[Document]:
        """The documents of a split, always in the same order. Raises KitError for text it cannot read."""

    def documents_with_split(self) -> Iterator[tuple[str, Document]]:
        """Every document of every split, once, with its split. Where splits follow each other, `train` comes last."""
        for split in order_train_last(self.splits):
            for document in self.documents(split):
                yield split, document

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of everything that decides the documents: contents, not paths. Called at every start."""

    def check_source(self) -> None:
        """Raises KitError where the source is missing, and logs what is read of it. Called before anything is built.

        It uses no network, and need not read the text.
        """

    @property
    def sources(self) -> Mapping[str, Dataset]:
        """The datasets that it consists of, by name: each window has tokens of one of them. Empty: it is one source.

        Each split has the tokens of one after the other. No source has sources itself.
        """
        return {}

    def proportions(self, windows: Mapping[str, int]) -> Mapping[str, float | Fraction]:
        """How the training windows are distributed among the sources, in any unit; `windows` are those in train."""
        return windows

    def pass_faults(self, taken: Mapping[str, int], windows: Mapping[str, int]) -> Mapping[str, str]:
        """Why a run is refused that trains on the text of a source more often than the options allow, by option.

        `taken` are the windows that the run takes from each source, `windows` those that its train split has.
        """
        return {}

    def text_bytes(self) -> int | None:
        """The size of the text of all splits, if it is known without reading it; else None."""
        return None

    def tokens(self, split: str) -> Iterator[np.ndarray] | None:
        """The ids of a split in chunks (n,), if the dataset is tokenized; `documents` is not called then. Else None."""
        return None

    def token_count(self) -> int | None:
        """The number of tokens in all splits, if it is known without reading them; else None."""
        return None

    def token_location(self, split: str, index: int) -> str:
        """The location of token `index` (from 0) of a split, for messages."""
        return f"token {index} of {split}"

    def vocabulary(self) -> Mapping[str, Any] | None:
        """The state that restores the learnt tokenizer of `tokens`; see `Encoder.state`. Else None."""
        return None


def order_train_last(splits: Iterable[str]) -> list[str]:
    """Splits in the order of their names, `train` last: duplicates are looked up in the smaller splits."""
    return sorted(splits, key=lambda split: split == "train")


@dataclass(frozen=True, kw_only=True)
class TextContext:
    """The text that a tokenizer may learn from."""

    splits: tuple[str, ...]
    documents: Callable[[str], Iterator[str]]  # of a split; long ones come in parts


class Stream(Protocol):
    """Decodes token by token: all it returns, joined, equals `Encoder.decode` of all tokens."""

    def add(self, token: int) -> str:
        """The text that is certain now, whatever follows, and was not returned before."""

    def rest(self) -> str:
        """The text that was uncertain, once nothing follows."""


class ByteStream:
    """The stream of an encoder whose tokens stand for the same bytes in every context."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self.characters.decode(self.encoder.decode_bytes([token]))

    def rest(self) -> str:
        return self.characters.decode(b"", final=True)


class Encoder(ABC):
    """A built tokenizer. `state` and `Tokenizer.restore` save it in data folders and checkpoints and load it."""

    is_expensive: ClassVar[bool] = True  # encoding text costs more than sending it to another process

    vocab_size: int
    eot_id: int | None  # end-of-text token, written after each document; None for none

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One array of ids, all in [0, vocab_size), for each text. Raises KitError for text it cannot encode."""

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids` as a whole text; special tokens have none.

        Where `stream` is not overridden, they must be the bytes of each id in turn.
        """

    def last_safe_cut(self, text: str) -> int:
        """The last index at which the beginning of a document may be cut: both sides encode to the ids of the whole.

        Long documents are encoded in such parts; 0 where no safe index is known.
        """
        return 0

    def count_unknown(self, text: str, ids: np.ndarray) -> int:
        """How many characters or tokens of `text` are unknown, so that its `ids` do not represent them."""
        return 0

    def token_spans(self, text: str, ids: np.ndarray) -> np.ndarray:
        """(n, 2) int64: for each of the `ids` of `text`, its characters from the first to past the last.

        A token of some bytes of a character stands for that character, a token without text for none. An encoder whose
        tokens do not have the bytes of `text`, each in turn, overrides it. Raises KitError where they do not.
        """
        return spans_of_pieces(text, [*map(self._token_bytes.__getitem__, ids.tolist())])

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self.decode_bytes)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream(self, before: Sequence[int] = ()) -> Stream:
        """Decodes the text after the tokens `before` while it is generated.

        An encoder whose tokens stand for different bytes in different contexts overrides it.
        """
        return ByteStream(self)

    def state(self) -> dict[str, Any]:
        """What was learnt from the text, as JSON values; empty where the options decide everything."""
        return {}


class Tokenizer(Component):
    """Builds an encoder, learnt from the text or from its options alone."""

    kind: ClassVar[str] = "tokenizer"
    location_options: ClassVar[frozenset[str]] = frozenset({"from_run"})  # options that say where, and not what
    from_run: PathStr | None = Field(
        None, min_length=1, description="run whose vocabulary is used, as for fine-tuning it; omitted: build a new one"
    )

    @abstractmethod
    def build(self, ctx: TextContext) -> Encoder: ...

    def known_vocab_size(self) -> int | None:
        """The size of the vocabulary where the options alone decide it; None where the text does."""
        return None

    def fingerprint(self) -> str:
        """A hash of what decides the tokens besides the options, such as the contents of a file that they name."""
        return ""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> Encoder:
        """The encoder whose `state()` this is."""
