"""Characters as tokens: those of the dataset, sorted by code point, as in nanoGPT's first example.

There is no end-of-text token: documents follow each other directly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nanogpt_kit.api import Encoder, Field, KitError, TextContext, Tokenizer


class Char(Tokenizer):
    unknown: Literal["error", "skip"] = Field(
        "error", description="treatment of characters that the dataset lacks: an error, or skip them"
    )

    def build(self, ctx: TextContext) -> Encoder:
        occurs = np.zeros(sys.maxunicode + 1, dtype=bool)
        ascii_found = b""
        for split in ctx.splits:
            for text in ctx.documents(split):
                rest = text.encode("utf-8").translate(None, ascii_found)  # valid UTF-8 without these characters, too
                if rest:
                    occurs[code_points(rest.decode("utf-8"))] = True
                    ascii_found = bytes(np.flatnonzero(occurs[:128]).tolist())
        return self.restore({"characters": "".join(map(chr, np.flatnonzero(occurs)))})

    def restore(self, state: Mapping[str, Any]) -> Encoder:
        characters = state["characters"]
        if not isinstance(characters, str) or len(set(characters)) < len(characters):
            raise ValueError("characters should be a string that contains each character once")
        return CharEncoder(characters, skip=self.unknown == "skip")


class CharEncoder(Encoder):
    is_expensive = False
    eot_id = None

    def __init__(self, characters: str, skip: bool) -> None:
        self.characters = characters
        self.skip = skip
        self.vocab_size = len(characters)
        self.points = code_points(characters)
        # code point -> id; unknown ones: vocab_size
        self.ids = np.full(sys.maxunicode + 1, self.vocab_size, dtype=np.min_scalar_type(self.vocab_size))
        self.ids[self.points] = np.arange(self.vocab_size)
        self.ascii = (
            np.append(self.ids[:128], np.zeros(128)).astype(np.uint8).tobytes()
        )  # the same, for bytes.translate

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        if text.isascii() and self.vocab_size < 256:
            ids = np.frombuffer(text.encode().translate(self.ascii), dtype=np.uint8)
        else:
            ids = self.ids.take(code_points(text), mode="clip")  # clips nothing, but is faster
        known = ids < self.vocab_size
        if known.all():
            return ids
        if not self.skip:
            unknown = sorted({text[at] for at in np.flatnonzero(~known)})
            shown = ", ".join(repr(character) for character in unknown[:5])
            raise KitError(f"not in the vocabulary of {self.vocab_size} characters: {shown}")
        return ids[known]

    def token_spans(self, text: str, ids: np.ndarray) -> np.ndarray:
        known = np.flatnonzero(self.ids.take(code_points(text), mode="clip") < self.vocab_size)  # others are skipped
        return np.stack([known, known + 1], axis=1)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        tokens = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64)
        return self.points[tokens].tobytes().decode("utf-32-le").encode("utf-8")

    def last_safe_cut(self, text: str) -> int:
        return len(text)

    def count_unknown(self, text: str, ids: np.ndarray) -> int:
        return len(text) - len(ids)

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}


def code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
