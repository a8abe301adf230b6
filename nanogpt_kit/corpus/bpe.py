"""Byte-level BPE at work, which tokenizers share: OpenAI's published vocabularies and those that are trained here.

Source: Sennrich et al. 2015, arXiv:1508.07909; Radford et al. 2019, "Language Models are Unsupervised Multitask
Learners", section 2.2. The patterns, special tokens and hashes are those of tiktoken's openai_public.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tiktoken

from nanogpt_kit.core.errors import KitError, no_panic
from nanogpt_kit.core.kinds import Encoder

EOT = "<|endoftext|>"

# How text is split into pieces before anything is merged; GPT-2's, and its successors'.
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

# None of them has a piece that goes on from a visible character to a space, or from a letter or digit to one of these
# signs; and no piece that ends there looks further. The letters are listed, since tables of Unicode differ in the rest.
BORDER = re.compile(
    r"(?s).+(?:(?<=\S)(?= )|(?<=[0-9A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])"
    r"(?=[\n\r,.;:\u3001\u3002\uff0c\uff0e\uff1a\uff1b]))"
)

# In text of ASCII alone these classes are short lists; `re` splits it faster than tiktoken's engine for all of Unicode.
IN_ASCII = {
    r"[^\s\p{L}\p{N}]": r"[^\sA-Za-z0-9]",
    r"[^\r\n\p{L}\p{N}]": r"[^\r\nA-Za-z0-9]",
    r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}": "A-Z",
    r"\p{Ll}\p{Lm}\p{Lo}\p{M}": "a-z",
    r"\p{L}": "[A-Za-z]",
    r"\p{N}": "[0-9]",
    "$": r"\Z",
}
MOST_SPECIAL = 2**16  # ids beyond the last token
LONGEST_KEPT, MOST_KEPT = 64, 200_000  # characters of a piece, and pieces: some 30 MB


def byte_of_letter() -> dict[str, int]:
    """How GPT-2 writes bytes: those that Latin-1 can print are themselves, the rest follow from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}


@dataclass(frozen=True)
class Published:
    """One of OpenAI's vocabularies: what tiktoken's file of it does not hold."""

    file: str
    sha256: str
    pattern: str
    special: Mapping[str, int]


