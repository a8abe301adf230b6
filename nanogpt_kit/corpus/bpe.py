"""Byte-level BPE encoding: OpenAI's published vocabularies, and vocabularies trained by the tokenizer `bpe`.

Source: Sennrich et al. 2015, arXiv:1508.07909; Radford et al. 2019, "Language Models are Unsupervised Multitask
Learners", section 2.2. The patterns, special tokens and hashes are those of tiktoken's openai_public.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tiktoken

from nanogpt_kit.core.errors import KitError, catch_rust_panic
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.corpus.ascii_pieces import MAX_CACHED_PIECES, PieceCache, ascii_blocks, ascii_splitter

EOT = "<|endoftext|>"

# How text is split into pieces before merging, by GPT-2 and by its successors.
R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# No piece of these patterns continues from a visible character to a space, or from a letter or digit to one of these
# signs, and no piece that ends there looks further ahead. Letters are listed since Unicode tables differ in the rest.
SAFE_BORDER = re.compile(
    r"(?s).+(?:(?<=\S)(?= )|(?<=[0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])"
    r"(?=[\n\r,.;:\u3001\u3002\uff0c\uff0e\uff1a\uff1b]))"
)

MAX_SPECIAL_IDS = 2**16  # beyond the last token


def bytes_by_letter() -> dict[str, int]:
    """GPT-2's letter for each byte: printable Latin-1 bytes are themselves, the rest follow from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}


@dataclass(frozen=True)
class PublishedVocabulary:
    """One of OpenAI's vocabularies: the facts that tiktoken's file of it does not contain."""

    file: str
    sha256: str
    pattern: str
    special: Mapping[str, int]


GPT2 = PublishedVocabulary(
    "r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", R50K, {EOT: 50_256}
)
PUBLISHED = {
    "gpt2": GPT2,
    "r50k_base": GPT2,
    "p50k_base": PublishedVocabulary(
        "p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069", R50K, {EOT: 50_256}
    ),
    "cl100k_base": PublishedVocabulary(
        "cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        CL100K,
        {
            EOT: 100_257,
            "<|fim_prefix|>": 100_258,
            "<|fim_middle|>": 100_259,
            "<|fim_suffix|>": 100_260,
            "<|endofprompt|>": 100_276,
        },
    ),
    "o200k_base": PublishedVocabulary(
        "o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        O200K,
        {EOT: 199_999, "<|endofprompt|>": 200_018},
    ),
}


