"""A prepared dataset on disk: tokens, where documents start, and the tokenizer that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanogpt_kit.core.errors import KitError, RunFailed, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data.data_file import DataFile
from nanogpt_kit.data.encode import token_dtype
from nanogpt_kit.data.encoders import restore_encoder
from nanogpt_kit.data.manifest import MANIFEST, DataManifest, SplitRecord, damaged_data_error, read_manifest
from nanogpt_kit.data.split import Source, Split

SHORTEST_BLOCK_SIZE = 8  # that a message proposes


@dataclass(frozen=True)
class PreparedData:
    """data/<dataset>-<tokenizer>-<hash>/ with a manifest.json, and the tokens and document starts of each split."""

    path: Path
    encoder: Encoder
    manifest: DataManifest
    sources: tuple[str, ...] = ()  # their names, in the order of their tokens; empty where the dataset is one source

    @classmethod
    def open(cls, path: Path, experiment: Experiment) -> PreparedData:
        """Raises KitError where the manifest is not what was written; `check` reads the files beside it."""
        manifest = read_manifest(path)
        tokenizer, splits = manifest.tokenizer, experiment.dataset.splits
        if set(manifest.splits) != set(splits):
            raise damaged_data_error(path, MANIFEST, f"is damaged: its splits are not {', '.join(splits)}")
        sources = tuple(experiment.dataset.sources)
        for name, split in manifest.splits.items():
            if not agrees_with_sources(split, len(sources)):
                damage = f"is damaged: splits.{name}.sources are not {len(sources)} with the tokens and documents of it"
                raise damaged_data_error(path, MANIFEST, damage)
        try:
            encoder = restore_encoder(experiment.tokenizer, tokenizer.state)
        except KitError as error:
            raise damaged_data_error(path, MANIFEST, f"is damaged: tokenizer.state: {error}") from error
        restored = encoder.vocab_size, encoder.eot_id, token_dtype(encoder).name
        if restored != (tokenizer.vocab_size, tokenizer.eot_id, manifest.dtype):
            damage = "is damaged: its vocab_size, eot_id or dtype is not that of its tokenizer"
            raise damaged_data_error(path, MANIFEST, damage)
        return cls(path, encoder, manifest, sources)

    @property
    def splits(self) -> dict[str, SplitRecord]:
        return self.manifest.splits

    @property
    def references(self) -> dict[str, float]:
        """Bits per byte that compressors reach on the validation text: {"gzip -9": 2.3, "xz -9": 2.1}."""
        return self.splits["val"].references

    @property
    def files(self) -> list[DataFile]:
        """All files except the manifest."""
        return data_files(self.path, self.manifest)

    def check(self) -> None:
        """Raises KitError with each file that is not what was written; unchanged large files are not read again."""
        damages = {file.path.name: damage for file in self.files if (damage := file.find_damage())}
        errors = [damaged_data_error(self.path, name, damage) for name, damage in damages.items()]
        if errors:
            raise KitError(*(fault for error in errors for fault in error.faults))

    def tokens(self, split: str) -> np.ndarray:
        """(n_tokens,) memory map. Raises KitError for a split that the dataset lacks."""
        if split not in self.splits:
            raise KitError(f"the dataset has no split {split!r}{did_you_mean(split, self.splits)}")
        return memory_map(tokens_file(self.path, split), self.manifest.dtype, self.splits[split].tokens)

    def document_starts(self, split: str) -> np.ndarray:
        """(n_documents,) memory map of int64, ascending: the index of each document's first token."""
        return memory_map(document_starts_file(self.path, split), "<i8", self.splits[split].documents)

    def split(self, split: str) -> Split:
        """Raises KitError for a split that the dataset lacks."""
        has_eot, counted = self.encoder.eot_id is not None, self.splits[split].counted if split in self.splits else None
        edges = memory_map(counted_file(self.path, split), "<i8", counted.edges) if counted else None
        return Split(self.tokens(split), self.document_starts(split), has_eot, self.sources_of(split), edges)

    def sources_of(self, split: str) -> tuple[Source, ...]:
        """Where each source is in a split; empty where the dataset is one source."""
        sources, token, document = [], 0, 0
        for name, record in zip(self.sources, self.splits[split].sources, strict=True):
            sources.append(Source(name, token, record.tokens, document, record.documents))
            token, document = token + record.tokens, document + record.documents
        return tuple(sources)

    def check_block_size(self, block_size: int) -> None:
        check_block_size(self.splits, block_size, self.sources)


