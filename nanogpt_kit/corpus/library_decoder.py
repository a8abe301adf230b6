"""Text of tokens of Hugging Face's tokenizers, whole or token by token: what the library's own `decode` makes of them.

A decoder there may look at the whole text: BPEDecoder puts a space behind each word but the last, Metaspace before
each but the first, ByteFallback needs all bytes of a character. So tokens are decoded together, and a stream
waits where a later token may change the text.

Source: github.com/huggingface/tokenizers, tokenizers/src/decoders and pre_tokenizers/byte_level.rs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nanogpt_kit.core.errors import KitError, no_panic
from nanogpt_kit.corpus.bpe import BPEEncoder

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")  # a token that the decoder ByteFallback takes for a byte
LOCAL = {"Replace", "Strip", "WordPiece", "Metaspace", "CTC", "ByteFallback"}  # decoders that look at no later token
WINDOW, CONTEXT = 64, 16  # tokens that a stream decodes at once, and how many of them it keeps when there are more
BYTES = {letter: bytes([byte]) for letter, byte in BPEEncoder.letters.items()}


class LibraryDecoder:
    """The decoder of a tokenizer.json: `tokenizer` is the library's, `decoder` its part of the JSON.

    `silent` are the ids of special tokens, which are not decoded; `place` is named where the library fails.
    """

    def __init__(self, tokenizer: Any, decoder: Any, silent: set[int], place: str) -> None:
        self.tokenizer = tokenizer
        self.silent = silent
        self.location = place
        stages = stages_of(decoder)
        kinds = [stage["type"] for stage in stages]
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.bytes: list[bytes] | None = None  # of each token, where they are the same wherever it is
        if kinds == ["ByteLevel"]:
            self.bytes = [b""] * (max(vocabulary.values(), default=-1) + 1)
            for token, number in vocabulary.items():
                self.bytes[number] = b"" if number in silent else bytes_of(token)
        self.streamable = streamable(stages)
        self.byte_of: dict[int, int] = {}  # the tokens that ByteFallback joins to characters
        if self.streamable and "ByteFallback" in kinds:
            before = stages[: kinds.index("ByteFallback")]
            part = part_of(before) if before else None
            for token, number in vocabulary.items():
                try:
                    with no_panic(place):
                        found = BYTE.fullmatch(part.decode([token]) if part else token)
                except KitError:  # no text with this token can be decoded
                    continue
                if found and number not in silent:
                    self.byte_of[number] = int(found[1], 16)

    def decode(self, ids: Iterable[int]) -> str:
        shown = [token for token in map(int, ids) if token not in self.silent]
        if not shown:  # a Strip in the library fails on an empty text
            return ""
        with no_panic(self.location):
            text: str = self.tokenizer.decode(shown)
        return text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Of the text; where bytes make no character, these bytes in place of U+FFFD."""
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
                parts.append(with_run(text, run))
                run = b""
        return b"".join([*parts, with_run(stream.rest(), run)])


class LibraryStream:
    """Decodes all tokens so far, or as many of the last ones as say what the newest adds, and returns what is new."""

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
        if len(self.tokens) > WINDOW:
            text = self.decoder.decode(self.tokens[-CONTEXT:])
            if text:  # else what a decoder strips from the beginning of a text may reach into the next token
                self.tokens, self.text = self.tokens[-CONTEXT:], text
        return new

    def rest(self) -> str:
        old, self.text = self.text, self.decoder.decode(self.tokens)
        if self.text.startswith(old):
            return self.text[len(old) :]
        same = (one == other for one, other in zip(old, self.text, strict=False))
        return self.text[next((at for at, is_same in enumerate(same) if not is_same), len(self.text)) :]


def with_run(text: str, run: bytes) -> bytes:
    """Text that begins with a run of bytes, of which the library has written each as U+FFFD if any is wrong."""
    written = "\ufffd" * len(run)
    return run + text.removeprefix(written).encode() if text.startswith(written) else text.encode()


def bytes_of(token: str) -> bytes:
    """Of a token in GPT-2's letters; one that has others is text."""
    if all(letter in BYTES for letter in token):
        return b"".join(BYTES[letter] for letter in token)
    return token.encode()


def stages_of(decoder: Any) -> list[dict[str, Any]]:
    """The decoders that follow each other; none where tokens are joined by spaces."""
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [stage for part in decoder["decoders"] for stage in stages_of(part)]


def streamable(stages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a token never changes the text of those before it, except for the bytes of a character.

    Other texts, such as those of a Replace after Fuse, are decoded when they have ended.
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
    return only_begins and set(local) <= LOCAL


def part_of(stages: Sequence[Mapping[str, Any]]) -> Any:
    """The library's decoder of a part of a Sequence."""
    import tokenizers as hf

    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    parts = {"version": "1.0", "added_tokens": [], "decoder": {"type": "Sequence", "decoders": stages}, "model": model}
    return hf.Tokenizer.from_str(json.dumps(parts)).decoder
