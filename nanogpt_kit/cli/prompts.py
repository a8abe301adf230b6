"""Prompts from files and from standard input."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.corpus.decompress import check_is_text
from nanogpt_kit.corpus.file_signatures import HEAD_BYTES, encoding_by_bom
from nanogpt_kit.corpus.json_faults import explain_json_fault

if TYPE_CHECKING:
    from nanogpt_kit.generate.generator import TextGenerator


def read_prompt(path: Path, option: str = "") -> str:
    """The text of a file, or of stdin if `path` is "-". Raises KitError, also for another format or encoding."""
    source = f"{option} {path}" if str(path) != "-" else "stdin"
    try:
        raw = path.read_bytes() if str(path) != "-" else sys.stdin.buffer.read() if sys.stdin else b""
        check_is_text(path if str(path) != "-" else Path("stdin"), raw[:HEAD_BYTES])
        return io.TextIOWrapper(io.BytesIO(raw), encoding=encoding_by_bom(raw) or "utf-8-sig").read()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise KitError(f"{source} cannot be read: line {line}: {error}; save it as UTF-8") from None
    except OSError as error:
        raise KitError(f"{source} cannot be read: {error.strerror or error}") from None


def read_prompt_records(path: Path) -> dict[str, dict[str, Any]]:
    """The objects of a JSON Lines file by their locations, "file:line". Raises KitError with each fault."""
    lines = read_prompt(path, "--jsonl").split("\n")  # splitlines also splits at characters inside JSON strings
    records: dict[str, dict[str, Any]] = {}
    faults = []
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        location = f"{path}:{line_number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            faults.append(f"{location}: {explain_json_fault(line.strip(), first=not records)}")
            continue
        try:
            json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            faults.append(f"{location}: not JSON: {error}")
            continue
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            faults.append(f'{location}: expected an object with a string "prompt", got {line[:80]}')
        else:
            records[location] = record
    if faults or not records:
        raise KitError(*(faults or [f"{path} contains no prompts"]))
    return records


def check_prompts(records: dict[str, dict[str, Any]], generator: TextGenerator, option: str = "prompt") -> None:
    """Raises KitError with the location of each prompt that cannot be encoded; `option` is where another is given."""
    from nanogpt_kit.generate.prompt import encode_prompt

    faults = []
    for location, record in records.items():
        try:
            encode_prompt(generator.encoder, record["prompt"], option)
        except KitError as error:
            faults.append(f"{location}: {error}")
    if faults:
        raise KitError(*faults)
