"""Which tokens of prepared data count, as those of answers, where documents are marked.

Tokens that count come in runs, so the file has their edges: the index of the first token of a run, and that of the
first after it, in turns. A file of a few bytes for each document is read as fast as one with a number for each token,
and the tokens that count in a window are known from two places in it.

In a tokenizer whose tokens cross the edge of a span, as " 4" crosses that of "=" and "4", they count: the model learns
to give the whole token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.core.kinds.marked_text import MarkedText
from nanogpt_kit.data.chunks import TextChunk


@dataclass(frozen=True)
class CountedTokens:
    """The tokens of a chunk that count."""

    edges: np.ndarray  # (2 * runs,) int64, ascending: indices in the chunk
    text_bytes: int  # of the characters that they stand for

    @property
    def n_tokens(self) -> int:
        return int((self.edges[1::2] - self.edges[::2]).sum())


def count_tokens(chunk: TextChunk, ids_of_texts: Sequence[np.ndarray], encoder: Encoder) -> CountedTokens | None:
    """None where all tokens of the chunk count, as in one without a marked text.

    Raises KitError where the encoder does not say which text a token of a marked one stands for.
    """
    if not chunk.marked:
        return None
    flags, text_bytes = [np.zeros(1, bool)], 0  # before the first token, so that a run may begin with it
    for at, (text, ids, is_end) in enumerate(zip(chunk.texts, ids_of_texts, chunk.ends, strict=True)):
        marked, has_eot = chunk.marked.get(at), is_end and encoder.eot_id is not None
        if marked is None:
            flags.append(np.ones(len(ids) + has_eot, bool))
            text_bytes += len(text.encode("utf-8"))
            continue
        counts, size = count_in_text(marked, spans_of_tokens(encoder, marked.text, ids, chunk, at))
        flags += [counts, np.array([marked.counts_end] * has_eot, bool)]
        text_bytes += size
    flags.append(np.zeros(1, bool))
    return CountedTokens(np.flatnonzero(np.diff(np.concatenate(flags))), text_bytes)


def spans_of_tokens(encoder: Encoder, text: str, ids: np.ndarray, chunk: TextChunk, at: int) -> np.ndarray:
    """(n, 2) the characters of each token. Raises KitError where the encoder does not say it."""
    where = f"document {chunk.document_index(at)} of {chunk.split}"
    try:
        spans = encoder.token_spans(text, ids)
    except KitError as error:
        raise KitError(*(replace(fault, message=f"{where}: {fault.message}") for fault in error.faults)) from None
    if spans.shape != (len(ids), 2) or (spans.size and not 0 <= int(spans.min()) <= int(spans.max()) <= len(text)):
        expected = f"expected ({len(ids)}, 2) numbers from 0 to {len(text)}"
        raise KitError(f"{where}: {type(encoder).__name__}.token_spans returned {spans.shape}, {expected}")
    return spans


def count_in_text(marked: MarkedText, spans: np.ndarray) -> tuple[np.ndarray, int]:
    """(n,) whether each token counts, and the bytes of the characters of those that do; `spans` (n, 2) are theirs."""
    first, end = spans[:, 0], spans[:, 1]
    of_text = np.array([span for span in marked.counted if span[0] < span[1]], np.int64).reshape(-1, 2)
    nearest = np.searchsorted(of_text[:, 1], first, side="right")  # the first span that ends after the token begins
    begins = np.append(of_text[:, 0], len(marked.text))[nearest]
    counts = (begins < end) & (first < end)
    changes = np.zeros(len(marked.text) + 1, np.int64)
    np.add.at(changes, first[counts], 1)
    np.add.at(changes, end[counts], -1)
    covered = np.cumsum(changes[:-1]) > 0
    return counts, int(utf8_sizes(marked.text)[covered].sum())


def utf8_sizes(text: str) -> np.ndarray:
    """(n,) the bytes of each character."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000).astype(np.int64)


class CountedState(BaseModel):
    """What is written so far of a <split>.counted.bin."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    edges: Annotated[int, Field(ge=0)] = 0  # numbers in the file
    tokens: Annotated[int, Field(ge=0)] = 0
    bytes: Annotated[int, Field(ge=0)] = 0  # of their text
    sha256: str = hashlib.sha256().hexdigest()


class CountedFile:
    """<split>.counted.bin while it is written. It is empty, and then removed, where every token of the split counts."""

    def __init__(self, file: IO[bytes], sha256: Any, state: CountedState) -> None:
        self.file = file
        self.sha256 = sha256
        self.state = state

    def add(self, chunk: CountedTokens | None, n_tokens: int, text_bytes: int, before: tuple[int, int]) -> None:
        """Takes the next chunk, of `n_tokens` and `text_bytes`; `before` are the tokens and bytes ahead of it."""
        if chunk is None and not self.state.edges:
            return
        if not self.state.edges:  # the first marked document: all tokens before its chunk count
            self._write(CountedTokens(np.array([0, before[0]]), before[1]), 0)
        self._write(chunk or CountedTokens(np.array([0, n_tokens]), text_bytes), before[0])

    def _write(self, chunk: CountedTokens, first: int) -> None:
        """Takes the tokens of a chunk whose first token has the index `first`."""
        raw = (chunk.edges + first).astype("<i8").tobytes()
        self.file.write(raw)
        self.sha256.update(raw)
        self.state = CountedState(
            edges=self.state.edges + len(chunk.edges),
            tokens=self.state.tokens + chunk.n_tokens,
            bytes=self.state.bytes + chunk.text_bytes,
            sha256=self.sha256.hexdigest(),
        )

    def finish(self) -> dict[str, Any] | None:
        """What the manifest records; None where there is no file."""
        if self.state.edges:
            return self.state.model_dump()
        self.file.close()  # some systems remove no open file
        Path(self.file.name).unlink()
        return None
