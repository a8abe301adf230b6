"""From documents to jobs: about half a megabyte of text each, long documents in pieces, always cut alike."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Dataset, Document, Encoder
from nanogpt_kit.corpus.hash_split import pieces

JOB_CHARACTERS = 1 << 19  # of text encoded at once: fits a cache, and is enough to be fast
PIECE_CHARACTERS = 1 << 19  # from this length on a document is cut


@dataclass
class Job:
    """Pieces of documents of one split, to be encoded in one go."""

    split: str
    first: int  # number of the document that the first piece belongs to, from 0 and without empty ones
    opens: bool  # whether that piece begins its document
    texts: list[str] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)  # whether each piece ends its document
    empty: int = 0  # documents without text that were passed over meanwhile
    seen: int = 0  # checksum of all text up to this job

    @property
    def begins(self) -> list[bool]:
        """Whether each piece begins a document."""
        return [self.opens, *self.ends][: len(self.ends)]


def jobs(dataset: Dataset, encoder: Encoder, watch: Watch) -> Iterator[Job]:
    """All of a dataset, in an order that never changes. `watch` sees every piece."""
    waiting = {split: Job(split, first=0, opens=True) for split in dataset.splits}
    sizes = dict.fromkeys(waiting, 0)
    for split, document in dataset.documents_with_split():
        if split not in waiting:
            raise KitError(f"the dataset gave a document to {split!r}; its splits are {', '.join(waiting)}")
        job = waiting[split]
        empty = True
        for text, ends in cut_up(document, encoder):
            if not text and empty:
                job.empty += 1
                continue
            empty = False
            job.texts.append(text)
            job.ends.append(ends)
            watch.see(split, text, ends)
            sizes[split] += len(text)
            if sizes[split] >= JOB_CHARACTERS:
                job.seen = watch.checksum
                yield job
                following = job.first + sum(job.ends)
                job = waiting[split] = Job(split, following, opens=ends)
                sizes[split] = 0
    for job in waiting.values():  # perhaps without text, but with a count of empty documents
        job.seen = watch.checksum
        yield job


def cut_up(document: Document, encoder: Encoder) -> Iterator[tuple[str, bool]]:
    """(piece, whether it is the last) of a document; each encodes to its share of the ids of the whole."""
    if isinstance(document, str) and len(document) <= PIECE_CHARACTERS:
        yield document, True
        return
    waiting: list[str] = []
    size, limit = 0, PIECE_CHARACTERS
    for text in slices(document):
        waiting.append(text)
        size += len(text)
        if size >= limit:
            whole = waiting[0] if len(waiting) == 1 else "".join(waiting)
            at = encoder.cut(whole)
            if at:
                yield whole[:at], False
                waiting, size, limit = [whole[at:]] if at < size else [], size - at, PIECE_CHARACTERS
            else:
                limit = 2 * size  # nowhere so far: look again when there is twice as much
    yield "".join(waiting), True


def slices(document: Document) -> Iterator[str]:
    for piece in pieces(document):
        for at in range(0, len(piece), PIECE_CHARACTERS):
            yield piece[at : at + PIECE_CHARACTERS]


class Watch:
    """What is noticed while a dataset goes by: where splits share documents, and how validation begins."""

    def __init__(self, splits: tuple[str, ...], brings_splits: bool, reference_bytes: int) -> None:
        self.reference_bytes = reference_bytes
        self.val = bytearray()  # the first `reference_bytes` of its text
        self.duplicates = dict.fromkeys(splits, 0)  # documents of a split that are in one before it, too
        self.checksum = 0  # of all that was seen
        self._compares = brings_splits
        self._known: dict[bytes, str] = {}  # of the splits but train: 8 bytes of a document's hash -> its split
        self._hashed = hashlib.sha256()
        self._size = 0  # of what is hashed

    def see(self, split: str, text: str, ends: bool) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        if split == "val":
            self.see_validation(raw)
        self.see_part(split, raw, ends)

    def see_validation(self, raw: bytes) -> None:
        """UTF-8 of the validation text, in pieces."""
        self.val += raw[: self.reference_bytes - len(self.val)]

    def see_part(self, split: str, raw: bytes, ends: bool) -> None:
        """Bytes of a document, of its text or its tokens; with `ends`, its last."""
        self.checksum = zlib.crc32(b"\0" if ends else b"", zlib.crc32(raw, self.checksum))
        if self._compares:
            self._hashed.update(raw)
            self._size += len(raw)
        if self._compares and ends:
            if self._size:
                self._compare(split, self._hashed.digest()[:8])
            self._hashed, self._size = hashlib.sha256(), 0

    def _compare(self, split: str, digest: bytes) -> None:
        before = self._known.get(digest)
        if before is None and split != "train":
            self._known[digest] = split
        elif before is not None and before != split:
            self.duplicates[split] += 1