GPT2 = Published(
    "r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930", R50K, {EOT: 50_256}
)
PUBLISHED = {
    "gpt2": GPT2,
    "r50k_base": GPT2,
    "p50k_base": Published(
        "p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069", R50K, {EOT: 50_256}
    ),
    "cl100k_base": Published(
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
    "o200k_base": Published(
        "o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        O200K,
        {EOT: 199_999, "<|endofprompt|>": 200_018},
    ),
}


class BPEEncoder(Encoder):
    """Made from its state alone, so that a checkpoint needs nothing else.

    {"pattern": how text is split, "special": {"<|endoftext|>": id, ...}, "tokens": base64 of each token in the order of
    rank, joined by spaces}. An empty entry is a rank that no token has.
    """

    letters: ClassVar[Mapping[str, int]] = byte_of_letter()

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)
        tokens = [base64.b64decode(token) for token in state["tokens"].split(" ")]
        highest = max(state["special"].values())
        if not 0 <= highest < len(tokens) + MOST_SPECIAL:
            raise KitError(f"a vocabulary of {len(tokens):,} tokens has a special one with id {highest}")
        with no_panic("a vocabulary of bytes"):
            self.encoding = tiktoken.Encoding(
                "kit",
                pat_str=state["pattern"],
                mergeable_ranks={token: rank for rank, token in enumerate(tokens) if token},
                special_tokens=state["special"],
            )
        self.vocab_size = self.encoding.n_vocab
        self.eot_id = state["special"][EOT]
        self._bytes = tokens + [b""] * (self.vocab_size - len(tokens))
        self._known = Known(self.encoding)
        self._split = ascii_splitter(state["pattern"]) if state["pattern"] in (R50K, CL100K, O200K) else None

    @classmethod
    def of(cls, pattern: str, special: Mapping[str, int], ranks: Mapping[bytes, int]) -> BPEEncoder:
        """From tokens of bytes and their ranks, which are their ids."""
        tokens = [""] * (max(ranks.values()) + 1)
        for token, rank in ranks.items():
            tokens[rank] = base64.b64encode(token).decode()
        return cls({"pattern": pattern, "special": dict(special), "tokens": " ".join(tokens)})

    @classmethod
    def trained(cls, tokens: Sequence[bytes]) -> BPEEncoder:
        """From the tokens that a training with GPT-2's pattern has found, in order; <|endoftext|> comes last."""
        return cls.of(R50K, {EOT: len(tokens)}, {token: rank for rank, token in enumerate(tokens)})

    @classmethod
    def published(cls, name: str, file: str | None) -> BPEEncoder:
        """One of OpenAI's, from a copy of its `file` or, without one, through tiktoken's cache and download.

        Raises KitError where it cannot be had, or is not what was published.
        """
        known = PUBLISHED[name]
        ranks = downloaded(name, known) if file is None else copied(Path(file), known)
        return cls.of(known.pattern, known.special, ranks)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Text that looks like a special token is text."""
        if len(self._known) > MOST_KEPT:
            self._known.clear()
        with no_panic("a vocabulary of bytes"):
            return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> np.ndarray:
        if self._split is None or not text.isascii():
            try:
                return self.encoding.encode_to_numpy(text, disallowed_special=())
            except UnicodeEncodeError:
                raise
            except ValueError as error:  # its engine of regular expressions gives up on a million spaces in a row
                longest = max(map(len, re.findall(r"\s+", text)), default=0)
                told = f"a text of {len(text):,} characters, {longest:,} of white space in a row, cannot be split"
                raise KitError(f"{told}: {error}; take such runs out of it") from None
        return np.frombuffer(b"".join(map(self._known.__getitem__, self._split(text))), dtype=self._known.dtype)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self._bytes.__getitem__, ids.tolist() if isinstance(ids, np.ndarray) else ids))

    def cut(self, text: str) -> int:
        return self.border(text) if self._state["pattern"] in (R50K, CL100K, O200K) else 0

    @staticmethod
    def border(text: str) -> int:
        """The last place where none of the three patterns has a piece that goes on; 0 where there is none."""
        found = BORDER.match(text)
        return found.end() if found else 0

    def state(self) -> dict[str, Any]:
        return self._state


class Known(dict[str, bytes]):
    """Pieces of text with their ids: most of a text are words that were there before."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        self.dtype = np.dtype(np.uint16 if encoding.n_vocab <= 2**16 else np.uint32)

    def __missing__(self, piece: str) -> bytes:
        ids = np.array(self.encoding.encode_ordinary(piece), dtype=self.dtype).tobytes()
        if len(piece) <= LONGEST_KEPT:
            self[piece] = ids
        return ids


@functools.cache
def ascii_splitter(pattern: str) -> Callable[[str], list[str]]:
    for classes, listed in IN_ASCII.items():
        pattern = pattern.replace(classes, listed)
    return re.compile(pattern, re.ASCII).findall


def downloaded(name: str, known: Published) -> Mapping[bytes, int]:
    """By tiktoken, which keeps what it has downloaded."""
    try:
        return tiktoken.get_encoding(name)._mergeable_ranks
    except (OSError, ValueError) as error:  # no network, or not the file that was expected
        cause = str(error).partition(" (Caused by")[0]
        raise KitError(
            f"the vocabulary of {name} cannot be downloaded: {cause}; with TIKTOKEN_CACHE_DIR set to a folder that "
            f"tiktoken has filled elsewhere, or with tokenizer.file=<a copy of {known.file}>, it needs no network, and "
            "tokenizer.use=byte needs no vocabulary"
        ) from None


def copied(path: Path, known: Published) -> Mapping[bytes, int]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KitError(f"{path}: cannot be read: {error.strerror}; tokenizer.file takes {known.file}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != known.sha256:
        raise KitError(f"{path}: its sha256 is {found}, that of the {known.file} which was published {known.sha256}")
    pairs = (line.split() for line in content.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}
