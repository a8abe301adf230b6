"""The record of a tokenizer in prepared data and checkpoints: its component, its options, and its learnt state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.core.options import digest
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.system.json_files import read_json

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class JsonRecord(BaseModel):
    """A JSON object in a file. Nothing is converted, and unknown keys are kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    @classmethod
    def of_json(cls, values: object) -> Self:
        """Raises ValueError that names the first key whose value is missing or invalid."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(part if str(part).isprintable() else ascii(part) for part in map(str, first["loc"]))
            raise ValueError(f"{key}: {first['msg']}" if key else first["msg"]) from None

    def as_json(self) -> dict[str, Any]:
        return self.model_dump()


class TokenizerRecord(JsonRecord):
    """A tokenizer: these keys, and beside them its options."""

    use: str  # name of the component
    code: str  # the identity of the component's code
    vocab_size: Annotated[int, Field(ge=1, le=2**32)]  # number of token ids
    eot_id: int | None  # id of the token that ends a document; None where there is none
    fingerprint: Sha256  # of the options and the state
    state: dict[str, Any]  # what `Tokenizer.restore` takes

    @classmethod
    def of(cls, experiment: Experiment, encoder: Encoder) -> Self:
        values = {
            **tokenizer_identity(experiment),
            "vocab_size": encoder.vocab_size,
            "eot_id": encoder.eot_id,
            "state": json.loads(json.dumps(encoder.state())),  # as it is read back from disk, so that the hash agrees
        }
        return cls(**values, fingerprint=tokenizer_fingerprint(values))

    def compute_fingerprint(self) -> str:
        """Equals `fingerprint` unless the record was changed."""
        return tokenizer_fingerprint(self.as_json())


def tokenizer_identity(experiment: Experiment) -> dict[str, Any]:
    """The tokenizer's component and its options: everything that decides it except the text."""
    entry = experiment.entry_of(experiment.tokenizer)
    resolved, locations = experiment.resolved()["tokenizer"], experiment.tokenizer.location_options
    options = {key: value for key, value in resolved.items() if key not in locations}
    return {"code": entry.identity, **options, "use": entry.name, "files": experiment.tokenizer.fingerprint()}


def tokenizer_fingerprint(tokenizer: dict[str, Any]) -> str:
    """A hash of a record's component, options and state, but not of the identity of its code."""
    excluded = {"code", "vocab_size", "eot_id", "fingerprint"}
    return digest({key: value for key, value in tokenizer.items() if key not in excluded})


def read_tokenizer_record(path: Path) -> TokenizerRecord:
    """The tokenizer in a checkpoint. Raises KitError where the file holds none."""
    try:
        return TokenizerRecord.of_json(read_json(path))
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise KitError(f"{path} is damaged, or not a record of a tokenizer: {error}") from None


def tokenizer_records_of_run(folder: RunFolder) -> list[Path]:
    """The tokenizer's record in each checkpoint of a run, the newest last."""
    return sorted(folder.checkpoints.glob("step-*/tokenizer.json"))
