"""Documents of which only some spans count, and which characters of a text its tokens stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING

from nanogpt_kit.core.errors import Fault, KitError

if TYPE_CHECKING:
    import numpy as np

TOKENS_WITHOUT_TEXT = (
    "the tokenizer changes text and does not say which of it its tokens stand for, so that a marked document cannot be "
    "used; choose another tokenizer, or override Encoder.token_spans"
)
SHOWN_CHARACTERS = 40  # of a document, in messages


@dataclass(frozen=True)
class MarkedText:
    """A document of which only some spans count: the loss leaves out the tokens of all other text.

    A token counts where any of its text is in a span, and the end-of-text token where the last span reaches the end.
    Raises KitError where the spans are not in order, overlap, or leave the text.
    """

    text: str
    counted: tuple[tuple[int, int], ...]  # (first, end) in characters; an empty span at the end counts the end-of-text

    def __post_init__(self) -> None:
        try:
            spans = tuple((index(first), index(end)) for first, end in self.counted)
        except (TypeError, ValueError):
            raise self._error(f"should be pairs of characters (first, end), got {self.counted!r}") from None
        for (_, before), (first, end) in pairwise([(0, 0), *spans]):
            if not before <= first <= end <= len(self.text):
                rule = f"in order, without overlap, and within its {len(self.text):,} characters"
                raise self._error(f"should be {rule}; ({first}, {end}) follows character {before}")
        object.__setattr__(self, "counted", spans)

    def _error(self, message: str) -> KitError:
        return KitError(f"the spans of the document that begins with {self.text[:SHOWN_CHARACTERS]!r} {message}")

    @classmethod
    def of_parts(cls, parts: Iterable[tuple[str, bool]]) -> MarkedText:
        """From consecutive (text, it counts), such as `[("2 + 2 =", False), (" 4", True)]`."""
        texts, spans, end = [], [], 0
        for text, counts in parts:
            first, end = end, end + len(text)
            texts.append(text)
            if counts:
                spans.append((first, end))
        return cls("".join(texts), tuple(spans))

    def __iter__(self) -> Iterator[str]:
        """The text alone, as that of a document in parts."""
        yield self.text

    @property
    def counts_end(self) -> bool:
        """Whether the end-of-text token after the document counts."""
        return bool(self.counted) and self.counted[-1][1] == len(self.text)

    def part(self, first: int, end: int) -> MarkedText:
        """Characters `first` to `end`, with the spans there."""
        spans = ((max(a, first) - first, min(b, end) - first) for a, b in self.counted)
        at_end = len(self.text) - first if end == len(self.text) else -1  # where a span counts although it is empty
        return MarkedText(self.text[first:end], tuple((a, b) for a, b in spans if a < b or a == b == at_end))


class TokenBytes(dict[int, bytes]):
    """The bytes of single tokens, each decoded once: `decode_bytes` takes microseconds for a token."""

    def __init__(self, decode_bytes: Callable[[Iterable[int]], bytes]) -> None:
        self.decode_bytes = decode_bytes

    def __missing__(self, token: int) -> bytes:
        self[token] = raw = self.decode_bytes([token])
        return raw


def spans_of_pieces(text: str, pieces: Sequence[bytes]) -> np.ndarray:
    """(n, 2) the characters of `text` that each piece of its UTF-8 has a byte of. Raises KitError for other pieces."""
    import numpy as np

    raw = text.encode("utf-8")
    if b"".join(pieces) != raw:
        raise KitError(Fault(TOKENS_WITHOUT_TEXT, "tokenizer.use"))
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    if len(raw) == len(text):
        return np.stack([starts, ends], axis=1)
    begins = (np.frombuffer(raw, np.uint8) & 0xC0) != 0x80  # the first byte of a character
    character = np.concatenate([np.cumsum(begins) - 1, [len(text)]])  # of each byte
    return np.stack([character[starts], np.where(ends > starts, character[ends - 1] + 1, character[starts])], axis=1)
