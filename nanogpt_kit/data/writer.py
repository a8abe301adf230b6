"""Writes tokens to disk in order, in shards that stay whole where the process is killed."""

from __future__ import annotations

import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.data.counted import CountedFile
from nanogpt_kit.data.encode import EncodedChunk
from nanogpt_kit.data.manifest import SplitRecord
from nanogpt_kit.data.prepared_data import counted_file, document_starts_file, tokens_file
from nanogpt_kit.data.split_files import SOURCE_COUNTS, SplitCounts, SplitFiles, SplitState
from nanogpt_kit.data.unfinished_file import StalePreparation, reopen_truncated
from nanogpt_kit.system.reading import read_bytes
from nanogpt_kit.system.writing import write_atomically

JOURNAL = "progress.json"
SHARD_BYTES = 64_000_000  # of text: what a kill can cost, two seconds of BPE on two cores
MAX_QUEUED_CHUNKS = 4  # that wait for the disk, so that memory is bounded
RESERVED_BYTES = 50_000_000  # of disk, left to other programs


class Journal(BaseModel):
    """progress.json: how far an unfinished preparation has come."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    encoder: str  # fingerprint
    chunks: Annotated[int, Field(ge=0)] = 0
    checksum: int = 0  # of all text up to the last chunk
    splits: dict[str, SplitState] = {}


class TokenWriter:
    """Takes encoded chunks in order, and continues what a killed preparation left in `folder`.

    `chunks_on_disk` must not be added again. One thread writes and another flushes shards to disk, so that neither the
    processor nor the disk waits for the other. Raises StalePreparation where the partial data was made by another
    encoder (its `fingerprint`), or was changed since.
    """

    def __init__(self, folder: Path, splits: tuple[str, ...], fingerprint: str, n_sources: int = 0) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.n_sources = n_sources
        self.journal = folder / JOURNAL
        before = read_journal(self.journal) if os.path.lexists(self.journal) else Journal(encoder=fingerprint)
        if before.encoder != fingerprint:
            raise StalePreparation("it used another vocabulary")
        self.chunks_on_disk = before.chunks
        self.chunks = before.chunks
        self.checksum = before.checksum
        self.skipped = 0  # of `chunks_on_disk`, as the text is read again
        self.unsaved_bytes = 0  # of text
        self.writes: deque[Future[None]] = deque()
        self.flush: Future[None] | None = None
        with ExitStack() as stack:  # threads end before the files are closed
            self.splits = {split: self._open(split, before.splits.get(split, SplitState()), stack) for split in splits}
            self.flush_thread = stack.enter_context(ThreadPoolExecutor(1, "flush"))
            self.write_thread = stack.enter_context(ThreadPoolExecutor(1, "write"))
            self.stack = stack.pop_all()

    def _open(self, split: str, state: SplitState, stack: ExitStack) -> SplitFiles:
        try:
            counts = SplitCounts(**state.counts)
        except TypeError:
            raise StalePreparation(f"its {JOURNAL} is damaged") from None
        sources = state.sources or [dict.fromkeys(SOURCE_COUNTS, 0) for _ in range(self.n_sources)]
        if len(sources) != self.n_sources or any(set(source) != set(SOURCE_COUNTS) for source in sources):
            raise StalePreparation(f"its {JOURNAL} has other sources")
        tokens, sha256 = reopen_truncated(tokens_file(self.folder, split), state.size, stack)
        starts, documents_sha256 = reopen_truncated(
            document_starts_file(self.folder, split), 8 * counts.documents, stack
        )
        edges, counted_sha256 = reopen_truncated(counted_file(self.folder, split), 8 * state.counted.edges, stack)
        counted = CountedFile(edges, counted_sha256, state.counted)
        files = SplitFiles(tokens, starts, counted, sources, counts, sha256, documents_sha256)
        hashes = {"sha256": state.sha256, "documents_sha256": state.documents_sha256}
        if files.hashes != hashes or counted_sha256.hexdigest() != state.counted.sha256:
            raise StalePreparation(f"its tokens of {split} have changed")
        return files

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stack.close()

    def skip(self, checksum: int) -> bool:
        """True where the next chunk is on disk already. `checksum` is that of all text up to its end.

        Raises StalePreparation where the text is not the one that was written.
        """
        if self.skipped == self.chunks_on_disk:
            return False
        self.skipped += 1
        if self.skipped == self.chunks_on_disk and checksum != self.checksum:
            raise StalePreparation("its text has changed")
        return True

    def add(
        self, split: str, chunk: EncodedChunk, empty_documents: int = 0, checksum: int = 0, source: int = 0
    ) -> None:
        """Queues a chunk to be written. Raises OSError, as on a full disk, for this chunk or one added before."""
        self.writes.append(self.write_thread.submit(self._write, split, chunk, empty_documents, checksum, source))
        while len(self.writes) > MAX_QUEUED_CHUNKS or (self.writes and self.writes[0].done()):
            self.writes.popleft().result()

    def _write(self, split: str, chunk: EncodedChunk, empty_documents: int, checksum: int, source: int) -> None:
        self.splits[split].add(chunk, source)
        self.splits[split].counts.empty += empty_documents
        self.chunks += 1
        self.checksum = checksum
        self.unsaved_bytes += chunk.text_bytes
        if self.unsaved_bytes >= SHARD_BYTES and (self.flush is None or self.flush.done()):
            self.start_flush()

    def start_flush(self) -> None:
        """Starts flushing everything written so far to disk. Raises the error of the flush before."""
        if self.flush is not None:
            self.flush.result()
        files = [file for split in self.splits.values() for file in split.all_files]
        for file in files:
            file.flush()
        splits = {name: split.state() for name, split in self.splits.items()}
        journal = Journal(encoder=self.fingerprint, chunks=self.chunks, checksum=self.checksum, splits=splits)
        state = journal.model_dump_json()
        self.unsaved_bytes = 0

        def sync() -> None:
            for file in files:
                os.fsync(file.fileno())
            write_atomically(self.journal, state)

        self.flush = self.flush_thread.submit(sync)

    def finish(self) -> dict[str, SplitRecord]:
        """Waits until all files and the journal are on disk. Returns the records for the manifest."""
        for write in self.writes:
            write.result()
        if self.skipped < self.chunks_on_disk:
            raise StalePreparation("its text has changed")
        self.start_flush()
        assert self.flush is not None, "it was just started"
        self.flush.result()
        return {name: split.finish() for name, split in self.splits.items()}


def read_journal(path: Path) -> Journal:
    """The journal of an unfinished preparation. Raises StalePreparation where it is damaged."""
    try:
        return Journal.model_validate_json(read_bytes(path))
    except (OSError, ValidationError):
        raise StalePreparation(f"its {path.name} is damaged") from None


def check_free_space(folder: Path, needed: float) -> None:
    """Raises KitError where the disk has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed + RESERVED_BYTES > free:
        raise KitError(
            f"the tokens need about {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in "
            f"{folder.parent.absolute()}; set NANOGPT_KIT_DATA to another folder"
        )
