"""Bytes as tokens: 256, and one for the end of a document. Any text is encoded and decoded unchanged.

Source: Xue et al. 2021, arXiv:2105.13626 (ByT5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nanogpt_kit.api import Encoder, TextContext, Tokenizer


class Byte(Tokenizer):
    def build(self, ctx: TextContext) -> Encoder:
        return ByteEncoder()

    def known_vocab_size(self) -> int:
        return ByteEncoder.vocab_size

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return ByteEncoder()


class ByteEncoder(Encoder):
    is_expensive = False
    vocab_size = 257
    eot_id = 256

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        tokens = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        return tokens[tokens < 256].astype(np.uint8).tobytes()

    def last_safe_cut(self, text: str) -> int:
        return len(text)
