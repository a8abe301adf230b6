"""Byte-level BPE of ASCII text: `re` splits it into pieces, and most of them are words whose ids are known already."""

from __future__ import annotations

import functools
import re
from array import array
from collections.abc import Callable, Iterator

import numpy as np
import tiktoken

# Sets of characters in ASCII: white space as in `\s`, and what is neither white space nor a letter or digit.
SPACES, SIGNS = r"\t-\r ", r"\x00-\x08\x0e-\x1f!-/:-@\[-`{-\x7f"

# What parts of the patterns match within ASCII: `re` splits ASCII text faster than tiktoken's engine, which covers all
# of Unicode. Those of GPT-2 together: `re` rejects an alternative without trying it where that begins with a set of
# characters or with a character, which takes 0.83 of the time of ` ?[A-Za-z]++|...` (an AMD EPYC, Zen 4, 2026-11).
ASCII_CLASSES = {
    r" ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": (
        rf"[A-Za-z][A-Za-z]*+| (?:[A-Za-z]++|[{SIGNS}]++|[0-9]++)|[{SIGNS}][{SIGNS}]*+|[0-9][0-9]*+"
        rf"|[{SPACES}]+(?![^{SPACES}])|[{SPACES}]"
    ),
    r"[^\s\p{L}\p{N}]": r"[^\sA-Za-z0-9]",
    r"[^\r\n\p{L}\p{N}]": r"[^\r\nA-Za-z0-9]",
    r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}": "A-Z",
    r"\p{Ll}\p{Lm}\p{Lo}\p{M}": "a-z",
    r"\p{L}": "[A-Za-z]",
    r"\p{N}": "[0-9]",
    "$": r"\Z",
}
VISIBLE_ASCII = frozenset(map(chr, range(ord("!"), 0x7F)))
# Of a text that has other characters too, as a program with a name in a comment. Its ASCII is encoded 1.3 times as fast
# as by tiktoken (an AMD EPYC, Zen 4); with half or twice this length it takes as long.
BLOCK_CHARACTERS = 2048
MAX_PIECE_CHARACTERS, MAX_CACHED_PIECES = 64, 200_000  # of the cache: some 30 MB


class PieceCache(dict[str, bytes]):
    """Pieces of text with the bytes of their ids: most pieces of a text are words that occurred before."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        self.dtype = np.dtype(np.uint16 if encoding.n_vocab <= 2**16 else np.uint32)

    def __missing__(self, piece: str) -> bytes:
        ids = array(self.dtype.char, self.encoding._encode_single_piece(piece)).tobytes()  # without splitting it again
        if len(piece) <= MAX_PIECE_CHARACTERS:
            self[piece] = ids
        return ids


@functools.cache
def ascii_splitter(pattern: str) -> Callable[[str], list[str]]:
    """A function that splits ASCII text into the pieces of `pattern`."""
    for classes, listed in ASCII_CLASSES.items():
        pattern = pattern.replace(classes, listed)
    return re.compile(pattern, re.ASCII).findall


def ascii_blocks(text: str) -> Iterator[str]:
    """A text in blocks that begin at safe borders: consecutive ones are joined where all or none are ASCII."""
    first = end = 0
    is_ascii = True
    for last in (*block_borders(text), len(text)):
        if text[end:last].isascii() != is_ascii:
            if end > first:
                yield text[first:end]
            first, is_ascii = end, not is_ascii
        end = last
    yield text[first:]


def block_borders(text: str) -> Iterator[int]:
    """Indices, at about equal distances, of spaces after a visible character of ASCII; see SAFE_BORDER."""
    at = text.find(" ", BLOCK_CHARACTERS)
    while at > 0:
        if text[at - 1] in VISIBLE_ASCII:
            yield at
            at = text.find(" ", at + BLOCK_CHARACTERS)
        else:
            at = text.find(" ", at + 1)
