"""Divides documents into chunks of about half a megabyte of text, always at the same indices."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Dataset, Document, Encoder, MarkedText
from nanogpt_kit.corpus.hash_split import document_slices
from nanogpt_kit.data.dataset_sources import source_faults, sources_of

CHUNK_CHARACTERS = 1 << 19  # of text encoded at once: fits a cache, and is enough to be fast
PART_CHARACTERS = 1 << 19  # documents of this length and more are cut into parts


@dataclass
class TextChunk:
    """Consecutive documents of one split, or parts of long ones, to be encoded in one call."""

    split: str
    first_document: int  # index in its split of the document that `texts` begins with; empty documents are not counted
    starts_document: bool  # the first text is the beginning of its document
    texts: list[str] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)  # for each text: it is the end of its document
    empty_documents: int = 0  # left out on the way to this chunk
    checksum: int = 0  # of all text up to the end of this chunk
    marked: dict[int, MarkedText] = field(default_factory=dict)  # texts that count in part, by their index
    source: int = 0  # index of the source that all of it is from

    @property
    def starts(self) -> list[bool]:
        """For each text: it is the beginning of its document."""
        return [self.starts_document, *self.ends][: len(self.ends)]

    def document_index(self, text_index: int) -> int:
        """The document of the split that a text belongs to."""
        return self.first_document + sum(self.ends[:text_index])


def text_chunks(dataset: Dataset, encoder: Encoder, stats: CorpusStats) -> Iterator[TextChunk]:
    """All text of a dataset, one source after the other, in an order that never changes. `stats` observes it."""
    for index, name in enumerate(sources_of(dataset)):
        if index:
            stats.start_source()
        with source_faults(dataset, name):
            yield from source_chunks(dataset, index, name, encoder, stats)


def source_chunks(dataset: Dataset, index: int, name: str, encoder: Encoder, stats: CorpusStats) -> Iterator[TextChunk]:
    """All text of one source, by its index and name."""
    source = sources_of(dataset)[name]
    filling = {
        split: TextChunk(split, first_document=0, starts_document=True, source=index) for split in dataset.splits
    }
    sizes = dict.fromkeys(filling, 0)
    for split, document in source.documents_with_split():
        if split not in filling:
            if split in source.splits:
                continue  # that other sources lack
            raise KitError(f"the dataset yielded a document of split {split!r}; its splits are {', '.join(filling)}")
        chunk = filling[split]
        empty, at = True, 0
        for text, is_end in document_parts(document, encoder):
            if not text and empty:
                chunk.empty_documents += 1
                continue
            empty = False
            if isinstance(document, MarkedText):
                chunk.marked[len(chunk.texts)] = document.part(at, at + len(text))
                at += len(text)
            chunk.texts.append(text)
            chunk.ends.append(is_end)
            stats.observe(split, text, is_end)
            if is_end and isinstance(document, MarkedText):
                stats.observe_marks(split, document)
            sizes[split] += len(text)
            if sizes[split] >= CHUNK_CHARACTERS:
                chunk.checksum = stats.checksum
                yield chunk
                next_document = chunk.first_document + sum(chunk.ends)
                chunk = filling[split] = TextChunk(split, next_document, starts_document=is_end, source=index)
                sizes[split] = 0
    for chunk in filling.values():  # perhaps without text, but with a count of empty documents
        chunk.checksum = stats.checksum
        yield chunk


def document_parts(document: Document, encoder: Encoder) -> Iterator[tuple[str, bool]]:
    """(text, it is the last part), cut where the ids of the parts, joined, are the ids of the whole document."""
    if isinstance(document, str) and len(document) <= PART_CHARACTERS:
        yield document, True
        return
    buffer: list[str] = []
    size, limit = 0, PART_CHARACTERS
    for text in short_slices(document):
        buffer.append(text)
        size += len(text)
        if size >= limit:
            whole = buffer[0] if len(buffer) == 1 else "".join(buffer)
            at = encoder.last_safe_cut(whole)
            if at:
                yield whole[:at], False
                buffer, size, limit = [whole[at:]] if at < size else [], size - at, PART_CHARACTERS
            else:
                limit = 2 * size  # no safe cut so far: search again when there is twice as much text
    yield "".join(buffer), True


def short_slices(document: Document) -> Iterator[str]:
    """The text in slices of at most PART_CHARACTERS."""
    for text in document_slices(document):
        for at in range(0, len(text), PART_CHARACTERS):
            yield text[at : at + PART_CHARACTERS]


class TextHash:
    """The SHA-256 of the documents of a split, whatever chunks they come in. Those without text do not count."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self._is_document_open = False

    def add(self, raw: bytes, is_end: bool) -> None:
        """Takes the next bytes of a document as UTF-8; `is_end`: the document ends with them."""
        self.sha256.update(raw)
        self._is_document_open |= bool(raw)
        if is_end and self._is_document_open:
            self.sha256.update(b"\xff")  # no text contains it
            self._is_document_open = False

    def add_marks(self, raw: bytes) -> None:
        """Takes which spans of the last document count."""
        self.sha256.update(b"\xfe" + raw + b"\xff")


