"""What a model is asked: from files, from stdin, a line each."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.corpus.decompress import check_is_text
from nanogpt_kit.corpus.formats import HEAD_BYTES, encoding_by_bom
from nanogpt_kit.corpus.json_faults import explain_json_fault

if TYPE_CHECKING:
    from nanogpt_kit.generate.generator import TextGenerator


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: it was closed


def read(path: Path, option: str = "") -> str:
    """A file's text, or stdin's where it is -. Raises KitError, also for another format or encoding."""
    place = f"{option} {path}" if str(path) != "-" else "stdin"
    try:
        raw = path.read_bytes() if str(path) != "-" else sys.stdin.buffer.read() if sys.stdin else b""
        check_is_text(path if str(path) != "-" else Path("stdin"), raw[:HEAD_BYTES])
        return io.TextIOWrapper(io.BytesIO(raw), encoding=encoding_by_bom(raw) or "utf-8-sig").read()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise KitError(f"{place} cannot be read: line {line}: {error}; save it as UTF-8") from None
    except OSError as error:
        raise KitError(f"{place} cannot be read: {error.strerror or error}") from None


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """By their places, file:line. Raises KitError with each fault."""
    lines = read(path, "--jsonl").split("\n")  # splitlines would also cut where JSON's strings may go on
    records: dict[str, dict[str, Any]] = {}
    faults = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            faults.append(f"{place}: {explain_json_fault(line.strip(), first=not records)}")
            continue
        try:
            json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            faults.append(f"{place}: not JSON that could be written again: {error}")
            continue
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            faults.append(f'{place}: expected an object with a string "prompt", got {line[:80]}')
        else:
            records[place] = record
    if faults or not records:
        raise KitError(*(faults or [f"{path} holds no prompts"]))
    return records


def check_prompts(records: dict[str, dict[str, Any]], loaded: TextGenerator, option: str = "prompt") -> None:
    """Raises KitError with each prompt that cannot be encoded: its place, and the `option` that takes another."""
    from nanogpt_kit.generate.prompt import encode_prompt

    faults = []
    for place, record in records.items():
        try:
            encode_prompt(loaded.encoder, record["prompt"], option)
        except KitError as error:
            faults.append(f"{place}: {error}")
    if faults:
        raise KitError(*faults)
