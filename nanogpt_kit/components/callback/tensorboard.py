"""Curves and samples for TensorBoard, in the run's own folder; the x axis is steps, tokens are logged beside."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from nanogpt_kit.api import Callback, LiveRun, hookimpl


class TensorBoard(Callback):
    tracker = True

    def build(self, run: LiveRun) -> object:
        folder = run.path / "tensorboard"
        files = [path for path in folder.glob("events.out.tfevents.*") if path.is_file()]
        for path in files:
            remove_events(path, run.first_step)
        # For a TensorBoard that has read them: void is what came after the checkpoint, or all where there was none
        void = run.first_step + 1 if run.first_step else 0
        return Curves(SummaryWriter(folder, purge_step=void if files else None))


def remove_events(path: Path, last_step: int) -> None:
    """Takes those after `last_step` out of a file of a process before, or the file where that is 0: not every reader of
    such files heeds `purge_step`, and TensorBoard's page shows texts of step 0 again in spite of it.

    Source: TensorFlow's records: length (8 bytes, little-endian), its CRC (4), an Event of that length, its CRC (4).
    """
    if not last_step:
        path.unlink()
        return
    content, rest, at = path.read_bytes(), bytearray(), 0
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 8], "little") + 4
        try:
            step = Event.FromString(content[at + 12 : end - 4]).step if end <= len(content) else None
        except DecodeError:
            step = None
        if step is None:  # torn or damaged: readers stop here
            break
        if step <= last_step:
            rest += content[at:end]
        at = end
    rest += content[at:]
    if rest != content:
        partial = path.with_name(f".{secrets.token_hex(8)}")
        with partial.open("xb") as file:  # which follows no link
            file.write(rest)
        partial.replace(path)


class Curves:
    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer
        self.excepthook = threading.excepthook
        threading.excepthook = self.thread_failed
        self.sampled_at = self.shown = -1  # the step of the last texts, and how many there were

    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        if not run.first_step:
            self.writer.add_text("experiment", code(run.experiment.to_toml()), 0)

    @hookimpl
    def logged(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        self.add(step, metrics)
        # The last before a checkpoint: a resumed run logs again only what came after it, so this must be on the disk
        if -step % run.experiment.checkpoint.every_steps < run.experiment.train.log_every_steps:
            self.writer.flush()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        # One record for all: add_scalar would write one for each, 40 to 80 us
        self.writer._get_file_writer().add_summary(Summary(value=values), step)

    @hookimpl
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.add(step, metrics)
        self.writer.flush()

    @hookimpl
    def checkpoint_saved(self) -> None:
        self.writer.flush()  # also those that a signal or a better metric has asked for

    @hookimpl
    def sampled(self, step: int, texts: Sequence[str]) -> None:
        first = self.shown if step == self.sampled_at else 0  # evaluators and the run's end may both have some
        for number, text in enumerate(texts, start=first):
            self.writer.add_text(f"sample/{number}", code(text), step)
        self.sampled_at, self.shown = step, first + len(texts)

    @hookimpl
    def run_finished(self) -> None:
        threading.excepthook = self.excepthook
        self.writer.flush()  # raises what ended the writing thread; close does not
        self.writer.close()

    def thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """What ends TensorBoard's writing thread is raised again where we write next, and is reported there."""
        if not isinstance(args.thread, _AsyncWriterThread):
            self.excepthook(args)


def code(text: str) -> str:
    """Markdown that shows text as it is."""
    return "\n".join("    " + line for line in text.splitlines())
