"""The files of a split while they are written, and what an unfinished preparation remembers of them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import IO, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nanogpt_kit.data.counted import CountedFile, CountedState, CountedTokens
from nanogpt_kit.data.encode import EncodedChunk
from nanogpt_kit.data.manifest import SplitRecord

SOURCE_COUNTS = ("tokens", "bytes", "documents", "unknown", "counted_tokens", "counted_bytes")  # see SourceRecord


@dataclass
class SplitCounts:
    """Counts of the tokens of a split that are written so far; see SplitRecord."""

    tokens: int = 0
    bytes: int = 0
    documents: int = 0
    empty: int = 0
    unknown: int = 0
    longest: int = 0
    begin: int = 0  # index of the first token of the document that is being written


class SplitState(BaseModel):
    """A split in the journal: its counts, and the size and hashes of its files."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    counts: dict[str, Annotated[int, Field(ge=0)]] = {}
    sources: list[dict[str, Annotated[int, Field(ge=0)]]] = []  # counts of each
    size: Annotated[int, Field(ge=0)] = 0  # bytes of tokens
    sha256: str = hashlib.sha256().hexdigest()  # of the tokens
    documents_sha256: str = hashlib.sha256().hexdigest()
    counted: CountedState = CountedState()


@dataclass
class SplitFiles:
    """A split while it is written: its tokens, the index of the first one of each document, and which of them count."""

    tokens: IO[bytes]
    document_starts: IO[bytes]
    counted: CountedFile
    sources: list[dict[str, int]]  # counts of each; empty where the dataset is one source
    counts: SplitCounts = field(default_factory=SplitCounts)
    sha256: Any = field(default_factory=hashlib.sha256)
    documents_sha256: Any = field(default_factory=hashlib.sha256)

    def add(self, chunk: EncodedChunk, source: int) -> None:
        counted = chunk.counted or CountedTokens(np.array([0, len(chunk.ids)]), chunk.text_bytes)
        added = (len(chunk.ids), chunk.text_bytes, len(chunk.document_starts), chunk.unknown)
        for of_source in self.sources[source : source + 1]:
            for name, count in zip(SOURCE_COUNTS, (*added, counted.n_tokens, counted.text_bytes), strict=True):
                of_source[name] += count
        counts = self.counts
        starts = chunk.document_starts + counts.tokens
        self.tokens.write(chunk.ids.data)
        self.document_starts.write(starts.data)
        self.sha256.update(chunk.ids.data)
        self.documents_sha256.update(starts.data)
        self.counted.add(chunk.counted, len(chunk.ids), chunk.text_bytes, before=(counts.tokens, counts.bytes))
        counts.tokens += len(chunk.ids)
        counts.bytes += chunk.text_bytes
        counts.unknown += chunk.unknown
        if len(starts):
            lengths = np.diff(starts, prepend=counts.begin)
            counts.longest = max(counts.longest, int(lengths.max()))
            counts.documents += len(starts)
            counts.begin = int(starts[-1])

    @property
    def all_files(self) -> tuple[IO[bytes], ...]:
        return self.tokens, self.document_starts, self.counted.file

    @property
    def hashes(self) -> dict[str, str]:
        return {"sha256": self.sha256.hexdigest(), "documents_sha256": self.documents_sha256.hexdigest()}

    def state(self) -> SplitState:
        size, counts = self.tokens.tell(), asdict(self.counts)
        return SplitState(counts=counts, sources=self.sources, size=size, counted=self.counted.state, **self.hashes)

    def finish(self) -> SplitRecord:
        counts = asdict(self.counts)
        counts["longest"] = max(counts["longest"], counts["tokens"] - counts.pop("begin"))
        marks = self.counted.finish()
        names = [name for name in SOURCE_COUNTS if marks or not name.startswith("counted")]
        sources = [{name: source[name] for name in names} for source in self.sources]
        of_files = {**self.hashes, "duplicates": 0, "sources": sources, "counted": marks}
        return SplitRecord.of_json({**counts, **of_files})
