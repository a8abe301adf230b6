"""Datasets that are tokens already: checked, and copied into the same files as everybody's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Dataset, Encoder
from nanogpt_kit.core.kinds.text import train_last
from nanogpt_kit.data.encode import Encoded, token_type
from nanogpt_kit.data.jobs import Watch
from nanogpt_kit.data.progress import Progress
from nanogpt_kit.data.write import Writer, check_room


def has_tokens(dataset: Dataset) -> bool:
    return dataset.tokens("train") is not None


def copy(dataset: Dataset, encoder: Encoder, writer: Writer, watch: Watch) -> None:
    """`watch` sees every token. Raises KitError for ids that no token has."""
    width, count = token_type(encoder).itemsize, dataset.token_count()
    lengths = np.array([bytes_within(encoder, token) for token in range(encoder.vocab_size)])
    with Progress(count and count * width, "copying") as progress:
        for split in train_last(dataset.splits):
            opens = True  # whether the next token begins a document
            for ids in checked(dataset, split, encoder):
                ends = np.flatnonzero(ids == (-1 if encoder.eot_id is None else encoder.eot_id))
                begins = np.concatenate([[0] * opens, ends + 1]).astype(np.int64)
                opens = bool(len(ends) and ends[-1] == len(ids) - 1)
                see(watch, split, ids, ends, encoder)
                on_disk = writer.skip(watch.checksum)
                if not on_disk:
                    if count and not progress.done:
                        check_room(writer.folder, count * width - progress.seen)
                    tokens = Encoded(ids, begins[begins < len(ids)], text_bytes=int(lengths[ids].sum()), unknown=0)
                    writer.add(split, tokens, seen=watch.checksum)
                progress.add(ids.nbytes, worked=not on_disk)
            if not opens:
                watch.see_part(split, b"", ends=True)  # the last document, which no token ends


def bytes_within(encoder: Encoder, token: int) -> int:
    """How many a token has within a text: at the beginning of one, some vocabularies leave a space out."""
    return len(encoder.decode_bytes([token, token])) - len(encoder.decode_bytes([token]))


def checked(dataset: Dataset, split: str, encoder: Encoder) -> Iterator[np.ndarray]:
    """(n,) ids of the type on disk, n > 0."""
    before = 0  # tokens
    for ids in dataset.tokens(split) or ():
        if not len(ids):
            continue
        if not 0 <= int(ids.min()) <= int(ids.max()) < encoder.vocab_size:
            first = int(np.flatnonzero((ids < 0) | (ids >= encoder.vocab_size))[0])
            raise KitError(
                f"{dataset.token_place(split, before + first)}: id {ids[first]}, but the tokenizer's vocabulary ends "
                f"at {encoder.vocab_size - 1}; name the tokenizer that made these tokens"
            )
        before += len(ids)
        yield ids.astype(token_type(encoder))


def see(watch: Watch, split: str, ids: np.ndarray, ends: np.ndarray, encoder: Encoder) -> None:
    """`ends`: where in `ids` documents end."""
    if split == "val" and len(watch.val) < watch.reference_bytes:
        watch.see_validation(encoder.decode_bytes(ids[: watch.reference_bytes].tolist()))
    for first, last in zip([0, *(ends + 1)], [*ends, len(ids)], strict=True):  # without the ends themselves
        watch.see_part(split, ids[first:last].tobytes(), ends=last < len(ids))
