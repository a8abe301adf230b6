"""A prepared dataset on disk: tokens, what they are, and the tokenizer that made them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt_kit.core.errors import KitError, nearest
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, Tokenizer
from nanogpt_kit.core.options import digest
from nanogpt_kit.data.split import Split
from nanogpt_kit.runs.files import read_json

VERSION = 2  # of the files in a data folder, and of the way text is cut into jobs

LISTED = "%s.documents.bin"  # where the documents of a split begin


@dataclass(frozen=True)
class Prepared:
    """data/<dataset>-<tokenizer>-<hash>/ with a manifest.json, and the tokens and documents of each split."""

    path: Path
    encoder: Encoder

    @classmethod
    def open(cls, path: Path, tokenizer: Tokenizer) -> Prepared:
        """Raises KitError where files are not of the size that they were."""
        prepared = cls(path, tokenizer.restore(read_json(path / "manifest.json")["tokenizer"]["state"]))
        width = np.dtype(prepared.manifest["dtype"]).itemsize
        for split, values in prepared.splits.items():
            for name, size in ((f"{split}.bin", width * values["tokens"]), (LISTED % split, 8 * values["documents"])):
                found = (path / name).stat().st_size if (path / name).exists() else 0
                if found != size:
                    raise KitError(f"{path / name} has {found} bytes instead of {size}; remove {path} to prepare anew")
        return prepared

    @cached_property
    def manifest(self) -> dict[str, Any]:
        values: dict[str, Any] = read_json(self.path / "manifest.json")
        return values

    @property
    def splits(self) -> dict[str, Any]:
        """{"train": {"tokens": ..., "bytes": ..., "documents": ..., "sha256": ...}, ...}"""
        splits: dict[str, Any] = self.manifest["splits"]
        return splits

    @property
    def references(self) -> dict[str, float]:
        """What compressors reach on the validation text, in bits a byte: {"gzip -9": 2.3, "xz -9": 2.1}."""
        references: dict[str, float] = self.splits["val"]["references"]
        return references

    def tokens(self, split: str) -> np.ndarray:
        """(n_tokens,) memory map. Raises KitError for a split that the dataset lacks."""
        if split not in self.splits:
            raise KitError(f"the dataset has no split {split!r}{nearest(split, self.splits)}")
        return np.memmap(self.path / f"{split}.bin", dtype=self.manifest["dtype"], mode="r")

    def documents(self, split: str) -> np.ndarray:
        """(n_documents,) memory map of int64: the place of each one's first token, ascending."""
        return np.memmap(self.path / (LISTED % split), dtype="<i8", mode="r")

    def split(self, split: str) -> Split:
        """Raises KitError for a split that the dataset lacks."""
        return Split(self.tokens(split), self.documents(split), self.encoder.eot_id is not None)

    def check_block_size(self, block_size: int) -> None:
        check_block_size({split: values["tokens"] for split, values in self.splits.items()}, block_size)


def tokenizer_identity(experiment: Experiment) -> dict[str, Any]:
    """Which tokenizer, with which options: all that decides it but the text."""
    entry = experiment.entry_of(experiment.tokenizer)
    resolved, left_out = experiment.resolved()["tokenizer"], experiment.tokenizer.whereabouts
    options = {key: value for key, value in resolved.items() if key not in left_out}
    return {"code": entry.identity, **options, "use": entry.name, "files": experiment.tokenizer.fingerprint()}


def tokenizer_record(experiment: Experiment, encoder: Encoder) -> dict[str, Any]:
    """A tokenizer as data folders and checkpoints keep it: `Tokenizer.restore` takes its `state`."""
    identity, state = tokenizer_identity(experiment), encoder.state()
    return {
        **identity,
        "vocab_size": encoder.vocab_size,
        "eot_id": encoder.eot_id,
        "fingerprint": digest([identity, state]),
        "state": state,
    }


def check_block_size(tokens: dict[str, int], block_size: int) -> None:
    """Raises KitError where a split is shorter than one window and its next token."""
    short = {split: count for split, count in tokens.items() if count <= block_size}
    if short:
        counts = ", ".join(f"{split} has {count} tokens" for split, count in short.items())
        raise KitError(
            f"{counts}, but model.block_size = {block_size} needs {block_size + 1} at least; "
            "take a smaller block_size or more text"
        )
