"""Copies datasets that are tokenized already into the files of prepared data, and checks their ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Dataset, Encoder
from nanogpt_kit.core.kinds.text import order_train_last
from nanogpt_kit.data.chunks import CorpusStats, TextHash
from nanogpt_kit.data.dataset_sources import source_faults, sources_of
from nanogpt_kit.data.encode import EncodedChunk, token_dtype
from nanogpt_kit.data.progress import ProgressReport
from nanogpt_kit.data.writer import TokenWriter, check_free_space


def has_tokens(dataset: Dataset) -> bool:
    return dataset.tokens("train") is not None


def copy_tokens(dataset: Dataset, encoder: Encoder, writer: TokenWriter, stats: CorpusStats) -> None:
    """Copies the tokens of all splits; `stats` observes each. Raises KitError for ids outside the vocabulary."""
    width, count = token_dtype(encoder).itemsize, dataset.token_count()
    text_bytes = np.array([text_bytes_of_token(encoder, token) for token in range(encoder.vocab_size)])
    with ProgressReport(count and count * width, "copying") as progress:
        for index, (name, source) in enumerate(sources_of(dataset).items()):
            if index:
                stats.start_source()
            for split in order_train_last(dataset.splits):
                with source_faults(dataset, name):
                    copy_split(source, index, split, encoder, text_bytes, writer, stats, progress)


def copy_split(
    source: Dataset,
    index: int,
    split: str,
    encoder: Encoder,
    text_bytes: np.ndarray,
    writer: TokenWriter,
    stats: CorpusStats,
    progress: ProgressReport,
) -> None:
    """Copies the tokens that a split has of one source. `text_bytes` are those of each token."""
    at_start = True  # the next token is the first of a document
    texts, before = stats.hashes_of(split), None
    for ids in checked_ids(source, split, encoder):
        ends = np.flatnonzero(ids == (-1 if encoder.eot_id is None else encoder.eot_id))
        starts = np.concatenate([[0] * at_start, ends + 1]).astype(np.int64)
        if texts:
            before = hash_text(texts, ids, ends, None if at_start else before, encoder)
        at_start = bool(len(ends) and ends[-1] == len(ids) - 1)
        observe_tokens(stats, split, ids, ends, encoder)
        is_on_disk = writer.skip(stats.checksum)
        if not is_on_disk:
            if progress.total_bytes and not progress.bytes_processed:
                check_free_space(writer.folder, progress.total_bytes - progress.bytes_read)
            chunk = EncodedChunk(ids, starts[starts < len(ids)], int(text_bytes[ids].sum()), unknown=0)
            writer.add(split, chunk, checksum=stats.checksum, source=index)
        progress.add(ids.nbytes, processed=not is_on_disk)
    if not at_start:
        stats.observe_bytes(split, b"", is_end=True)  # the last document, which no end-of-text token ends
        for text in texts:
            text.add(b"", is_end=True)


def text_bytes_of_token(encoder: Encoder, token: int) -> int:
    """Bytes of text that a token stands for within a text: some vocabularies drop a space at the beginning of one."""
    return len(encoder.decode_bytes([token, token])) - len(encoder.decode_bytes([token]))


def checked_ids(dataset: Dataset, split: str, encoder: Encoder) -> Iterator[np.ndarray]:
    """The ids in arrays (n,) of the dtype on disk, n > 0. Raises KitError for ids outside the vocabulary."""
    count = 0
    for ids in dataset.tokens(split) or ():
        if not len(ids):
            continue
        if not 0 <= int(ids.min()) <= int(ids.max()) < encoder.vocab_size:
            first = int(np.flatnonzero((ids < 0) | (ids >= encoder.vocab_size))[0])
            raise KitError(
                f"{dataset.token_location(split, count + first)}: id {ids[first]}, but the tokenizer's vocabulary ends "
                f"at {encoder.vocab_size - 1}; set [tokenizer] to the tokenizer that made these tokens"
            )
        count += len(ids)
        yield ids.astype(token_dtype(encoder))


def observe_tokens(stats: CorpusStats, split: str, ids: np.ndarray, ends: np.ndarray, encoder: Encoder) -> None:
    """`ends` are the indices in `ids` of end-of-text tokens."""
    if split == "val" and len(stats.validation_sample) < stats.sample_bytes:
        stats.add_to_sample(encoder.decode_bytes(ids[: stats.sample_bytes].tolist()))
    for first, last in zip([0, *(ends + 1)], [*ends, len(ids)], strict=True):  # without the end-of-text tokens
        stats.observe_bytes(split, ids[first:last].tobytes(), is_end=last < len(ids))


def hash_text(
    texts: Sequence[TextHash], ids: np.ndarray, ends: np.ndarray, before: int | None, encoder: Encoder
) -> int:
    """Adds the text of `ids`, whose end-of-text tokens are at `ends`. Returns the last id.

    `before` is the token before them in the same document: some vocabularies drop a space at the beginning of a text.
    """
    for first, last in zip([0, *(ends + 1)], [*ends, len(ids)], strict=True):
        context = [] if before is None or first else [before]
        raw = encoder.decode_bytes([*context, *ids[first:last].tolist()])
        for text in texts:
            text.add(raw[len(encoder.decode_bytes(context)) :], is_end=last < len(ids))
    return int(ids[-1])
