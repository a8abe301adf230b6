"""Tokens to disk: in order, in shards that a kill leaves whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.reading import read_bytes
from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.data.encode import Encoded

JOURNAL = "progress.json"
SHARD_BYTES = 64_000_000  # of text: what a kill can cost, two seconds of BPE on two cores
IN_HAND = 4  # jobs that may wait for the disk, so that memory is bounded
SPARE_BYTES = 50_000_000  # of disk that is left to others


class StalePartial(Exception):
    """What lies there is of other text, or of another vocabulary, or is damaged."""


@dataclass
class Counts:
    """What a split holds."""

    tokens: int = 0
    bytes: int = 0  # of text
    documents: int = 0
    empty: int = 0  # documents without text, left out
    unknown: int = 0  # characters or tokens that the tokenizer does not know
    longest: int = 0  # document, in tokens, its end included
    begin: int = 0  # of the document that is being written


class Shards(BaseModel):
    """What the journal says of a split: its counts, and what lies on disk of it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    counts: dict[str, Annotated[int, Field(ge=0)]] = {}
    size: Annotated[int, Field(ge=0)] = 0  # bytes of tokens
    sha256: str = hashlib.sha256().hexdigest()  # of them
    documents_sha256: str = hashlib.sha256().hexdigest()


class Journal(BaseModel):
    """How far a preparation is."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    encoder: str
    jobs: Annotated[int, Field(ge=0)] = 0
    seen: int = 0
    splits: dict[str, Shards] = {}


@dataclass
class SplitFiles:
    """A split as it grows: <split>.bin, and in <split>.documents.bin the place of each document's first token."""

    tokens: IO[bytes]
    documents: IO[bytes]
    counts: Counts = field(default_factory=Counts)
    sha256: Any = field(default_factory=hashlib.sha256)
    documents_sha256: Any = field(default_factory=hashlib.sha256)

    def add(self, encoded: Encoded) -> None:
        counts = self.counts
        begins = encoded.begins + counts.tokens
        self.tokens.write(encoded.ids.data)
        self.documents.write(begins.data)
        self.sha256.update(encoded.ids.data)
        self.documents_sha256.update(begins.data)
        counts.tokens += len(encoded.ids)
        counts.bytes += encoded.text_bytes
        counts.unknown += encoded.unknown
        if len(begins):
            lengths = np.diff(begins, prepend=counts.begin)
            counts.longest = max(counts.longest, int(lengths.max()))
            counts.documents += len(begins)
            counts.begin = int(begins[-1])

    @property
    def hashes(self) -> dict[str, str]:
        return {"sha256": self.sha256.hexdigest(), "documents_sha256": self.documents_sha256.hexdigest()}

    def close(self) -> None:
        self.counts.longest = max(self.counts.longest, self.counts.tokens - self.counts.begin)


