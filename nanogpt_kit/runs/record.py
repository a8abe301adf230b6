"""Typed JSON files with a format version, called records; they are written and read as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pydantic_core
from pydantic import BaseModel, ConfigDict, InstanceOf, ValidationError

from nanogpt_kit.system.json_files import write_json
from nanogpt_kit.system.reading import read_bytes

FORMAT = 2  # of all records of a run folder; grows when a field changes its meaning

AnyText = InstanceOf[str]  # may hold lone surrogates, as Python's names of files that are not UTF-8


class Unreadable(ValueError):
    """A record that is damaged, or of another format."""

    def __init__(self, message: str, cause: Literal["unreadable", "other_format"] = "unreadable") -> None:
        super().__init__(message)
        self.cause: Literal["unreadable", "other_format"] = cause


class RecordPart(BaseModel):
    """A JSON object within a record. Nothing is converted, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Record(RecordPart):
    """A JSON object that is a whole file. Fields that are None are left out of it."""

    max_bytes: ClassVar[int] = 1 << 20  # of a file that is read

    format: Literal[2] = 2  # FORMAT

    def write(self, path: Path) -> None:
        write_json(path, self.model_dump(exclude_none=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises FileNotFoundError, and Unreadable with a sentence where the file is not such a record."""
        try:
            values = cls.parse_json(read_bytes(path, cls.max_bytes))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Unreadable(f"{path.name} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise Unreadable(f"{path.name} cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise Unreadable(f"{path.name} cannot be read: it is not a JSON object")
        found = values.get("format")
        if type(found) is not int or found != FORMAT:
            named = f"is of format {str(found)[:20]}" if type(found) is int else "does not name its format"
            raise Unreadable(
                f"{path.name} {named}, and this version of nanogpt-kit reads format {FORMAT}", "other_format"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            key = ".".join(map(str, first["loc"]))
            place = f"{key!r:.100}: " if key else ""
            reason = first["msg"].removeprefix("Value error, ")
            raise Unreadable(f"{path.name} cannot be read: {place}{reason}") from None

    @classmethod
    def parse_json(cls, content: bytes) -> Any:
        """Raises ValueError, also for text that is not Unicode."""
        return pydantic_core.from_json(content)


class NamesRecord(Record):
    """A record with names of files or folders that may not be UTF-8."""

    @classmethod
    def parse_json(cls, content: bytes) -> Any:
        """Such names are lone surrogates, which only Python's own parser takes."""
        try:
            return json.loads(content)
        except RecursionError:
            raise ValueError("too deeply nested") from None
