"""A prepared dataset on disk: tokens, what they are, and the tokenizer that made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt_kit.core.errors import KitError, RunFailed, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data import record
from nanogpt_kit.data.damage import DataFile
from nanogpt_kit.data.encode import token_type
from nanogpt_kit.data.record import MANIFEST, damaged, read_manifest
from nanogpt_kit.data.split import Split
from nanogpt_kit.data.vocabulary import restored

LISTED = "%s.documents.bin"  # where the documents of a split begin


@dataclass(frozen=True)
class Prepared:
    """data/<dataset>-<tokenizer>-<hash>/ with a manifest.json, and the tokens and documents of each split."""

    path: Path
    encoder: Encoder
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path, experiment: Experiment) -> Prepared:
        """Raises KitError where the manifest is not what was written; the files beside it are for `check` to read."""
        manifest = read_manifest(path)
        tokenizer, splits = manifest["tokenizer"], experiment.dataset.splits
        if set(manifest["splits"]) != set(splits):
            raise damaged(path, MANIFEST, f"is damaged: its splits are not {', '.join(splits)}")
        try:
            encoder = restored(experiment.tokenizer, tokenizer["state"])
        except KitError as error:
            raise damaged(path, MANIFEST, f"is damaged: tokenizer.state: {error}") from error
        found = encoder.vocab_size, encoder.eot_id, token_type(encoder).name
        if found != (tokenizer["vocab_size"], tokenizer["eot_id"], manifest["dtype"]):
            raise damaged(path, MANIFEST, "is damaged: its vocab_size, eot_id or dtype is not that of its tokenizer")
        return cls(path, encoder, manifest)

    @property
    def splits(self) -> dict[str, Any]:
        """{"train": {"tokens": ..., "bytes": ..., "documents": ..., "sha256": ...}, ...}"""
        splits: dict[str, Any] = self.manifest["splits"]
        return splits

    @property
    def references(self) -> dict[str, float]:
        """What compressors reach on the validation text, in bits a byte: {"gzip -9": 2.3, "xz -9": 2.1}."""
        references: dict[str, float] = self.splits["val"].get("references", {})
        return references

    @property
    def files(self) -> list[DataFile]:
        """All beside the manifest."""
        return data_files(self.path, self.manifest)

    def check(self) -> None:
        """Raises KitError with each file that is not what was written; large ones that did not change are not read."""
        found = [(file.path.name, what) for file in self.files if (what := file.damage())]
        if found:
            raise KitError(*(fault for name, what in found for fault in damaged(self.path, name, what).faults))

    def tokens(self, split: str) -> np.ndarray:
        """(n_tokens,) memory map. Raises KitError for a split that the dataset lacks."""
        if split not in self.splits:
            raise KitError(f"the dataset has no split {split!r}{did_you_mean(split, self.splits)}")
        return mapped(self.path / f"{split}.bin", self.manifest["dtype"], self.splits[split]["tokens"])

    def documents(self, split: str) -> np.ndarray:
        """(n_documents,) memory map of int64: the place of each one's first token, ascending."""
        return mapped(self.path / (LISTED % split), "<i8", self.splits[split]["documents"])

    def split(self, split: str) -> Split:
        """Raises KitError for a split that the dataset lacks."""
        return Split(self.tokens(split), self.documents(split), self.encoder.eot_id is not None)

    def check_block_size(self, block_size: int) -> None:
        check_block_size({split: values["tokens"] for split, values in self.splits.items()}, block_size)


def data_files(folder: Path, manifest: dict[str, Any]) -> list[DataFile]:
    files = []
    for split, values in manifest["splits"].items():
        tokens, documents = values["tokens"], values["documents"]
        ids = manifest["dtype"], tokens, values["sha256"], manifest["tokenizer"]["vocab_size"]
        places = "<i8", documents, values["documents_sha256"], tokens + 1  # one without tokens may end the split
        files.append(DataFile(folder / f"{split}.bin", *ids, ascends=False))
        files.append(DataFile(folder / (LISTED % split), *places, ascends=True))
    return files


def mapped(path: Path, dtype: str, count: int) -> np.ndarray:
    """Raises OSError where there is no such file, and RunFailed where it was cut since it was checked."""
    if not count:
        return np.zeros(0, dtype)
    try:
        return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
    except ValueError as error:
        raise RunFailed(f"{path} was cut while it was in use ({error}); remove {path.parent} to prepare anew") from None


def tokenizer_identity(experiment: Experiment) -> dict[str, Any]:
    """Which tokenizer, with which options: all that decides it but the text."""
    entry = experiment.entry_of(experiment.tokenizer)
    resolved, left_out = experiment.resolved()["tokenizer"], experiment.tokenizer.location_options
    options = {key: value for key, value in resolved.items() if key not in left_out}
    return {"code": entry.identity, **options, "use": entry.name, "files": experiment.tokenizer.fingerprint()}


def tokenizer_record(experiment: Experiment, encoder: Encoder) -> dict[str, Any]:
    """A tokenizer as data folders and checkpoints keep it: `Tokenizer.restore` takes its `state`."""
    state = json.loads(json.dumps(encoder.state()))  # as it comes back from disk, so that its hash does, too
    values = {
        **tokenizer_identity(experiment),
        "vocab_size": encoder.vocab_size,
        "eot_id": encoder.eot_id,
        "state": state,
    }
    return {**values, "fingerprint": record.fingerprint(values)}


def check_block_size(tokens: dict[str, int], block_size: int) -> None:
    """Raises KitError where a split is shorter than one window and its next token."""
    short = {split: count for split, count in tokens.items() if count <= block_size}
    if short:
        counts = ", ".join(f"{split} has {count} tokens" for split, count in short.items())
        raise KitError(
            f"{counts}, but model.block_size = {block_size} needs {block_size + 1} at least; "
            "take a smaller block_size or more text"
        )
