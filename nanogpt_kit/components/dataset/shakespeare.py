"""Tiny Shakespeare: 40,000 lines, 1.1 MB, nanoGPT's first example. As in nanoGPT, the last tenth is for validation.

Source: Karpathy 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks" (char-rnn).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from nanogpt_kit.api import Dataset, Field, KitError, PathStr, TextFile

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TRAIN_FRACTION = 0.9  # of the characters, as in nanoGPT's data/shakespeare_char/prepare.py


class Shakespeare(Dataset):
    source: PathStr | None = Field(None, description="local copy of the file; omitted: downloaded once and verified")

    @property
    def has_own_splits(self) -> bool:
        return False

    def documents(self, split: str) -> Iterator[str]:
        text = read_whole_text(Path(self.source) if self.source else download_text())
        cut = int(len(text) * TRAIN_FRACTION)
        yield text[:cut] if split == "train" else text[cut:]

    def fingerprint(self) -> str:
        return hashlib.sha256(read_whole_text(Path(self.source)).encode()).hexdigest() if self.source else SHA256


def read_whole_text(path: Path) -> str:
    """The text of a file. Raises KitError for a file that is not text."""
    return "".join(part for document in TextFile(path, "text").documents() for part in document)


def download_text() -> Path:
    """The file in the user's cache; downloaded where it is missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanogpt-kit"
    path = cache / "tinyshakespeare.txt"
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256:
        return path
    remedy = "if you have a copy of the file, set dataset.source=<file>"
    try:
        with urllib.request.urlopen(URL, timeout=30) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:  # the latter: an incomplete response
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise KitError(f"tiny Shakespeare cannot be downloaded from {URL}: {cause}; {remedy}") from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise KitError(f"{URL} does not serve the expected tiny Shakespeare (sha256 {SHA256}); {remedy}")
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise KitError(f"tiny Shakespeare cannot be stored in {cache}: {error}; {remedy}") from None
    return path
