"""What a run prints: its summary, its evaluations, and in between a progress bar, or plain lines in a file.

The loss and the speed are exponential means of the logged steps. What remains is estimated from that speed and from the
duration of the last evaluation.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import rich
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nanogpt_kit.api import Callback, Field, LiveRun
from nanogpt_kit.components.callback.notebook import NotebookDisplay
from nanogpt_kit.components.callback.run_display import RunDisplay

MIN_BAR, MAX_BAR = 5, 40  # columns
DROPPED_FIRST = ("speed", "elapsed", "val")  # fields, where the line is too long
HANG = 4  # columns by which the rest of a wrapped line is indented


class Console(Callback):
    is_tracker = True
    every_seconds: float = Field(
        5.0, ge=0, description="least time between plain lines in seconds, where there is no terminal"
    )
    smoothing: int = Field(
        10,
        ge=1,
        le=10**6,
        description="logged steps that the shown loss is an exponential mean of; 1: the loss of the last one",
    )

    def build(self, run: LiveRun) -> object:
        if rich.get_console().is_jupyter:
            return NotebookDisplay(run, self.smoothing, importlib.import_module("IPython.display").display)
        if rich.get_console().is_interactive:  # not where TERM is dumb
            return TerminalDisplay(run, self.smoothing)
        return PlainDisplay(run, self.smoothing, self.every_seconds)


class TerminalDisplay(RunDisplay):
    """A line that is drawn again several times a second, below what is printed."""

    def __init__(self, run: LiveRun, smoothing: int) -> None:
        super().__init__(run, smoothing)
        self.live = Live(self, console=rich.get_console(), refresh_per_second=4)

    def print_summary(self, summary: Mapping[str, str]) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        for label, line in summary.items():
            table.add_row(Text(label), Text(line, overflow="fold"))
        rich.get_console().print(table)

    def print_parts(self, start: str, parts: Sequence[str]) -> None:
        console = rich.get_console()
        for index, line in enumerate(wrap_parts([start, *parts], console.width)):
            console.print(Padding(Text(line), (0, 0, 0, HANG * (index > 0))), highlight=False)

    def show(self) -> None:
        if not self.live.is_started:  # it draws by itself from then on
            self.live.start()

    def stop(self) -> None:
        self.live.stop()

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> Iterator[Table]:
        step = f"step {self.step}/{self.run.total_steps}"
        fields, space = fitting_fields(self.fields(), options.max_width - len(step))
        cells: list[Text | ProgressBar] = [Text(step, no_wrap=True)]
        if space > MIN_BAR:
            cells.append(ProgressBar(1.0, self.fraction(), width=min(space - 1, MAX_BAR)))
        cells.append(Text("  ".join(fields), no_wrap=True))
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_row(*cells)
        yield table


class PlainDisplay(RunDisplay):
    """A line at most every few seconds, never wrapped: for files, pipes and terminals that cannot be drawn on."""

    def __init__(self, run: LiveRun, smoothing: int, every_seconds: float) -> None:
        super().__init__(run, smoothing)
        self.every_seconds = every_seconds
        self.shown_at = -float("inf")
        self.shown_step = -1
        self.timer = threading.Timer(0.0, self.print_activity)  # of an activity, which may take long

    def print_summary(self, summary: Mapping[str, str]) -> None:
        width = max(map(len, summary))
        for label, line in summary.items():
            self.print_line(f"{label:{width}}  {line}")

    def print_parts(self, start: str, parts: Sequence[str]) -> None:
        self.print_line("  ".join([start, *parts]))

    def print_line(self, line: str) -> None:
        rich.get_console().out(line, highlight=False)

    def show(self) -> None:
        self.timer.cancel()
        if self.activity:
            self.timer = threading.Timer(self.every_seconds, self.print_activity)
            self.timer.daemon = True
            self.timer.start()
            return
        now, is_last = time.monotonic(), self.step == self.run.total_steps
        if (
            self.logged_count
            and self.step != self.shown_step
            and (is_last or now - self.shown_at >= self.every_seconds)
        ):
            self.shown_at, self.shown_step = now, self.step
            self.print_line("  ".join([f"step {self.step}/{self.run.total_steps}", *self.fields().values()]))

    def print_activity(self) -> None:
        if self.activity:
            self.print_line(f"{self.activity} at step {self.step}")

    def stop(self) -> None:
        self.timer.cancel()


def fitting_fields(fields: Mapping[str, str], width: int) -> tuple[list[str], int]:
    """Those that fit beside a bar, the most important ones in any case; and the columns that they leave."""
    fitting = dict(fields)
    for name in DROPPED_FIRST:
        if width - line_length(fitting) > MIN_BAR:
            break
        fitting.pop(name, None)
    return list(fitting.values()), width - line_length(fitting)


def line_length(fields: Mapping[str, str]) -> int:
    """Columns of the fields of a line, with the spaces before each."""
    return sum(2 + len(text) for text in fields.values())


def wrap_parts(parts: Sequence[str], width: int) -> list[str]:
    """Lines of at most `width` columns where possible, each of whole parts; all after the first will be indented."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}  {part}"
        if len(longer) + HANG * (len(lines) > 1) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines
