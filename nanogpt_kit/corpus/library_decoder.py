"""Decoding with Hugging Face's tokenizers, whole texts or token by token, equal to the library's own `decode`.

A decoder of the library may depend on the whole text: BPEDecoder adds a space after each word except the last,
Metaspace before each except the first, ByteFallback needs all bytes of a character. So tokens are decoded together, and
a stream waits where a later token may change the text.

Source: github.com/huggingface/tokenizers, tokenizers/src/decoders and pre_tokenizers/byte_level.rs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nanogpt_kit.core.errors import KitError, catch_rust_panic
from nanogpt_kit.corpus.bpe import BPEEncoder

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")  # a token that ByteFallback decodes to a byte
LOCAL_DECODERS = {
    "Replace",
    "Strip",
    "WordPiece",
    "Metaspace",
    "CTC",
    "ByteFallback",
}  # decoders that do not depend on later tokens
MAX_STREAM_TOKENS, CONTEXT_TOKENS = 64, 16  # decoded together by a stream; kept when there are more
BYTE_OF_LETTER = {letter: bytes([byte]) for letter, byte in BPEEncoder.letters.items()}


class LibraryDecoder:
    """The decoder of a tokenizer.json: `tokenizer` is the library's, `decoder` its part of the JSON.

    `silent` are the ids of special tokens, which are not decoded. Errors of the library are reported with `location`.
    """

    def __init__(self, tokenizer: Any, decoder: Any, silent: set[int], location: str) -> None:
        self.tokenizer = tokenizer
        self.silent = silent
        self.location = location
        stages = decoder_stages(decoder)
        kinds = [stage["type"] for stage in stages]
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.bytes: list[bytes] | None = None  # of each token, where they do not depend on its neighbours
        if kinds == ["ByteLevel"]:
            self.bytes = [b""] * (max(vocabulary.values(), default=-1) + 1)
            for token, token_id in vocabulary.items():
                self.bytes[token_id] = b"" if token_id in silent else byte_level_bytes(token)
        self.streamable = is_streamable(stages)
        self.byte_of: dict[int, int] = {}  # token id -> byte, of the tokens that ByteFallback joins to characters
        if self.streamable and "ByteFallback" in kinds:
            before = stages[: kinds.index("ByteFallback")]
            part = build_stages(before) if before else None
            for token, token_id in vocabulary.items():
                try:
                    with catch_rust_panic(location):
                        match = BYTE_TOKEN.fullmatch(part.decode([token]) if part else token)
                except KitError:  # no text with this token can be decoded
                    continue
                if match and token_id not in silent:
                    self.byte_of[token_id] = int(match[1], 16)

    def decode(self, ids: Iterable[int]) -> str:
        shown = [token for token in map(int, ids) if token not in self.silent]
        if not shown:  # a Strip in the library fails on an empty text
            return ""
        with catch_rust_panic(self.location):
            text: str = self.tokenizer.decode(shown)
        return text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the text; bytes that do not form a character stay as they are, instead of becoming U+FFFD."""
        if self.bytes is not None:
            return b"".join(map(self.bytes.__getitem__, ids.tolist() if isinstance(ids, np.ndarray) else ids))
        tokens = list(map(int, ids))
        text = self.decode(tokens)
        if "\ufffd" not in text or not self.byte_of:
            return text.encode()
        stream, parts, run = LibraryStream(self, ()), [], b""
        for token in tokens:
            text = stream.add(token)
            if token in self.byte_of:
                run += bytes([self.byte_of[token]])
            elif token not in self.silent:
                parts.append(replace_marks_with_bytes(text, run))
                run = b""
        return b"".join([*parts, replace_marks_with_bytes(stream.rest(), run)])


class LibraryStream:
    """Decodes the tokens so far, or enough of the last ones, and returns the text that the newest adds."""

    def __init__(self, decoder: LibraryDecoder, before: Sequence[int]) -> None:
        self.decoder = decoder
        self.tokens = [token for token in before if token not in decoder.silent]
        self.text = decoder.decode(self.tokens)  # of `before`, or returned already

    def add(self, token: int) -> str:
        if token in self.decoder.silent:
            return ""
        self.tokens.append(token)
        if not self.decoder.streamable or token in self.decoder.byte_of:
            return ""
        new = self.rest()
        if len(self.tokens) > MAX_STREAM_TOKENS:
            text = self.decoder.decode(self.tokens[-CONTEXT_TOKENS:])
            if text:  # if empty, a decoder may also strip the beginning of the next token
                self.tokens, self.text = self.tokens[-CONTEXT_TOKENS:], text
        return new

    def rest(self) -> str:
        old, self.text = self.text, self.decoder.decode(self.tokens)
        if self.text.startswith(old):
            return self.text[len(old) :]
        equal = (a == b for a, b in zip(old, self.text, strict=False))
        return self.text[next((index for index, is_equal in enumerate(equal) if not is_equal), len(self.text)) :]


def replace_marks_with_bytes(text: str, run: bytes) -> bytes:
    """`text` starts with a run of bytes, which the library wrote as U+FFFD each if one of them is invalid."""
    marks = "\ufffd" * len(run)
    return run + text.removeprefix(marks).encode() if text.startswith(marks) else text.encode()


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a token written in GPT-2's letters; a token with other letters is text."""
    if all(letter in BYTE_OF_LETTER for letter in token):
        return b"".join(BYTE_OF_LETTER[letter] for letter in token)
    return token.encode()


def decoder_stages(decoder: Any) -> list[dict[str, Any]]:
    """The decoders of a Sequence in order; none where tokens are joined by spaces."""
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [stage for part in decoder["decoders"] for stage in decoder_stages(part)]


def is_streamable(stages: Sequence[Mapping[str, Any]]) -> bool:
    """True where a token never changes the text before it, except for the bytes of a character.

    Other texts, such as those of a Replace after Fuse, are decoded once they are complete.
    """
    kinds = [stage["type"] for stage in stages]
    joined = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    local, after = kinds[:joined], stages[joined:]
    if local[-1:] == ["BPEDecoder"]:  # its last token ends without a space: the next one adds it
        local = local[:-1]
    if "ByteFallback" in local:
        before = local[: local.index("ByteFallback")]
        if local.count("ByteFallback") > 1 or not set(before) <= {"Replace", "Strip"}:
            return False
    only_begins = all(stage["type"] == "Fuse" or (stage["type"] == "Strip" and not stage["stop"]) for stage in after)
    return only_begins and set(local) <= LOCAL_DECODERS


def build_stages(stages: Sequence[Mapping[str, Any]]) -> Any:
    """The library's decoder for some stages of a Sequence."""
    import tokenizers as hf

    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    parts = {"version": "1.0", "added_tokens": [], "decoder": {"type": "Sequence", "decoders": stages}, "model": model}
    return hf.Tokenizer.from_str(json.dumps(parts)).decoder
