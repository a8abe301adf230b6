"""notes.jsonl: what people remark on a run, one JSON object for each note, appended."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.secrets import hide_in_text
from nanogpt_kit.system.reading import read_bytes

NOTES = "notes.jsonl"
MAX_BYTES = 1 << 24  # of the file
MAX_CHARACTERS = 10_000  # of a note


@dataclass(frozen=True)
class Note:
    """A remark on a run."""

    time: float  # seconds since 1970
    text: str


def add_note(folder: Path, text: str) -> Note:
    """Appends a note to a run, which may be running. Raises KitError for an empty or too long one, and where the file
    cannot be written.

    One write appends the whole line, so that notes of several processes do not mix.
    """
    text = hide_in_text(text.strip())
    if not text:
        raise KitError("the note is empty; write the reason for the run, or what was learnt from it")
    if len(text) > MAX_CHARACTERS:
        raise KitError(f"a note has at most {MAX_CHARACTERS:,} characters, and this one has {len(text):,}")
    note = Note(time.time(), text)
    line = json.dumps({"time": note.time, "text": note.text}) + "\n"
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    flags |= sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:
        descriptor = os.open(folder / NOTES, flags, 0o666)
        try:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if end + len(line) >= MAX_BYTES:
                raise KitError(f"{folder / NOTES} is full, with {end:,} bytes; remove notes that nobody reads")
            os.lseek(descriptor, max(0, end - 1), os.SEEK_SET)
            is_cut = os.read(descriptor, 1) not in (b"", b"\n")  # by a power cut
            os.write(descriptor, ("\n" * is_cut + line).encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KitError(f"cannot write {folder / NOTES}: {error.strerror}") from None
    return note


def read_notes(folder: Path) -> list[Note]:
    """The notes of a run in the order in which they were written; damaged lines are passed over."""
    try:
        lines = read_bytes(folder / NOTES, MAX_BYTES).split(b"\n")
    except OSError:
        return []
    return [note for note in map(parse_note, lines) if note]


def parse_note(line: bytes) -> Note | None:
    try:
        values = json.loads(line)
        return Note(float(values["time"]), str(values["text"])) if isinstance(values["text"], str) else None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