class CorpusStats:
    """Observes a dataset as it is read: its checksum, documents that splits share, the text of validation and test.

    `start_source` is called before each source after the first.
    """

    def __init__(self, splits: tuple[str, ...], has_own_splits: bool, sample_bytes: int, n_sources: int = 1) -> None:
        self.sample_bytes = sample_bytes
        self.validation_samples = [bytearray()]  # of each source the first `sample_bytes` bytes of its text
        self.text_hashes = {split: TextHash() for split in splits if split != "train"}
        self.source_hashes = [{split: TextHash() for split in self.text_hashes}]  # the same for each source
        self.checksum = 0  # of everything observed
        self._duplicates = dict.fromkeys(splits, 0)
        self._compares = has_own_splits
        self._train_hashes = array("Q") if n_sources > 1 else None  # where splits of a later source may repeat train
        self._split_of_hash: dict[bytes, str] = {}  # all splits except train: 8 bytes of a document's hash
        self._document_hash = hashlib.sha256()
        self._document_bytes = 0

    def start_source(self) -> None:
        self.validation_samples.append(bytearray())
        self.source_hashes.append({split: TextHash() for split in self.text_hashes})

    @property
    def validation_sample(self) -> bytearray:
        """That of the source that is being read."""
        return self.validation_samples[-1]

    @property
    def duplicates(self) -> dict[str, int]:
        """By split, the documents that are also in a split before it; the order of splits is test, val, train."""
        if self._train_hashes is None:
            return self._duplicates
        held_out = np.array([int.from_bytes(digest) for digest in self._split_of_hash], np.uint64)
        count = int(np.isin(np.frombuffer(self._train_hashes, np.uint64), held_out).sum()) if self._train_hashes else 0
        return {**self._duplicates, "train": count}

    def hashes_of(self, split: str) -> list[TextHash]:
        """Those that take the text of a split now; none of train."""
        return [self.text_hashes[split], self.source_hashes[-1][split]] if split in self.text_hashes else []

    def observe(self, split: str, text: str, is_end: bool) -> None:
        raw = text.encode("utf-8", "surrogatepass")
        if split == "val":
            self.add_to_sample(raw)
        for text_hash in self.hashes_of(split):
            text_hash.add(raw, is_end)
        self.observe_bytes(split, raw, is_end)

    def observe_marks(self, split: str, document: MarkedText) -> None:
        """Takes which spans count of the document whose end was just observed."""
        raw = repr(document.counted).encode()
        self.checksum = zlib.crc32(raw, self.checksum)
        for text_hash in self.hashes_of(split):
            text_hash.add_marks(raw)

    def add_to_sample(self, raw: bytes) -> None:
        """Takes the next bytes of the validation text, as UTF-8."""
        self.validation_sample.extend(raw[: self.sample_bytes - len(self.validation_sample)])

    def observe_bytes(self, split: str, raw: bytes, is_end: bool) -> None:
        """Takes the next bytes of a document, of its text or of its tokens; `is_end`: the document ends with them."""
        self.checksum = zlib.crc32(b"\0" if is_end else b"", zlib.crc32(raw, self.checksum))
        if self._compares:
            self._document_hash.update(raw)
            self._document_bytes += len(raw)
        if self._compares and is_end:
            if self._document_bytes:
                self._compare(split, self._document_hash.digest()[:8])
            self._document_hash, self._document_bytes = hashlib.sha256(), 0

    def _compare(self, split: str, digest: bytes) -> None:
        if split == "train" and self._train_hashes is not None:
            self._train_hashes.append(int.from_bytes(digest))
            return
        other = self._split_of_hash.get(digest)
        if other is None and split != "train":
            self._split_of_hash[digest] = split
        elif other is not None and other != split:
            self._duplicates[split] += 1
