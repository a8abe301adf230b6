"""Encoding with Hugging Face's tokenizers: every part of a tokenizer.json is run by the library.

Source: github.com/huggingface/tokenizers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nanogpt_kit.core.errors import KitError, catch_rust_panic, did_you_mean
from nanogpt_kit.core.kinds import Encoder, Stream
from nanogpt_kit.core.toml import read_utf8_file
from nanogpt_kit.corpus.bpe import BPEEncoder
from nanogpt_kit.corpus.library_decoder import LibraryDecoder, LibraryStream
from nanogpt_kit.system.reading import MAX_BYTES

MAX_UNCUT_CHARACTERS = 16_000_000  # of a document that cannot be cut; the library needs 130 bytes for each
CUTTABLE_PATTERNS = {  # a piece ends at each BPEEncoder.border: the patterns of Llama 3, Qwen 2 and GPT-4
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
    for digits in (r"\p{N}", r"\p{N}{1,3}")
}
MAX_UNUSED_IDS = 2**16  # ids without a token


class LibraryEncoder(Encoder):
    """Made from the text of a tokenizer.json; `eot` names the token that ends a document."""

    common_eot_tokens: ClassVar[tuple[str, ...]] = (
        "<|endoftext|>",
        "<|end_of_text|>",
        "</s>",
        "<eos>",
        "[SEP]",
        "<|im_end|>",
    )

    def __init__(self, text: str, eot: str | None, location: str) -> None:
        import tokenizers as hf

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the kit encodes in several processes at once
        self.location = location
        try:
            with catch_rust_panic(location):
                self.tokenizer = hf.Tokenizer.from_str(text)
        except KitError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise KitError(f"{location}: not a tokenizer.json: {error}") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        if getattr(self.tokenizer.model, "dropout", None):
            self.tokenizer.model.dropout = None  # meant for training; the same text must give the same tokens
        self.tokenizer.encode_special_tokens = True  # encode them as text
        self.tokenizer.post_processor = None  # adds special tokens, and leaves spaces out of what tokens stand for
        vocabulary = self.tokenizer.get_vocab()
        self.eot = eot or next((name for name in self.common_eot_tokens if name in vocabulary), None)
        if self.eot is not None and self.eot not in vocabulary:
            added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
            what = f"it does not contain the token {self.eot!r}, which tokenizer.eot names"
            raise KitError(f"{location}: {what}{did_you_mean(self.eot, added)}")
        self.json = text
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        if self.vocab_size > len(vocabulary) + MAX_UNUSED_IDS:
            raise KitError(
                f"{location}: its highest id is {self.vocab_size - 1:,}, but it has only {len(vocabulary):,} tokens"
            )
        self.eot_id = None if self.eot is None else vocabulary[self.eot]
        parts = json.loads(text)
        self.is_cuttable = is_cuttable(parts)
        self._find_special_tokens(parts, vocabulary)
        self.decoder = LibraryDecoder(self.tokenizer, parts.get("decoder"), self.silent, location)

    @classmethod
    def read(cls, path: str, eot: str | None) -> LibraryEncoder:
        """Reads a tokenizer.json. Raises KitError for another file."""
        return cls(read_utf8_file(Path(path), MAX_BYTES), eot, path)

    def _find_special_tokens(self, parts: dict[str, Any], vocabulary: dict[str, int]) -> None:
        """Finds what the library does not report: the unknown token, and the tokens that text is never encoded as."""
        model = parts["model"]
        unknown = model.get("unk_token")
        if model.get("unk_id") is not None:
            unknown = model["vocab"][model["unk_id"]][0]
        self.unknown_id = vocabulary.get(unknown)
        added = self.tokenizer.get_added_tokens_decoder()
        self.silent = {token_id for token_id, token in added.items() if token.special}  # not decoded by the library
        if self.eot_id is not None:
            self.silent.add(self.eot_id)
        self.special = np.zeros(self.vocab_size, dtype=bool)
        self.spelled: dict[int, list[int]] = {}
        for token, token_id in vocabulary.items():
            if token_id in self.silent and token_id != self.unknown_id:
                self.special[token_id] = True
                self.spelled[token_id] = self._spell(token, vocabulary)

    def _spell(self, token: str, vocabulary: dict[str, int]) -> list[int]:
        """The ids of a special token's characters, of their bytes, or of the unknown token."""
        ids = []
        for letter in token:
            names = [letter] if letter in vocabulary else [f"<0x{byte:02X}>" for byte in letter.encode()]
            ids += [vocabulary.get(name, self.unknown_id) for name in names]
        return [token_id for token_id in ids if token_id is not None]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            with catch_rust_panic(self.location):
                encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            "".join(texts).encode("utf-8")  # raises an error that locates half a surrogate pair
            raise
        return [self._as_text(np.array(encoding.ids, dtype=np.int64)) for encoding in encodings]

    def _as_text(self, ids: np.ndarray) -> np.ndarray:
        """Spells out special tokens, which models that list them in their vocabulary, as Unigram, may give for text."""
        if not self.special[ids].any():
            return ids
        return np.concatenate([np.array(self.spelled.get(token, [token]), dtype=np.int64) for token in ids.tolist()])

    def token_spans(self, text: str, ids: np.ndarray) -> np.ndarray:
        """By the bytes of the tokens where each has its own, else as the library reports it."""
        try:
            return super().token_spans(text, ids)
        except KitError:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return np.repeat(spans, [len(self.spelled.get(token, [token])) for token in encoding.ids], axis=0)

    def decode(self, ids: Iterable[int]) -> str:
        """The text as the library decodes it, without special tokens."""
        return self.decoder.decode(ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.decoder.decode_bytes(ids)

    def stream(self, before: Sequence[int] = ()) -> Stream:
        return super().stream() if self.decoder.bytes is not None else LibraryStream(self.decoder, before)

    def count_unknown(self, text: str, ids: np.ndarray) -> int:
        return 0 if self.unknown_id is None else int(np.count_nonzero(ids == self.unknown_id))

    def last_safe_cut(self, text: str) -> int:
        if not self.is_cuttable and len(text) > MAX_UNCUT_CHARACTERS:
            raise KitError(
                f"a document of more than {MAX_UNCUT_CHARACTERS:,} characters, which this tokenizer.json encodes only "
                "as a whole; divide it into shorter documents, such as the lines of a .jsonl"
            )
        return BPEEncoder.border(text) if self.is_cuttable else 0

    def state(self) -> dict[str, Any]:
        return {"json": self.json, "eot": self.eot}


def is_cuttable(parts: dict[str, Any]) -> bool:
    """True where text is split exactly as by GPT-2 or its successors. NFC joins nothing at their borders."""
    chain = parts.get("pre_tokenizer") or {}
    splits, normalizer = chain.get("pretokenizers", [chain]), parts.get("normalizer") or {"type": "NFC"}
    *before, last = splits or [{}]
    if any(map(may_span_border, parts.get("added_tokens") or ())):
        return False
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True) or normalizer["type"] != "NFC":
        return False
    if last.get("use_regex", True):
        return not before
    patterns = [split.get("pattern", {}).get("Regex") for split in before if split.get("behavior") == "Isolated"]
    return len(before) == len(patterns) == 1 and patterns[0] in CUTTABLE_PATTERNS


def may_span_border(token: dict[str, Any]) -> bool:
    """True where an added token, which is matched before the text is split, may lie on both sides of a cut."""
    if token.get("special"):  # encoded as text
        return False
    if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
        return True
    return re.search(r"[\s,.;:\u3001\u3002\uff0c\uff0e\uff1a\uff1b]", token["content"]) is not None
