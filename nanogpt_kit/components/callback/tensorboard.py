"""Curves and samples for TensorBoard, in the run's own folder; the x axis is steps, tokens are logged beside."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from nanogpt_kit.api import Callback, LiveRun, hookimpl


class TensorBoard(Callback):
    tracker = True

    def build(self, run: LiveRun) -> object:
        # What was logged after the checkpoint is void; where there was none, all that another process logged
        void = run.first_step + 1 if run.first_step else 0
        return Curves(SummaryWriter(run.path / "tensorboard", purge_step=void))


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
    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        # One record for all: add_scalar would write one for each, 40 to 80 us
        self.writer._get_file_writer().add_summary(Summary(value=values), step)

    @hookimpl
    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.logged(step, metrics)
        self.writer.flush()

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
