"""An event file as TensorBoard reads it.

The writers of tensorboard and torch are not used: their packages import all of TensorBoard's plugins, which took 85 ms
of the 2.2 s to the first step of a small run (an AMD EPYC, Zen 5), and they write from a thread that fails on its own.
Source: TensorFlow's records: length (8 bytes, little-endian), its CRC (4), an Event of that length, its CRC (4).
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

CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C (RFC 3720), its bits reversed
MASK = 0xA282EAD8  # added to the rotated CRC of records
SECONDS_BETWEEN_WRITES = 10  # at most, while records are added: TensorBoard reads files every 30 s
FILES = itertools.count()  # of this process: readers take files of one second in the order of their numbers


class EventFile:
    """A new event file in a folder. `purge_step`: a running TensorBoard drops what it has read from this step on."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        number = next(FILES)
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{number}"
        self.path = folder / name
        self.unwritten = bytearray()
        self.flushed_at = time.monotonic()
        self.path.touch(exist_ok=False)
        self.write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self.write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self.flush()

    def add_summary(self, summary: Summary, step: int = 0) -> None:
        self.write(Event(summary=summary, step=step))

    def write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.unwritten += record(event.SerializeToString())
        if time.monotonic() - self.flushed_at > SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        """Writes what was added. The file is not kept open: who drops this object need not close it."""
        self.flushed_at = time.monotonic()
        with self.path.open("ab") as file:
            file.write(self.unwritten)
        self.unwritten.clear()


def record(content: bytes) -> bytes:
    length = len(content).to_bytes(8, "little")
    return length + masked_crc(length) + content + masked_crc(content)


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


def crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ CASTAGNOLI * (crc & 1)
    return crc


CRC_TABLE = [crc_of_byte(byte) for byte in range(256)]


def masked_crc(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + MASK & 0xFFFFFFFF).to_bytes(4, "little")
