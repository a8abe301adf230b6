"""Your own text: .txt files (each a document) and .jsonl files (a document a line), by path, glob or folder.

Documents are split by a hash of their text, so that equal ones never end up in both splits and, once there are enough
to fill both, adding one moves no other. A single document is split at its tail.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from nanogpt_kit.api import Dataset, Field, KitError, read_text

ENDINGS = (".txt", ".jsonl")


class Text(Dataset):
    source: str | tuple[str, ...] = Field(description="files, globs or folders, relative to the current folder")
    field: str = Field("text", description="the key of each line of a .jsonl file that holds the text")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of validation: of documents, or of a single one")

    def documents(self, split: str) -> Iterator[str]:
        few = self._few()
        if few is None:
            yield from (text for text in self._all() if (place(text) < self.val_fraction) == (split == "val"))
        elif len(few) == 1:
            cut = int(len(few[0]) * (1 - self.val_fraction))
            yield few[0][cut:] if split == "val" else few[0][:cut]
        else:
            lowest = min(few, key=place)  # too few for the hash to fill both splits: one of them validates
            yield from (text for text in self._all() if (text == lowest) == (split == "val"))

    def fingerprint(self) -> str:
        hashed = hashlib.sha256(f"{self.field} {self.val_fraction}".encode())
        for path in self._paths():
            with path.open("rb") as file:
                hashed.update(path.suffix.encode() + hashlib.file_digest(file, "sha256").digest())
        return hashed.hexdigest()

    def _few(self) -> list[str] | None:
        """The distinct documents, where they are too few to fill both splits; None as soon as both have one."""
        seen: dict[str, bool] = {}
        for text in self._all():
            seen[text] = place(text) < self.val_fraction
            if len(set(seen.values())) == 2:
                return None
        if not seen:
            raise KitError(f"dataset text: {self.source!r} holds no text: every document is empty")
        return list(seen)

    def _all(self) -> Iterator[str]:
        for path in self._paths():
            text = read_text(path)
            documents = self._lines(path, text) if path.suffix == ".jsonl" else [text]
            yield from (document for document in documents if document)

    def _lines(self, path: Path, text: str) -> Iterator[str]:
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise KitError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(record, dict) or not isinstance(record.get(self.field), str):
                has = f"it has {', '.join(record)}" if isinstance(record, dict) else "it is no object"
                raise KitError(f"{path}:{number}: no text under {self.field!r} ({has}); dataset.field names the key")
            yield record[self.field]

    def _paths(self) -> list[Path]:
        """Files in the order of the sources, folders and globs sorted by name. Raises KitError where there are none."""
        sources = (self.source,) if isinstance(self.source, str) else self.source
        found: list[Path] = []
        for source in sources:
            named = Path(source)
            if named.is_dir():
                paths = sorted(path for path in named.rglob("*") if path.suffix in ENDINGS and path.is_file())
            elif named.is_file():
                paths = [named]
            else:
                paths = sorted(Path(match) for match in glob.glob(source, recursive=True) if Path(match).is_file())
            if not paths:
                what = (
                    f"a folder without {' or '.join(ENDINGS)} files"
                    if named.is_dir()
                    else "no file, folder or glob match"
                )
                raise KitError(f"dataset.source: {source!r} is {what} (from {Path.cwd()})")
            found += paths
        return list(dict.fromkeys(found))


def place(text: str) -> float:
    """In [0, 1), by the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
