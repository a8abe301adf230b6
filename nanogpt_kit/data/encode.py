"""Encodes chunks of text as tokens: in this process, or in one process for each core."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data.chunks import TextChunk
from nanogpt_kit.data.counted import CountedTokens, count_tokens
from nanogpt_kit.data.encoders import EncoderRecipe, utf8_size
from nanogpt_kit.data.worker_pool import WorkerPool

MIN_BYTES_FOR_PROCESSES = 8_000_000  # of text: one core takes a second for them; starting Python takes half of that


@dataclass(frozen=True)
class EncodedChunk:
    """The tokens of a chunk, with an end-of-text token after each document where the tokenizer has one."""

    ids: np.ndarray  # (n,) of the dtype on disk
    document_starts: np.ndarray  # (documents that start in it,) int64: the index in `ids` of their first token
    text_bytes: int
    unknown: int  # characters or tokens that the tokenizer does not know, or whose text it changes
    counted: CountedTokens | None = None  # None: all of them


def token_dtype(encoder: Encoder) -> np.dtype[Any]:
    return np.dtype(np.uint16 if encoder.vocab_size <= 2**16 else np.uint32)


def encode_chunk(chunk: TextChunk, encoder: Encoder) -> EncodedChunk:
    """The tokens of a chunk. Raises KitError for text that is not Unicode, and for ids outside the vocabulary."""
    document_indices = accumulate(chunk.ends, initial=chunk.first_document)  # of each text
    text_bytes = sum(
        utf8_size(text, index, chunk.split) for text, index in zip(chunk.texts, document_indices, strict=False)
    )
    dtype, has_eot = token_dtype(encoder), encoder.eot_id is not None
    ids_of_texts = encoder.encode_batch(chunk.texts)
    check_ids(ids_of_texts, encoder, chunk)
    eot = np.array([encoder.eot_id] if has_eot else [], dtype)
    parts = [np.array([], dtype)]  # np.concatenate refuses an empty list
    for ids, is_end in zip(ids_of_texts, chunk.ends, strict=True):
        parts += (ids, eot) if is_end else (ids,)
    all_ids = np.concatenate(parts, dtype=dtype, casting="unsafe")  # every id fits: see check_ids
    lengths = np.fromiter(map(len, ids_of_texts), np.int64, len(ids_of_texts))
    lengths += np.array(chunk.ends, dtype=bool) * len(eot)
    text_starts = np.cumsum(lengths) - lengths
    lost = (count_lost(encoder, text, ids, chunk.split) for text, ids in zip(chunk.texts, ids_of_texts, strict=True))
    starts, counted = text_starts[np.array(chunk.starts, dtype=bool)], count_tokens(chunk, ids_of_texts, encoder)
    return EncodedChunk(all_ids, starts, text_bytes, sum(lost), counted)


def count_lost(encoder: Encoder, text: str, ids: np.ndarray, split: str) -> int:
    """How many characters or tokens of a text are unknown; all characters where its tokens do not give it back.

    That is what a tokenizer does which normalizes text; it is looked for in the splits that measure.
    """
    unknown = encoder.count_unknown(text, ids)
    if unknown or split == "train" or encoder.decode_bytes(ids.tolist()) == text.encode("utf-8"):
        return unknown
    return len(text)


def check_ids(ids_of_texts: Sequence[np.ndarray], encoder: Encoder, chunk: TextChunk) -> None:
    """Raises KitError for ids outside the vocabulary, as a plugin with a wrong `vocab_size` would return."""
    together = np.concatenate(ids_of_texts) if ids_of_texts else np.array([])
    if not len(together) or 0 <= int(together.min()) <= int(together.max()) < encoder.vocab_size:
        return
    index, invalid = next(
        (index, int(token))
        for index, ids in enumerate(ids_of_texts)
        for token in ids
        if not 0 <= token < encoder.vocab_size
    )
    raise KitError(
        f"the tokenizer returned id {invalid} in document {chunk.document_index(index)} of {chunk.split}, "
        f"but its vocabulary ends at {encoder.vocab_size - 1}"
    )


def encode_chunks(
    chunks: Iterable[TextChunk], encoder: Encoder, experiment: Experiment, text_bytes: int | None, workers: int
) -> Iterator[tuple[TextChunk, EncodedChunk]]:
    """Every chunk with its tokens, in order. Starts processes where they save time.

    Raises RunFailed where a process ends before its work is done.
    """
    pays = encoder.is_expensive and workers > 1 and (text_bytes is None or text_bytes >= MIN_BYTES_FOR_PROCESSES)
    if not pays:
        yield from ((chunk, encode_chunk(chunk, encoder)) for chunk in chunks)
        return
    pending: deque[tuple[TextChunk, Future[EncodedChunk]]] = deque()
    with WorkerPool(workers, EncoderRecipe.of(experiment, encoder), encode_chunk) as pool:
        for chunk in chunks:
            if pool.is_ready():
                pending.append((chunk, pool.submit(chunk)))
            else:
                yield chunk, encode_chunk(chunk, encoder)  # while the processes start
            while len(pending) > 2 * workers or (pending and pending[0][1].done()):
                first, encoded = pending.popleft()
                yield first, encoded.result()
        for first, encoded in pending:
            yield first, encoded.result()
