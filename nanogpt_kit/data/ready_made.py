"""Datasets that are tokens already: checked, and copied into the same files as everybody's."""

from __future__ import annotations

import numpy as np

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Dataset, Encoder
from nanogpt_kit.data.encode import Encoded, token_type
from nanogpt_kit.data.write import Writer


def has_tokens(dataset: Dataset) -> bool:
    return dataset.tokens("train") is not None


def copy(dataset: Dataset, encoder: Encoder, writer: Writer, beginning: int) -> bytes:
    """Returns the first `beginning` bytes of the validation text. Raises KitError for ids that no token has."""
    sizes = np.array([len(encoder.decode_bytes([token])) for token in range(encoder.vocab_size)])  # bytes of each id
    val = bytearray()
    number = 0
    for split in dataset.splits:
        opens = True  # whether the next token begins a document
        for ids in dataset.tokens(split) or ():
            if not len(ids):
                continue
            if int(ids.max()) >= encoder.vocab_size:
                raise KitError(
                    f"{split} holds id {int(ids.max())}, but the tokenizer's vocabulary ends at "
                    f"{encoder.vocab_size - 1}; name the tokenizer that made these tokens"
                )
            ends = ids == encoder.eot_id if encoder.eot_id is not None else np.zeros(len(ids), dtype=bool)
            begins = np.flatnonzero(np.concatenate([[opens], ends[:-1]]))
            opens = bool(ends[-1])
            if split == "val" and len(val) < beginning:
                val += encoder.decode_bytes(ids[:beginning].tolist())
            if number >= writer.done:
                text_bytes = int(sizes[ids].sum())
                writer.add(split, Encoded(ids.astype(token_type(encoder)), begins, text_bytes, unknown=0))
            number += 1
    return bytes(val[:beginning])
