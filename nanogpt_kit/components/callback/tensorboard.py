"""Curves, samples and options for TensorBoard, in event files in the folder of the run.

The x axis is steps. Names are those of metrics.jsonl, except that losses come first (`Loss/train`, `Loss/val`,
`Loss/val_bits_per_byte`) and memory is in GB. Custom Scalars has both losses on one chart, HParams the options of the
model and its training.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

from nanogpt_kit.api import Callback, LiveRun, hookimpl
from nanogpt_kit.components.callback.tensorboard_file import EventFile, events_before
from nanogpt_kit.components.callback.tensorboard_summary import (
    DESCRIPTIONS,
    hparams,
    hparams_outcome,
    loss_layout,
    scalars,
    text_summary,
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
        return EventWriter(EventFile(run.path, purge_step if files else None))


def remove_events(path: Path, last_step: int) -> None:
    """Removes the events after `last_step` from a file of an earlier process; the whole file where that is 0.

    Descriptions of the run are removed too: this process writes them again, and the options may have changed.

    `purge_step` is not enough: other readers ignore it, and TensorBoard itself shows texts of step 0 twice.
    """
    if not last_step:
        path.unlink()
        return
    content = path.read_bytes()
    records, rest = events_before(content)
    kept = b"".join(record for record, event in records if event.step <= last_step and not describes_run(event)) + rest
    if kept != content:
        # TensorBoard reads every file with "tfevents" in its name; the run removes what a kill leaves of this one
        partial = path.with_name(f".curves.{secrets.token_hex(8)}.tmp")
        with partial.open("xb") as file:  # does not follow a link
            file.write(kept)
        partial.replace(path)


def describes_run(event: Event) -> bool:
    return any(value.tag in DESCRIPTIONS for value in event.summary.value)


class EventWriter:
    def __init__(self, file: EventFile) -> None:
        self.file = file
        self.sampled_at = self.sample_count = -1  # step of the last samples, and their number

    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        if not run.first_step:
            self.file.add_summary(text_summary("experiment", as_code(run.experiment.to_toml())))
        for summary in (loss_layout(), hparams(run.experiment.resolved())):
            self.file.add_summary(summary)

    @hookimpl
    def logged(self, run: LiveRun, step: int, metrics: Mapping[str, float]) -> None:
        self.file.add_summary(scalars(metrics), step)
        # The last line before a checkpoint must be on disk: a resumed run logs only later steps again
        if -step % run.experiment.checkpoint.every_steps < run.experiment.train.log_every_steps:
            self.file.flush()

    @hookimpl
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.file.add_summary(scalars(metrics), step)
        self.file.flush()

    @hookimpl
    def checkpoint_saved(self) -> None:
        self.file.flush()  # also for checkpoints at a signal or a best metric

    @hookimpl
    def sampled(self, step: int, texts: Sequence[str]) -> None:
        first = (
            self.sample_count if step == self.sampled_at else 0
        )  # evaluators and the end of the run may both publish samples
        for index, text in enumerate(texts, start=first):
            self.file.add_summary(text_summary(f"sample/{index}", as_code(text)), step)
        self.sampled_at, self.sample_count = step, first + len(texts)

    @hookimpl
    def run_finished(self, status: str) -> None:
        self.file.add_summary(hparams_outcome(status == "finished"))
        self.file.flush()


def as_code(text: str) -> str:
    """Markdown that shows the text literally."""
    return "\n".join("    " + line for line in text.splitlines())
