"""The progress display of a sweep: a line for each trial that ended, and on a terminal a table of those that run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import rich
from optuna.trial import TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import printable
from nanogpt_kit.sweep.study.confirmation import direction_sign
from nanogpt_kit.sweep.study.plan import Plan
from nanogpt_kit.sweep.study.records import TrialResult
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.study.summary import TrialSummary
from nanogpt_kit.sweep.study.time_left import within_budgets
from nanogpt_kit.sweep.work.fitted_table import NARROW, columns_with_text, fitted_table, joined_cells
from nanogpt_kit.sweep.work.outcome import Outcome
from nanogpt_kit.sweep.work.seed_text import list_text, mean_text
from nanogpt_kit.sweep.work.status_table import format_config
from nanogpt_kit.sweep.work.trial import TrialProcess
from nanogpt_kit.sweep.work.watcher import TrialWatcher
from nanogpt_kit.system.terminal import wrap_lines

REDRAW_SECONDS = 0.25


def stderr_console() -> Console:
    """The console of log lines in a command. From Python, where that one prints to standard output, another one."""
    console = rich.get_console()
    return console if console.stderr else Console(stderr=True, force_jupyter=False)


class ProgressDisplay(TrialWatcher):
    """Shows the running and ended trials of a controller on standard error, in a notebook as lines."""

    def __init__(self, study: Study[Plan], best: TrialSummary | None) -> None:
        """`best` is the best trial so far."""
        self.study = study
        self.console = stderr_console()
        self.best = None if best is None or best.value is None else (best.value, best.index)
        results = [TrialResult.of(trial) for trial in study.trials_to_run() if trial.state.is_finished()]
        self.ended_count, self.tokens = len(results), sum(result.tokens for result in results if result)
        self.seconds = sum(result.seconds for result in results if result)  # in steps
        self.started_at: dict[int, float] = {}
        self.durations: list[float] = []  # of trials
        self.run_durations: list[float] = []  # of the runs of complete trials
        self.live: Live | None = None
        self.drawn_at = -float("inf")

    def __enter__(self) -> ProgressDisplay:
        if self.console.is_interactive:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def trial_started(self, process: TrialProcess) -> None:
        self.started_at[process.index] = time.monotonic()
        if self.live is None:
            self.print_line(f"{process.label}: {format_config(process.config) or 'started'}")

    def trials_polled(self, processes: Sequence[TrialProcess]) -> None:
        now = time.monotonic()
        if self.live is not None and now - self.drawn_at > REDRAW_SECONDS:
            self.drawn_at = now
            self.live.update(Group(self.running_table(processes), Text(self.progress_line())), refresh=True)

    def trial_ended(self, process: TrialProcess, outcome: Outcome) -> None:
        seconds = time.monotonic() - self.started_at.get(process.index, time.monotonic())
        self.durations.append(seconds)
        if outcome.state == TrialState.COMPLETE:
            self.run_durations.append(seconds / len(process.runs))
        self.ended_count += 1
        self.tokens += sum(run.tokens for run in process.runs)
        self.seconds += sum(run.seconds for run in process.runs)
        config = f"  {format_config(process.config)}" if self.live is not None and process.config else ""
        self.print_line(f"{process.label}: {self.outcome_text(process, outcome)}{config}  {seconds:.0f} s")

    def trial_refused(self, label: str, reason: str) -> None:
        self.ended_count += 1
        self.print_line(f"{label}: {self.state_text(TrialState.PRUNED)}: {reason}")

    def outcome_text(self, process: TrialProcess, outcome: Outcome) -> str:
        if outcome.state != TrialState.COMPLETE or outcome.value is None:
            return f"{self.state_text(outcome.state)}: {outcome.reason}"
        values = [run.value for run in process.runs if run.value is not None]
        text = mean_text(self.study.options.metric, values if len(values) > 1 else [outcome.value])
        if self.study.plan.ranks_trials and self.is_better(outcome.value):
            self.best = (outcome.value, process.index)
            return f"{text}, the best so far"
        return text if self.best is None else f"{text} (best {self.best[0]:.4f}, trial {self.best[1]})"

    def state_text(self, state: TrialState) -> str:
        """Of a trial without a value; only trials that compete are pruned."""
        is_pruned = state == TrialState.PRUNED and self.study.plan.ranks_trials
        return "pruned" if is_pruned else "failed"

    def is_better(self, value: float) -> bool:
        sign = direction_sign(self.study.options.direction)
        return self.best is None or sign * value < sign * self.best[0]

    def print_line(self, line: str) -> None:
        console, line = self.console, printable(line)
        console.out(wrap_lines(line, console.width) if console.is_terminal else line, highlight=False)

    def running_table(self, processes: Sequence[TrialProcess]) -> Table:
        """The running trials in as many columns as the terminal has room for."""
        plan, width = self.study.plan, self.console.width
        rows = [self.running_cells(process) for process in processes]
        if width < NARROW:
            rows = [joined_cells(row, "values", "earlier") for row in rows]
        headers = {"name": plan.row_noun, "seed": "seed", "step": "step", "value": self.study.options.metric}
        headers |= {"rate": "tokens/s", "earlier": "earlier seeds", "values": "values"}
        columns = columns_with_text(headers, rows, ("seed", "earlier", "values"))
        return fitted_table(columns, rows, width, ("rate",), ("name", "step", "rate", "values"))

    def running_cells(self, process: TrialProcess) -> dict[str, str]:
        """The texts of a trial by their columns. A single seed is shown where trials differ in theirs."""
        run, count = process.run, len(process.runs)
        seed = "" if self.study.plan.ranks_trials else str(run.experiment.train.seed)
        earlier = [one.value for one in process.runs[: process.run_index] if one.value is not None]
        state = " (stopping)" if process.is_pruned or process.is_stopping else ""
        return {
            "name": printable(process.row_label),
            "seed": f"{process.run_index + 1} of {count}" if count > 1 else seed,
            "step": f"{run.step:,}/{run.experiment.total_steps:,}{state}",
            "value": "" if run.value is None else f"{run.value:.4f}",
            "rate": f"{run.tokens_per_second:,.0f}" if run.tokens_per_second else "starting",
            "earlier": list_text(earlier),
            "values": format_config(process.config),
        }

    def progress_line(self) -> str:
        plan = self.study.plan
        best = "" if self.best is None else f", best {self.best[0]:.4f} (trial {self.best[1]})"
        left = self.seconds_left()
        time_left = "" if left is None else f", about {format_duration(left)} left"
        stage = f"{plan.stage}: " if plan.stage else ""
        ended = f"{self.ended_count} of {self.study.count} {plan.noun}s ended"
        return f"{stage}{ended}{best}, {self.tokens:,} tokens{time_left}"

    def seconds_left(self) -> float | None:
        """Estimated seconds until all trials have ended, and the runs that follow; None if nothing is left or known."""
        trials, runs, options = (
            max(0, self.study.count - self.ended_count),
            self.study.plan.later_runs,
            self.study.options,
        )
        if not self.durations or not trials + runs:
            return None
        mean = statistics.fmean(self.durations)
        of_run = statistics.fmean(self.run_durations) if self.run_durations else mean / options.seeds
        left = trials * mean + runs * of_run
        return within_budgets(left, options, self.tokens, self.seconds) / options.workers