def agrees_with_sources(split: SplitRecord, n_sources: int) -> bool:
    """Whether a split has the tokens and documents of its sources, and their number is right."""
    counts = [(source.tokens, source.documents) for source in split.sources]
    totals = [sum(column) for column in zip(*counts, strict=True)] or [split.tokens, split.documents]
    return len(counts) == n_sources and totals == [split.tokens, split.documents]


def tokens_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.bin"


def document_starts_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.documents.bin"


def counted_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.counted.bin"


def data_files(folder: Path, manifest: DataManifest) -> list[DataFile]:
    files = []
    for name, split in manifest.splits.items():
        ids = manifest.dtype, split.tokens, split.sha256, manifest.tokenizer.vocab_size
        starts = "<i8", split.documents, split.documents_sha256, split.tokens + 1  # an empty document may end the split
        files.append(DataFile(tokens_file(folder, name), *ids, ascending=False))
        files.append(DataFile(document_starts_file(folder, name), *starts, ascending=True))
        if counted := split.counted:
            edges = "<i8", counted.edges, counted.sha256, split.tokens + 1  # the last run may reach the end
            files.append(DataFile(counted_file(folder, name), *edges, ascending=True))
    return files


def memory_map(path: Path, dtype: str, count: int) -> np.ndarray:
    """Raises OSError where there is no such file, and RunFailed where it was truncated after it was checked."""
    if not count:
        return np.zeros(0, dtype)
    try:
        return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
    except ValueError as error:
        remedy = f"remove {path.parent} to prepare the data again"
        raise RunFailed(f"{path} was truncated while it was in use ({error}); {remedy}") from None


def check_block_size(splits: Mapping[str, SplitRecord], block_size: int, sources: tuple[str, ...] = ()) -> None:
    """Raises KitError where a split, or a source in it, is shorter than one window. `sources` are their names."""
    counts = {name: split.tokens for name, split in splits.items()}
    if sources:
        counts = {
            f"{name} of {source!r}": record.tokens
            for name, split in splits.items()
            for source, record in zip(sources, split.sources, strict=True)
        }
    short = {name: count for name, count in counts.items() if count <= block_size}
    if short:
        found = ", ".join(f"{name} has {count} tokens" for name, count in short.items())
        shorter = 1 << (min(short.values()) - 1).bit_length() >> 1 if min(short.values()) > 1 else 0
        remedy = f", or set model.block_size = {shorter}" if shorter >= SHORTEST_BLOCK_SIZE else ""
        needed = f"model.block_size = {block_size} needs at least {block_size + 1}"
        raise KitError(f"{found}, but {needed}; use more text{remedy}")


def check_counted(splits: Mapping[str, SplitRecord], sources: tuple[str, ...] = ()) -> None:
    """Raises KitError where no token of a split, or of a source in it, counts: there is nothing to learn or measure."""
    counts = {name: split.counted.tokens for name, split in splits.items() if split.counted}
    for name, split in splits.items():
        of_sources = zip(sources, split.sources, strict=True)
        counts |= {f"{source} in {name}": record.counted_tokens or 0 for source, record in of_sources if split.counted}
    empty = [name for name, count in counts.items() if count < 2]  # the first token is not a target
    if empty:
        reason = f"no token of {' and '.join(empty)} counts, since no span of the documents there has text"
        raise KitError(f"{reason}; mark what is to be learnt, or yield documents that are not marked")
