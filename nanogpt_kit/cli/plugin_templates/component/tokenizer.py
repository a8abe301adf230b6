"""The most frequent words as tokens, and bytes for everything else.

Change PIECES, which splits text into candidates, or what `build` learns from the text. The ids decode each by itself;
override `Encoder.stream` where yours do not. Source: word vocabularies with a fallback to bytes, as in Xue et al. 2021,
arXiv:2105.13626.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nanogpt_kit.api import Encoder, Field, TextContext, Tokenizer

PIECES = re.compile(r" ?\w+|\W")
EOT, FIRST_WORD = 256, 257


class WordTokenizer(Tokenizer):
    n_words: int = Field(256, ge=0, le=100_000, description="largest number of words that are tokens")

    def build(self, ctx: TextContext) -> Encoder:
        counts: Counter[str] = Counter()
        for text in ctx.documents("train"):
            counts.update(piece for piece in PIECES.findall(text) if len(piece.encode()) > 1)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))  # the same words whatever the order
        return WordTokenizerEncoder(ranked[: self.n_words])

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return WordTokenizerEncoder(state["words"])


class WordTokenizerEncoder(Encoder):
    eot_id = EOT

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [*words]
        self.ids = {word: index for index, word in enumerate(self.words, start=FIRST_WORD)}
        self.bytes_of = [*(bytes([byte]) for byte in range(256)), b"", *(word.encode() for word in self.words)]
        self.vocab_size = len(self.bytes_of)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.fromiter(self.ids_of(text), dtype=np.uint32) for text in texts]

    def ids_of(self, text: str) -> Iterable[int]:
        for piece in PIECES.findall(text):
            if piece in self.ids:
                yield self.ids[piece]
            else:
                yield from piece.encode()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.bytes_of[index] for index in ids)

    def last_safe_cut(self, text: str) -> int:
        last = 0
        for piece in PIECES.finditer(text):
            last = piece.start()
        return last

    def state(self) -> dict[str, Any]:
        return {"words": self.words}
