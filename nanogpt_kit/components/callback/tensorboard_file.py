"""An event file as TensorBoard reads it, written by tensorboard's own RecordWriter.

The writers above it are not used: that of torch imports all of TensorBoard's plugins, and both write from a thread that
fails on its own. RecordWriter takes 45 ms to import (an AMD EPYC, Zen 4), so events wait in memory until after the
first step. Source of the format: TensorFlow's records: length (8 bytes, little-endian), its CRC (4), an Event of that
length, its CRC (4).
"""

from __future__ import annotations

import itertools
import os
import platform
import time
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

SECONDS_BETWEEN_WRITES = 10  # at most, while records are added: TensorBoard reads files every 30 s
FILES = itertools.count()  # of this process: readers take files of one second in the order of their numbers


class EventFile:
    """A new event file in a folder. `purge_step`: a running TensorBoard drops what it has read from this step on."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        number = next(FILES)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{number}"
        self.path = folder / name
        self.unwritten: list[bytes] = []  # events
        self.flushed_at = time.monotonic()
        self.path.touch(exist_ok=False)
        self.write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self.write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add_summary(self, summary: Summary, step: int = 0) -> None:
        self.write(Event(summary=summary, step=step))

    def write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.unwritten.append(event.SerializeToString())
        if time.monotonic() - self.flushed_at > SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Writes what was added. The file is not kept open: who drops this object need not close it."""
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self.flushed_at = time.monotonic()
        with self.path.open("ab") as file:
            writer = RecordWriter(file)
            for event in self.unwritten:
                writer.write(event)
        self.unwritten.clear()


def events_before(content: bytes) -> tuple[list[tuple[bytes, Event]], bytes]:
    """The records of a file with their events, and what follows the first that is incomplete or damaged."""
    records, start = [], 0
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 8], "little") + 4
        try:
            event = Event.FromString(content[start + 12 : end - 4]) if end <= len(content) else None
        except DecodeError:
            event = None
        if event is None:  # readers stop here
            break
        records.append((content[start:end], event))
        start = end
    return records, content[start:]
