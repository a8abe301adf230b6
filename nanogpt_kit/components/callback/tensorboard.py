"""Curves, samples and options for TensorBoard, in event files in the folder of the run.

The x axis is steps. Names are those of metrics.jsonl, except that losses come first (`Loss/train`, `Loss/val`,
`Loss/val_bits_per_byte`) and memory is in GB. Custom Scalars has both losses on one chart, HParams the options of the
model and its training.
"""

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
from nanogpt_kit.components.callback.tensorboard_summary import (
    DESCRIPTIONS,
    chart_value,
    hparams,
    hparams_outcome,
    loss_layout,
)


class TensorBoard(Callback):
    is_tracker = True

    def build(self, run: LiveRun) -> object:
        # Not in a folder below: TensorBoard names runs by the folders of their event files
        files = [path for path in run.path.glob("events.out.tfevents.*") if path.is_file()]
        for path in files:
            remove_events(path, run.first_step)
        # A running TensorBoard drops what it has read from this step on
        purge_step = run.first_step + 1 if run.first_step else 0
        return EventWriter(SummaryWriter(run.path, purge_step=purge_step if files else None))


def remove_events(path: Path, last_step: int) -> None:
    """Removes the events after `last_step` from a file of an earlier process; the whole file where that is 0.

    Descriptions of the run are removed too: this process writes them again, and the options may have changed.

    `purge_step` is not enough: other readers ignore it, and TensorBoard itself shows texts of step 0 twice.
    Source: TensorFlow's records: length (8 bytes, little-endian), its CRC (4), an Event of that length, its CRC (4).
    """
    if not last_step:
        path.unlink()
        return
    content, kept, start = path.read_bytes(), bytearray(), 0
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 8], "little") + 4
        try:
            event = Event.FromString(content[start + 12 : end - 4]) if end <= len(content) else None
        except DecodeError:
            event = None
        if event is None:  # incomplete or damaged: readers stop here
            break
        if event.step <= last_step and not any(value.tag in DESCRIPTIONS for value in event.summary.value):
            kept += content[start:end]
        start = end
    kept += content[start:]
    if kept != content:
        # TensorBoard reads every file with "tfevents" in its name; the run removes what a kill leaves of this one
        partial = path.with_name(f".curves.{secrets.token_hex(8)}.tmp")
        with partial.open("xb") as file:  # does not follow a link
            file.write(kept)
        partial.replace(path)


class EventWriter:
    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer
        self.excepthook = threading.excepthook
        threading.excepthook = self.thread_failed
        self.sampled_at = self.sample_count = -1  # step of the last samples, and their number

    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        if not run.first_step:
            self.writer.add_text("experiment", as_code(run.experiment.to_toml()), 0)
        for summary in (loss_layout(), hparams(run.experiment.resolved())):
            self.writer._get_file_writer().add_summary(summary)

    @hookimpl
    def logged(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        self.add(step, metrics)
        # The last line before a checkpoint must be on disk: a resumed run logs only later steps again
        if -step % run.experiment.checkpoint.every_steps < run.experiment.train.log_every_steps:
            self.writer.flush()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        charts = (chart_value(metric, value) for metric, value in metrics.items())
        values = [Summary.Value(tag=name, simple_value=value) for name, value in charts]
        # One record for all metrics: add_scalar would write one for each, in 40 to 80 us
        self.writer._get_file_writer().add_summary(Summary(value=values), step)

    @hookimpl
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.add(step, metrics)
        self.writer.flush()

    @hookimpl
    def checkpoint_saved(self) -> None:
        self.writer.flush()  # also for checkpoints at a signal or a best metric

    @hookimpl
    def sampled(self, step: int, texts: Sequence[str]) -> None:
        first = (
            self.sample_count if step == self.sampled_at else 0
        )  # evaluators and the end of the run may both publish samples
        for index, text in enumerate(texts, start=first):
            self.writer.add_text(f"sample/{index}", as_code(text), step)
        self.sampled_at, self.sample_count = step, first + len(texts)

    @hookimpl
    def run_finished(self, status: str) -> None:
        threading.excepthook = self.excepthook
        self.writer._get_file_writer().add_summary(hparams_outcome(status == "finished"))
        self.writer.flush()  # raises the error of the writing thread; close does not
        self.writer.close()

    def thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Ignores an error of the writing thread: it is raised again, and reported, at our next write."""
        if not isinstance(args.thread, _AsyncWriterThread):
            self.excepthook(args)


def as_code(text: str) -> str:
    """Markdown that shows the text literally."""
    return "\n".join("    " + line for line in text.splitlines())
