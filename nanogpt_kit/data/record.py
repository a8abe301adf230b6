"""What a manifest of prepared data records, and whether one that lies there is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.options import digest
from nanogpt_kit.runs.files import read_json

VERSION = 3  # of the files in a data folder, and of the way text is cut into jobs
MANIFEST = "manifest.json"

Count = Annotated[int, Field(ge=0, le=2**56)]  # more than a disk has room for, and few enough to compute with
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Of JSON: nothing is converted, and what else is there is the business of those who wrote it."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class DatasetRecord(Record):
    use: str
    code: str
    fingerprint: str


class TokenizerRecord(Record):
    use: str
    code: str
    vocab_size: Annotated[int, Field(ge=1, le=2**32)]
    eot_id: int | None
    fingerprint: Sha256
    state: dict[str, Any]


class SplitRecord(Record):
    tokens: Count
    bytes: Count
    documents: Count
    empty: Count
    unknown: Count
    longest: Count
    duplicates: Count
    sha256: Sha256  # of the tokens
    documents_sha256: Sha256
    references: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}


class ManifestRecord(Record):
    version: Annotated[int, Field(ge=VERSION, le=VERSION)]
    dataset: DatasetRecord
    tokenizer: TokenizerRecord
    dtype: Literal["uint16", "uint32"]
    splits: dict[str, SplitRecord]
    sha256: Sha256


def check(kind: type[Record], values: object) -> None:
    """Raises ValueError that names the first key whose value is not one of such a record."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(part if str(part).isprintable() else ascii(part) for part in map(str, first["loc"]))
        raise ValueError(f"{key}: {first['msg']}" if key else first["msg"]) from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises KitError where it is not what was written."""
    try:
        values: dict[str, Any] = read_json(folder / MANIFEST)
        check(ManifestRecord, values)
        if fingerprint(values["tokenizer"]) != values["tokenizer"]["fingerprint"]:
            raise ValueError("its tokenizer, vocabulary included, is not the one that made the tokens")
        if manifest_hash(values) != values["sha256"]:
            raise ValueError("it was changed since it was written")
    except OSError as error:
        raise damaged(folder, MANIFEST, f"cannot be read ({error.strerror})") from None
    except RecursionError:
        raise damaged(folder, MANIFEST, "is damaged: too deeply nested") from None
    except ValueError as error:
        raise damaged(folder, MANIFEST, f"is damaged: {error}") from None
    return values


def damaged(folder: Path, name: str, what: str) -> KitError:
    return KitError(f"{folder / name} {what}; remove {folder} to prepare anew")


def fingerprint(tokenizer: dict[str, Any]) -> str:
    """Of a tokenizer's record: which it is, with which options, and what it has learnt. Not of whose code it is."""
    left_out = {"code", "vocab_size", "eot_id", "fingerprint"}
    return digest({key: value for key, value in tokenizer.items() if key not in left_out})


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Of all but itself. A vocabulary of megabytes enters by its fingerprint."""
    tokenizer = {key: value for key, value in manifest["tokenizer"].items() if key != "state"}
    return digest({key: value for key, value in manifest.items() if key != "sha256"} | {"tokenizer": tokenizer})
