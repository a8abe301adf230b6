"""The manifest of prepared data: the contents of its files, and the tokenizer that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.options import digest
from nanogpt_kit.data.tokenizer_record import JsonRecord, Sha256, TokenizerRecord
from nanogpt_kit.system.json_files import read_json, write_json

FORMAT_VERSION = 4  # of the files in a data folder, and of the way text is cut into chunks
MANIFEST = "manifest.json"

Count = Annotated[int, Field(ge=0, le=2**56)]  # more than a disk has room for, and few enough to compute with


class DatasetRecord(JsonRecord):
    """Which dataset the tokens were made from."""

    use: str  # name of the component
    code: str  # the identity of the code of the component, and of those within it
    fingerprint: str  # of the options and the text that was read


class CountedRecord(JsonRecord):
    """The tokens of a split that count, where its documents are marked."""

    tokens: Count  # that count
    bytes: Count  # of the characters that they stand for
    edges: Count  # numbers in the file
    sha256: Sha256  # of the file


class SourceRecord(JsonRecord):
    """Counts and hashes of the tokens of a split that come from one source of the dataset."""

    tokens: Count  # in the file
    bytes: Count  # of text
    documents: Count  # that have text
    unknown: Count  # as in SplitRecord
    sha256: Sha256 | None = None  # of the tokens; None for train
    documents_sha256: Sha256 | None = None  # of the starts of documents, counted from its first token; None for train
    text_sha256: Sha256 | None = None  # of the text; None for train
    counted_tokens: Count | None = None  # None where every token of the split counts
    counted_bytes: Count | None = None  # of the text of those that count; None likewise
    counted_sha256: Sha256 | None = None  # of the edges in the file, counted from its first token; None for train

    @property
    def measured_bytes(self) -> int:
        """Bytes of the text that a loss over its tokens is of."""
        return self.bytes if self.counted_bytes is None else self.counted_bytes


class SplitRecord(JsonRecord):
    """Counts and hashes of one split."""

    tokens: Count  # in the file
    bytes: Count  # of text
    documents: Count  # that have text
    empty: Count  # documents without text, left out
    unknown: Count  # characters or tokens that the tokenizer does not know, or, except in train, whose text it changes
    longest: Count  # document, in tokens, its end included
    duplicates: Count  # documents that are also in a smaller split
    sha256: Sha256  # of the tokens
    documents_sha256: Sha256  # of the starts of documents
    text_sha256: Sha256 | None = None  # of the text, the same for every tokenizer; None for train
    references: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}  # bits per byte, by compressor
    counted: CountedRecord | None = None  # None, and not in the file: every token counts
    sources: list[SourceRecord] = []  # in the order of their tokens; empty where the dataset is one source

    @property
    def measured_bytes(self) -> int:
        """Bytes of the text that a loss over its tokens is of."""
        return self.counted.bytes if self.counted else self.bytes

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value or key not in ("counted", "sources")}


class DataManifest(JsonRecord):
    """manifest.json in a folder of prepared data."""

    version: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]  # of this format
    dataset: DatasetRecord
    tokenizer: TokenizerRecord
    dtype: Literal["uint16", "uint32"]  # of a token in the files
    splits: dict[str, SplitRecord]
    sha256: Sha256  # of all other values

    @classmethod
    def make(
        cls, dataset: DatasetRecord, tokenizer: TokenizerRecord, dtype: str, splits: dict[str, SplitRecord]
    ) -> DataManifest:
        values = {
            "version": FORMAT_VERSION,
            "dataset": dataset.as_json(),
            "tokenizer": tokenizer.as_json(),
            "dtype": dtype,
            "splits": {name: split.as_json() for name, split in splits.items()},
        }
        return cls.of_json({**values, "sha256": manifest_hash(values)})

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, self.as_json())


class OtherVersion(ValueError):
    """Another version of the kit has written the manifest."""


def load_manifest(folder: Path) -> DataManifest:
    """The manifest of a folder. Raises OSError, OtherVersion, and ValueError where it is not what was written."""
    values = read_json(folder / MANIFEST)
    if isinstance(values, dict) and values.get("version", FORMAT_VERSION) != FORMAT_VERSION:
        raise OtherVersion(f"version: should be {FORMAT_VERSION} for this nanogpt-kit, got {values['version']!r}")
    manifest = DataManifest.of_json(values)
    if manifest.tokenizer.compute_fingerprint() != manifest.tokenizer.fingerprint:
        raise ValueError("its tokenizer, vocabulary included, is not the one that made the tokens")
    if manifest_hash(values) != manifest.sha256:
        raise ValueError("it was changed since it was written")
    return manifest


def read_manifest(folder: Path) -> DataManifest:
    """The manifest of a folder. Raises KitError with a remedy where it is not what was written."""
    try:
        return load_manifest(folder)
    except OSError as error:
        raise damaged_data_error(folder, MANIFEST, f"cannot be read ({error.strerror})") from None
    except OtherVersion as error:
        raise damaged_data_error(folder, MANIFEST, f"is of another format: {error}") from None
    except RecursionError:
        raise damaged_data_error(folder, MANIFEST, "is damaged: too deeply nested") from None
    except ValueError as error:
        raise damaged_data_error(folder, MANIFEST, f"is damaged: {error}") from None


def damaged_data_error(folder: Path, name: str, damage: str) -> KitError:
    return KitError(f"{folder / name} {damage}; remove {folder} to prepare the data again")


def manifest_hash(values: dict[str, Any]) -> str:
    """The hash of all values except the hash itself; a vocabulary of megabytes is included by its fingerprint."""
    tokenizer = {key: value for key, value in values["tokenizer"].items() if key != "state"}
    return digest({key: value for key, value in values.items() if key != "sha256"} | {"tokenizer": tokenizer})
