"""Hashes of what val and test have of each source, so that a metric of one source has its own yardstick."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt_kit.data.chunks import TextHash
from nanogpt_kit.data.manifest import SplitRecord
from nanogpt_kit.data.prepared_data import counted_file, document_starts_file, memory_map, tokens_file
from nanogpt_kit.data.split import edges_within

READ_NUMBERS = 1 << 17  # tokens or starts of documents that are read at once


def with_source_hashes(
    record: SplitRecord, folder: Path, split: str, dtype: np.dtype[Any], texts: Sequence[Mapping[str, TextHash]]
) -> SplitRecord:
    """The record with the hashes of each source, as a dataset of that source alone would have them."""
    sources, token, document = [], 0, 0
    for source, text in zip(record.sources, texts, strict=False):  # none where the dataset is one source
        starts = document_starts_file(folder, split)
        hashes = {
            "sha256": hash_numbers(tokens_file(folder, split), dtype, token, source.tokens),
            "documents_sha256": hash_numbers(starts, np.dtype("<i8"), document, source.documents, minus=token),
            "text_sha256": text[split].sha256.hexdigest(),
        }
        if record.counted:
            edges = memory_map(counted_file(folder, split), "<i8", record.counted.edges)
            own = edges_within(edges, token, source.tokens)
            hashes["counted_sha256"] = hashlib.sha256(own.astype("<i8").tobytes()).hexdigest()
        sources.append(source.model_copy(update=hashes))
        token, document = token + source.tokens, document + source.documents
    return record.model_copy(update={"sources": sources})


def hash_numbers(path: Path, dtype: np.dtype[Any], first: int, count: int, minus: int = 0) -> str:
    """The SHA-256 of `count` numbers of a file from number `first` on, each less `minus`."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(first * dtype.itemsize)
        while count:
            numbers = np.fromfile(file, dtype, min(count, READ_NUMBERS))
            sha256.update((numbers - dtype.type(minus)).tobytes())
            count -= len(numbers)
    return sha256.hexdigest()
