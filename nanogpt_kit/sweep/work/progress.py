"""What a sweep shows while it works: a line for each trial that ended, and on a terminal what is at work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import rich
from optuna.trial import TrialState
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nanogpt_kit.core.errors import printable
from nanogpt_kit.sweep.space.parameters import told
from nanogpt_kit.sweep.study.runs import known_of
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import Row, Summary
from nanogpt_kit.sweep.work.trial import Outcome, TrialProcess

FRESH_SECONDS = 0.25  # between two pictures of the live table


class Board:
    """Hears of a controller's trials."""

    def __init__(self, study: Study, best: Row | None, ranks: bool = True) -> None:
        """`best` is the best trial so far; without `ranks` there is none, as among runs with fresh seeds."""
        self.study, self.ranks = study, ranks
        self.best = None if best is None or best.value is None else (best.value, best.number)
        ended = [trial for trial in study.trials() if trial.state.is_finished()]
        self.ended_count, self.tokens = len(ended), sum(known_of(trial).get("tokens", 0) for trial in ended)
        self.began_at: dict[int, float] = {}
        self.times: list[float] = []
        self.live: Live | None = None
        self.drawn = -float("inf")

    def __enter__(self) -> Board:
        if rich.get_console().is_terminal:
            self.live = Live(console=rich.get_console(), auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def began(self, work: TrialProcess) -> None:
        self.began_at[work.number] = time.monotonic()
        if self.live is None:
            self.say(f"{self.name(work)}: {in_words(self.study.config(work.trial))}")

    def looked(self, works: Sequence[TrialProcess]) -> None:
        now = time.monotonic()
        if self.live is not None and now - self.drawn > FRESH_SECONDS:
            self.drawn = now
            self.live.update(Group(self.at_work(works), self.standing()), refresh=True)

    def ended(self, work: TrialProcess, outcome: Outcome) -> None:
        spent = time.monotonic() - self.began_at.get(work.number, time.monotonic())
        self.times.append(spent)
        self.ended_count += 1
        self.tokens += sum(run.tokens for run in work.runs)
        if outcome.state == TrialState.COMPLETE and outcome.value is not None:
            words = f"{self.study.options.metric} {outcome.value:.4f}"
            if self.ranks and self.is_better(outcome.value):
                self.best = (outcome.value, work.number)
                words += ", the best so far"
            elif self.best is not None:
                words += f" (best {self.best[0]:.4f}, trial {self.best[1]})"
        else:
            words = f"{outcome.state.name.lower().replace('fail', 'failed')}: {outcome.reason}"
        config = f"  {in_words(self.study.config(work.trial))}" if self.live is not None else ""
        self.say(f"{self.name(work)}: {words}{config}  {spent:.0f} s")

    def refused(self, number: int, reason: str) -> None:
        self.ended_count += 1
        self.say(f"trial {number}: pruned: {reason}")

    def name(self, work: TrialProcess) -> str:
        told = self.study.trials()[work.number].user_attrs
        return f"trial {told['trial']} with seed {told['seed']}" if "trial" in told else f"trial {work.number}"

    def is_better(self, value: float) -> bool:
        if self.best is None:
            return True
        return value < self.best[0] if self.study.options.direction == "minimize" else value > self.best[0]

    def say(self, line: str) -> None:
        rich.get_console().out(printable(line), highlight=False)

    def at_work(self, works: Sequence[TrialProcess]) -> Table:
        table = table_of("trial", "step", self.study.options.metric, "tokens/s", "values")
        for work in works:
            run = work.run
            value = "" if run.value is None else f"{run.value:.4f}"
            state = " (stopping)" if work.pruned or work.stopping else ""
            steps = f"{run.step:,}/{run.experiment.total_steps:,}{state}"
            rate = f"{run.rate:,.0f}" if run.rate else "starting"
            values = Text(in_words(self.study.config(work.trial)))
            table.add_row(str(work.number), steps, value, rate, values)
        return table

    def standing(self) -> str:
        best = "" if self.best is None else f", best {self.best[0]:.4f} (trial {self.best[1]})"
        left = self.study.count - self.ended_count
        about = ""
        if self.times and left > 0:
            workers = self.study.options.workers
            about = f", about {in_time(sum(self.times) / len(self.times) * left / workers)} left"
        return f"{self.ended_count} of {self.study.count} trials ended{best}, {self.tokens:,} tokens{about}"


def in_words(config: Mapping[str, Any]) -> str:
    return printable("  ".join(f"{key}={short(value)}" for key, value in config.items()))


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else told(value)


def in_time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def table_of(*columns: str) -> Table:
    """Users' words enter it as Text: in a str, rich would look for markup and names of emoji."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(Text(name))
    return table


def status_table(summary: Summary) -> Table:
    """All trials, the best first."""
    sign = 1 if summary.options.direction == "minimize" else -1

    def place(row: Row) -> tuple[bool, float]:
        return row.state != "complete", sign * (row.value if row.value is not None else sign * float("inf"))

    table = table_of("trial", "state", summary.options.metric, "tokens", "time", "values", "why")
    for row in sorted(summary.rows, key=place):
        value = "" if row.value is None else f"{row.value:.4f}"
        why = row.reason if row.state in ("failed", "pruned") else ""
        values, spent = Text(in_words(row.config)), in_time(row.seconds)
        table.add_row(str(row.number), row.state, value, f"{row.tokens:,}", spent, values, Text(printable(why)))
    return table
