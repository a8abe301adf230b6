"""What a run shows in a notebook: one output below the cell, which the run replaces from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from nanogpt_kit.api import LiveRun, hookimpl
from nanogpt_kit.components.callback.run_display import RunDisplay

SECONDS_BETWEEN_UPDATES = 0.25  # each is a message to the browser
MAX_EVALUATIONS = 10  # that are shown, the newest


class NotebookDisplay(RunDisplay):
    """The summary, a bar and the newest evaluations; `display` is that of IPython, which needs no widgets."""

    def __init__(self, run: LiveRun, smoothing: int, display: Callable[..., Any]) -> None:
        super().__init__(run, smoothing)
        self.display = display
        self.handle: Any = None  # of the output, once there is one
        self.summary: Mapping[str, str] = {}
        self.evaluations: list[str] = []  # a line for each
        self.updated_at = -float("inf")

    def print_summary(self, summary: Mapping[str, str]) -> None:
        self.summary = summary

    def print_parts(self, start: str, parts: Sequence[str]) -> None:
        self.evaluations = [*self.evaluations, "  ".join([start, *parts])][-MAX_EVALUATIONS:]
        self.update()

    def show(self) -> None:
        if self.activity or time.monotonic() - self.updated_at >= SECONDS_BETWEEN_UPDATES:
            self.update()

    @hookimpl
    def run_finished(self, status: str) -> None:
        if status == "interrupted":
            self.evaluations += [f"interrupted at step {self.step}; experiment.run(resume=True) continues the run"]
        super().run_finished(status)

    def stop(self) -> None:
        self.activity = ""
        self.update()

    def update(self) -> None:
        self.updated_at = time.monotonic()
        content = {"text/plain": self.as_text(), "text/html": self.as_html()}
        if self.handle is None:
            self.handle = self.display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)

    def progress_line(self) -> str:
        return "  ".join([f"step {self.step:,}/{self.run.total_steps:,}", *self.fields().values()])

    def summary_lines(self) -> list[str]:
        width = max(map(len, self.summary), default=0)
        return [f"{label:{width}}  {line}" for label, line in self.summary.items()]

    def as_text(self) -> str:
        """For programs that show no HTML."""
        return "\n".join([*self.summary_lines(), *self.evaluations, self.progress_line()])

    def as_html(self) -> str:
        bar = f'<progress value="{self.step}" max="{max(1, self.run.total_steps)}"></progress>'
        lines = [*map(escape, [*self.summary_lines(), *self.evaluations]), f"{bar}  {escape(self.progress_line())}"]
        text = "\n".join(lines)
        return f'<pre style="font-family: monospace">{text}</pre>'  # notebooks style a bare <pre> as prose