class BPEEncoder(Encoder):
    """Made from its state alone, so that a checkpoint needs nothing else.

    {"pattern": how text is split, "special": {"<|endoftext|>": id, ...}, "tokens": base64 of each token in the order of
    ranks, joined by spaces}. An empty entry is a rank without a token.
    """

    letters: ClassVar[Mapping[str, int]] = bytes_by_letter()

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)
        tokens = [base64.b64decode(token) for token in state["tokens"].split(" ")]
        highest = max(state["special"].values())
        if not 0 <= highest < len(tokens) + MAX_SPECIAL_IDS:
            raise KitError(f"a vocabulary of {len(tokens):,} tokens has a special token with id {highest}")
        with catch_rust_panic("a vocabulary of bytes"):
            self.encoding = tiktoken.Encoding(
                "kit",
                pat_str=state["pattern"],
                mergeable_ranks={token: rank for rank, token in enumerate(tokens) if token},
                special_tokens=state["special"],
            )
        self.vocab_size = self.encoding.n_vocab
        self.eot_id = state["special"][EOT]
        self._bytes = tokens + [b""] * (self.vocab_size - len(tokens))
        self._piece_cache = PieceCache(self.encoding)
        self._split = ascii_splitter(state["pattern"]) if state["pattern"] in (R50K, CL100K, O200K) else None

    @classmethod
    def from_ranks(cls, pattern: str, special: Mapping[str, int], ranks: Mapping[bytes, int]) -> BPEEncoder:
        """From the bytes of tokens and their ranks, which are their ids."""
        tokens = [""] * (max(ranks.values()) + 1)
        for token, rank in ranks.items():
            tokens[rank] = base64.b64encode(token).decode()
        return cls({"pattern": pattern, "special": dict(special), "tokens": " ".join(tokens)})

    @classmethod
    def trained(cls, tokens: Sequence[bytes]) -> BPEEncoder:
        """From the tokens of a training with GPT-2's pattern, in order; <|endoftext|> is added at the end."""
        return cls.from_ranks(R50K, {EOT: len(tokens)}, {token: rank for rank, token in enumerate(tokens)})

    @classmethod
    def published(cls, name: str, file: str | None) -> BPEEncoder:
        """One of OpenAI's, from a copy of its `file` or, without one, from tiktoken's cache or its download.

        Raises KitError where it is not available, or is not the published one.
        """
        vocabulary = PUBLISHED[name]
        ranks = download_ranks(name, vocabulary) if file is None else read_ranks(Path(file), vocabulary)
        return cls.from_ranks(vocabulary.pattern, vocabulary.special, ranks)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Text that looks like a special token is encoded as text."""
        if len(self._piece_cache) > MAX_CACHED_PIECES:
            self._piece_cache.clear()
        with catch_rust_panic("a vocabulary of bytes"):
            return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        if self._split is None:
            return self._encode_any(text)
        if text.isascii():
            return self._encode_ascii(text, self._split)
        parts = [
            self._encode_ascii(block, self._split) if block.isascii() else self._encode_any(block)
            for block in ascii_blocks(text)
        ]
        return np.concatenate(parts)

    def _encode_ascii(self, text: str, split: Callable[[str], list[str]]) -> np.ndarray:
        return np.frombuffer(b"".join(map(self._piece_cache.__getitem__, split(text))), dtype=self._piece_cache.dtype)

    def _encode_any(self, text: str) -> np.ndarray:
        try:
            return self.encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:
            raise
        except ValueError as error:  # its regular expression engine gives up on a million spaces in a row
            longest = max(map(len, re.findall(r"\s+", text)), default=0)
            what = f"a text of {len(text):,} characters, {longest:,} of them white space in a row, cannot be split"
            raise KitError(f"{what}: {error}; shorten the white space") from None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self._bytes.__getitem__, ids.tolist() if isinstance(ids, np.ndarray) else ids))

    def last_safe_cut(self, text: str) -> int:
        return self.border(text) if self._state["pattern"] in (R50K, CL100K, O200K) else 0

    @staticmethod
    def border(text: str) -> int:
        """The last index that is a border of pieces in each of the three patterns; 0 where none is known."""
        match = SAFE_BORDER.match(text)
        return match.end() if match else 0

    def state(self) -> dict[str, Any]:
        return self._state


def download_ranks(name: str, vocabulary: PublishedVocabulary) -> Mapping[bytes, int]:
    """The tokens of a vocabulary with their ranks, from tiktoken's cache or its download."""
    try:
        return tiktoken.get_encoding(name)._mergeable_ranks
    except (OSError, ValueError) as error:  # no network, or not the file that was expected
        cause = str(error).partition(" (Caused by")[0]
        raise KitError(
            f"the vocabulary of {name} cannot be downloaded: {cause}; set TIKTOKEN_CACHE_DIR to a folder that "
            f"tiktoken has filled elsewhere, or set tokenizer.file=<a copy of {vocabulary.file}>; "
            "tokenizer.use=byte needs no vocabulary"
        ) from None


def read_ranks(path: Path, vocabulary: PublishedVocabulary) -> Mapping[bytes, int]:
    try:
        content = path.read_bytes()
    except OSError as error:
        expected = f"tokenizer.file should be a copy of {vocabulary.file}"
        raise KitError(f"{path}: cannot be read: {error.strerror}; {expected}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != vocabulary.sha256:
        raise KitError(
            f"{path}: its SHA-256 is {sha256}; that of the published {vocabulary.file} is {vocabulary.sha256}"
        )
    pairs = (line.split() for line in content.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}
