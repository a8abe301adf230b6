"""The tables of trials on a sweep's page: the best against the experiment as written, how trials ended, all of them."""

from __future__ import annotations

from pathlib import Path

from nanogpt_kit.report.page import Page, first_characters
from nanogpt_kit.sweep.report.branch_section import value_cells
from nanogpt_kit.sweep.report.findings import cause_text
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

MAX_ROWS = 2_000  # of the table of trials
MAX_REASON_CHARACTERS = 240  # in it


def add_best(page: Page, summary: SweepSummary, folder: Path) -> None:
    """The values of the best trial, and the command that runs it again; `folder` is the sweep's."""
    best = summary.best()
    if best is None:
        return
    page.section("The best trial")
    first = next((trial for trial in summary.trials if trial.index == 0 and trial != best), None)
    columns = ["option", f"trial {best.index}", *(["trial 0, as written"] if first else []), "values"]
    rows = []
    for name, value in best.params.items():
        as_written = [first.config.get(name.split("@")[0])] if first else []
        rows.append([name.split("@")[0], value, *as_written, summary.space.get(name, "").split(", where")[0]])
    page.table(columns, rows)
    page.note("To run it again, with these values and all others of the experiment:")
    page.command(summary.command(folder))


def add_trials(page: Page, summary: SweepSummary) -> None:
    """All trials: complete ones first, the best at the top, then the others by index."""
    if not summary.trials:
        return
    page.section("All trials")
    complete = summary.ranked_trials()
    indices = {trial.index for trial in complete}
    trials = [*complete, *(trial for trial in summary.trials if trial.index not in indices)]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.config))
    spread = ["sd", "n"] * (summary.options.seeds > 1)
    columns = ["trial", "state", summary.options.metric, *spread, *keys, "tokens", "seconds", "parameters", "run"]
    if len(trials) > MAX_ROWS:
        page.note(f"The first {MAX_ROWS:,} of {len(trials):,}.")
    if any(trial.is_pruned for trial in trials):
        page.note("A pruned trial has the value that it was pruned with, after fewer tokens than the others.")
    best = summary.best()
    marked = trials.index(best) if best is not None else None
    page.table([*columns, "cause"], (trial_cells(summary, trial, keys) for trial in trials[:MAX_ROWS]), marked)


def trial_cells(summary: SweepSummary, trial: TrialSummary, keys: list[str]) -> list[object]:
    cause = cause_text(trial.cause) if trial.cause != trial.state else ""
    why = ": ".join(part for part in (cause, first_characters(trial.reason, MAX_REASON_CHARACTERS)) if part)
    values = [trial.config.get(key) for key in keys]
    cost = [trial.tokens, round(trial.seconds, 1), trial.parameters]
    return [trial.index, trial.state, *value_cells(summary, trial), *values, *cost, trial.run(summary.seed).name, why]