class Writer:
    """Takes encoded jobs in order. What lies in `folder` from a preparation that was killed is gone on with.

    `done` tells how many jobs are on disk already; they must not be added again. One thread writes and another makes
    shards last, so that neither the processor nor the disk waits for the other. Raises Outdated where what lies there
    was made by another `encoder`, which is a fingerprint, or is not what was written.
    """

    def __init__(self, folder: Path, splits: tuple[str, ...], encoder: str) -> None:
        self.folder = folder
        self.encoder = encoder
        self.journal = folder / JOURNAL
        before = read_journal(self.journal) if os.path.lexists(self.journal) else Journal(encoder=encoder)
        if before.encoder != encoder:
            raise StalePartial("another vocabulary")
        self.done = before.jobs
        self.seen = before.seen  # checksum of all text up to the last job
        self.jobs = self.done
        self.skipped = 0  # of those that are done, as the text is gone through again
        self.unsaved = 0  # bytes of text
        self.writing: deque[Future[None]] = deque()
        self.saving: Future[None] | None = None
        with ExitStack() as stack:  # threads end before the files are closed
            self.splits = {split: self._open(split, before.splits.get(split, Shards()), stack) for split in splits}
            self.saver = stack.enter_context(ThreadPoolExecutor(1, "save"))
            self.writer = stack.enter_context(ThreadPoolExecutor(1, "write"))
            self.stack = stack.pop_all()

    def _open(self, split: str, saved: Shards, stack: ExitStack) -> SplitFiles:
        try:
            counts = Counts(**saved.counts)
        except TypeError:
            raise StalePartial(f"a damaged {JOURNAL}") from None
        tokens, sha256 = reopened(self.folder / f"{split}.bin", saved.size, stack)
        documents, documents_sha256 = reopened(self.folder / f"{split}.documents.bin", 8 * counts.documents, stack)
        found = SplitFiles(tokens, documents, counts, sha256, documents_sha256)
        if found.hashes != {"sha256": saved.sha256, "documents_sha256": saved.documents_sha256}:
            raise StalePartial(f"tokens of {split} that have changed")
        return found

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stack.close()

    def skip(self, seen: int) -> bool:
        """Whether the next job lies there already. `seen`: checksum of all text up to it. Raises Outdated."""
        if self.skipped == self.done:
            return False
        self.skipped += 1
        if self.skipped == self.done and seen != self.seen:
            raise StalePartial("other text")
        return True

    def add(self, split: str, encoded: Encoded, empty: int = 0, seen: int = 0) -> None:
        """Raises OSError, as on a full disk, perhaps of what was added before."""
        self.writing.append(self.writer.submit(self._write, split, encoded, empty, seen))
        while len(self.writing) > IN_HAND or (self.writing and self.writing[0].done()):
            self.writing.popleft().result()

    def _write(self, split: str, encoded: Encoded, empty: int, seen: int) -> None:
        self.splits[split].add(encoded)
        self.splits[split].counts.empty += empty
        self.jobs += 1
        self.seen = seen
        self.unsaved += encoded.text_bytes
        if self.unsaved >= SHARD_BYTES and (self.saving is None or self.saving.done()):
            self.save()

    def save(self) -> None:
        """Begins to make last all that was written, whatever happens next. Raises what the save before has met."""
        if self.saving is not None:
            self.saving.result()
        files = [file for split in self.splits.values() for file in (split.tokens, split.documents)]
        for file in files:
            file.flush()
        splits = {
            name: Shards(counts=asdict(split.counts), size=split.tokens.tell(), **split.hashes)
            for name, split in self.splits.items()
        }
        state = Journal(encoder=self.encoder, jobs=self.jobs, seen=self.seen, splits=splits).model_dump_json()
        self.unsaved = 0

        def sync() -> None:
            for file in files:
                os.fsync(file.fileno())
            write_atomically(self.journal, state)

        self.saving = self.saver.submit(sync)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Entries of the manifest; the files are whole and on disk then, and so is the journal."""
        for written in self.writing:
            written.result()
        if self.skipped < self.done:
            raise StalePartial("other text")
        self.save()
        assert self.saving is not None, "it was just begun"
        self.saving.result()
        entries = {}
        for name, split in self.splits.items():
            split.close()
            counts = asdict(split.counts)
            del counts["begin"]
            entries[name] = {**counts, **split.hashes}
        return entries


def read_journal(path: Path) -> Journal:
    """Raises Outdated where it is damaged."""
    try:
        return Journal.model_validate_json(read_bytes(path))
    except (OSError, ValidationError):
        raise StalePartial(f"a damaged {path.name}") from None


def reopened(path: Path, size: int, stack: ExitStack) -> tuple[IO[bytes], Any]:
    """A file to write on from `size` bytes on, and the SHA-256 of what is before. Raises Outdated where that is gone.

    What comes after the last whole shard is cut off. Links are not followed: they may lead to what is not ours.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise StalePartial(f"a {path.name} that is not a regular file")
    path.touch()
    file = stack.enter_context(path.open("rb+"))
    if path.stat().st_size < size:
        raise StalePartial(f"a {path.name} that has lost bytes")
    file.truncate(size)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return file, digest


def check_room(folder: Path, wanted: float) -> None:
    """Raises KitError where the disk has less than `wanted` bytes left."""
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES > free:
        raise KitError(
            f"the tokens will take about {wanted / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in "
            f"{folder.parent.absolute()}; NANOGPT_KIT_DATA names another folder"
        )
