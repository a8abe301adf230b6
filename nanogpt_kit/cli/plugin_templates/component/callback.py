"""Writes logged metrics as a table, metrics.csv in the folder of the run.

Change what is done at which hook; every hook is optional. A run that was killed and resumed logs some steps again, and
its last line may be incomplete, so what is written outside of checkpoints is cut off first, as here.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from nanogpt_kit.api import Callback, Field, LiveRun, hookimpl


class CSVLog(Callback):
    is_tracker = True  # its errors never end a run
    columns: tuple[str, ...] = Field(("train/loss", "optim/lr"), description="metrics that are written, one a column")

    def build(self, run: LiveRun) -> object:
        return CSVLogFile(run.path / "metrics.csv", self.columns)


class CSVLogFile:
    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns

    @hookimpl
    def run_started(self, run: LiveRun) -> None:
        text = self.path.read_text(encoding="utf-8") if run.first_step and self.path.exists() else ""
        kept = [line for line in text.split("\n")[1:-1] if int(line.partition(",")[0]) <= run.first_step]
        self.path.write_text("\n".join([",".join(("step", *self.columns)), *kept, ""]), encoding="utf-8")

    @hookimpl
    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([step, *(metrics.get(name, "") for name in self.columns)])
