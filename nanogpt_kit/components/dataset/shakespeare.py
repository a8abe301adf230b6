"""Tiny Shakespeare: 40,000 lines, 1.1 MB, the text of nanoGPT's first example. The last tenth validates, as there.

Source: Karpathy 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks" (char-rnn).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from nanogpt_kit.api import Dataset, Field, KitError, PathStr, TextFile

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TRAIN_SHARE = 0.9  # of the characters, as in nanoGPT's data/shakespeare_char/prepare.py


class Shakespeare(Dataset):
    source: PathStr | None = Field(None, description="a copy of the file; left out: downloaded once and checked")

    @property
    def has_own_splits(self) -> bool:
        return False

    def documents(self, split: str) -> Iterator[str]:
        text = whole_text(Path(self.source) if self.source else downloaded())
        cut = int(len(text) * TRAIN_SHARE)
        yield text[:cut] if split == "train" else text[cut:]

    def fingerprint(self) -> str:
        return hashlib.sha256(whole_text(Path(self.source)).encode()).hexdigest() if self.source else SHA256


def whole_text(path: Path) -> str:
    """Raises KitError for what is not text."""
    return "".join(piece for document in TextFile(path, "text").documents() for piece in document)


def downloaded() -> Path:
    """The file in the user's cache, fetched where it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanogpt-kit"
    path = cache / "tinyshakespeare.txt"
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256:
        return path
    remedy = "with a copy of the file at hand, set dataset.source=<file>"
    try:
        with urllib.request.urlopen(URL, timeout=30) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:  # the latter: an answer that was cut short
        raise KitError(f"tiny Shakespeare cannot be downloaded from {URL}: {error}; {remedy}") from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise KitError(f"{URL} is not the tiny Shakespeare that is expected (sha256 {SHA256}); {remedy}")
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise KitError(f"tiny Shakespeare cannot be kept in {cache}: {error}; {remedy}") from None
    return path
