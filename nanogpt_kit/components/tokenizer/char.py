"""Characters as tokens: those that occur in the dataset, sorted by code point, as in nanoGPT's first example.

There is no end-of-text token: documents follow each other directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nanogpt_kit.api import Encoder, KitError, TextContext, Tokenizer


class Char(Tokenizer):
    def build(self, ctx: TextContext) -> Encoder:
        characters: set[str] = set()
        for split in ctx.splits:
            for text in ctx.documents(split):
                characters.update(text)
        return CharEncoder("".join(sorted(characters)))

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        return CharEncoder(state["characters"])


class CharEncoder(Encoder):
    eot_id = None

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.vocab_size = len(characters)
        points = code_points(characters)
        self.ids = np.full(int(points.max(initial=0)) + 1, -1, dtype=np.int32)  # code point -> id, -1 unknown
        self.ids[points] = np.arange(len(points), dtype=np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        points = code_points(text)
        ids: np.ndarray = self.ids[np.minimum(points, len(self.ids) - 1)]
        unknown = (ids < 0) | (points >= len(self.ids))
        if unknown.any():
            strangers = sorted({text[at] for at in np.flatnonzero(unknown)})
            shown = ", ".join(repr(character) for character in strangers[:5])
            raise KitError(f"not in the vocabulary of {self.vocab_size} characters: {shown}")
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return "".join(self.characters[token] for token in ids).encode("utf-8")

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}


def code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
