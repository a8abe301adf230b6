"""report.html: the results of a sweep in one file, which any browser opens without a network."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import optuna

from nanogpt_kit.report.page import NO_FIGURES, Page, first_characters, format_number, has_figures
from nanogpt_kit.sweep.report.findings import (
    Ranges,
    cause_text,
    confirmation_verdict,
    outcome_counts,
    parameter_ranges,
    trial_value,
    warnings_about,
)
from nanogpt_kit.sweep.report.importances import ROUGH_TRIALS, measure_importances
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.verdict import judge_best_trial
from nanogpt_kit.system.writing import write_atomically

MAX_ROWS = 2_000  # of the table of trials
MAX_REASON = 240  # characters of a reason in it


def write_report(summary: SweepSummary, study: optuna.Study, path: Path) -> None:
    """Writes the report of a sweep, which may still be running; `path` is in the sweep's folder."""
    write_atomically(path, build_page(summary, study, path.parent).html())


def build_page(summary: SweepSummary, study: optuna.Study, folder: Path) -> Page:
    page = Page(f"Sweep of {summary.name}")
    ranges = parameter_ranges(study)
    add_headline(page, summary)
    for text in warnings_about(summary, ranges):
        page.warning(text)
    add_best(page, summary, folder)
    add_confirmation(page, summary)
    if has_figures():
        add_figures(page, summary, study, ranges)
    else:
        page.note(NO_FIGURES)
        add_outcomes(page, summary)
        add_importances(page, study)
    add_trials(page, summary)
    return page


def add_headline(page: Page, summary: SweepSummary) -> None:
    options = summary.options
    counts = ", ".join(f"{count} {state}" for state, count in summary.counts().items() if count)
    better = "lower" if options.direction == "minimize" else "higher"
    runs = "one run per trial" if options.seeds == 1 else f"{options.seeds} seeds per trial, whose mean counts"
    page.lead(
        f"{options.metric}, {better} is better. Of {summary.count} trials: {counts or 'none has begun'}. "
        f"Sampler {options.sampler}, pruner {options.pruner}, {runs}."
    )
    used = f"{format_amount(summary.tokens)} tokens and {duration_text(summary.seconds)} of training so far"
    page.lead(f"{used}; a complete trial takes {format_amount(summary.trial_tokens)} tokens.")
    best = summary.best()
    page.lead(best_text(summary, best) if best is not None else "No trial is complete, so there is no best one yet.")
    page.note(f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.")


def best_text(summary: SweepSummary, best: TrialSummary) -> str:
    text = f"The best is trial {best.index} with {summary.options.metric} = {format_number(trial_value(best))}"
    if summary.confirmed and summary.confirmed[0].index == best.index:
        text += f", and {format_number(summary.confirmed[0].mean)} on average over fresh seeds"
    first = next((trial for trial in summary.complete_trials() if trial.index == 0), None)
    if first is None:
        return f"{text}."
    verdict = judge_best_trial(summary)
    sentence = f" Paired by seed, {verdict.sentence()}." if verdict is not None else ""
    if first == best:
        unbeaten = "" if verdict is not None else ", which no other trial beats"
        return f"{text}: the experiment as written{unbeaten}.{sentence}"
    as_written = f"trial 0, the experiment as written ({format_number(trial_value(first))})"
    if verdict is not None:
        return f"{text}, to be compared with {as_written}.{sentence}"
    gain = summary.sign * (trial_value(first) - trial_value(best))
    relation = f"{format_number(abs(gain), 3)} {'better' if gain >= 0 else 'worse'} than"
    return f"{text}, {relation} {as_written}."


def add_best(page: Page, summary: SweepSummary, folder: Path) -> None:
    best = summary.best()
    if best is None:
        return
    page.section("The best")
    first = next((trial for trial in summary.trials if trial.index == 0 and trial != best), None)
    columns = ["option", f"trial {best.index}", *(["trial 0, as written"] if first else []), "values"]
    rows = []
    for name, value in best.params.items():
        as_written = [first.config.get(name.split("@")[0])] if first else []
        rows.append([name.split("@")[0], value, *as_written, summary.space.get(name, "").split(", where")[0]])
    page.table(columns, rows)
    page.note("To run it again, with these values and all others of the experiment:")
    page.command(summary.command(folder))


def add_confirmation(page: Page, summary: SweepSummary) -> None:
    if not summary.confirmed:
        return
    page.section("Confirmation")
    page.note("The best trials again, with seeds that none was chosen by. Those that failed with a seed come last.")
    values_before = {trial.index: trial_value(trial) for trial in summary.complete_trials()}
    rank_before = {trial.index: rank for rank, trial in enumerate(summary.ranked_trials(), 1)}
    most = max(len(trial.values) for trial in summary.confirmed)
    rows = []
    for rank, trial in enumerate(summary.confirmed, 1):
        spread = statistics.stdev(trial.values) if len(trial.values) > 1 else None
        values = [*trial.values, *[None] * (most - len(trial.values))]
        before = [rank_before.get(trial.index), values_before.get(trial.index)]
        rows.append([rank, trial.index, trial.mean, spread, *values, trial.failed, *before])
    seeds = [f"value {seed}" for seed in range(1, most + 1)]
    columns = ["rank", "trial", "mean", "sd", *seeds, "failed", "rank in the sweep", "value in the sweep"]
    page.table(columns, rows, marked=0)
    page.lead(" ".join(confirmation_verdict(summary)))


def add_figures(page: Page, summary: SweepSummary, study: optuna.Study, ranges: Ranges) -> None:
    from nanogpt_kit.sweep.report import figures, markers

    if any(trial.value is not None or trial.reports for trial in summary.trials):
        page.section("History")
        page.note(
            "Here and below, crosses above a figure are trials that were pruned (grey) or gave no result (red: out of "
            "memory, loss not finite, refused, failed). Values far off on the bad side are left out; a double click "
            "shows them."
        )
        page.figure(figures.draw_history(summary))
        page.section("Curves")
        omissions = list(omission_notes(summary, figures.max_curve_points(summary), markers.MAX_TRIALS))
        page.note(" ".join(["Every evaluation of every trial, for its first seed.", *omissions]))
        page.figure(figures.draw_curves(summary))
    add_importances(page, study)
    slices = figures.draw_slices(summary, ranges)
    if slices:
        page.section("Each parameter separately")
        page.note("A dot is a complete trial; pale ones are early, dark ones late, and the star is the best.")
        page.gallery(slices)
        parallel = figures.draw_parallel_coordinates(summary, ranges) if len(slices) > 1 else None
        if parallel is not None:
            page.section("All parameters together")
            page.note(
                "A line is a complete trial, orange the best. Drag along an axis to select those that pass there."
            )
            page.figure(parallel, min_width=110 * (len(slices) + 1))
    costs = figures.draw_costs(summary)
    if costs:
        page.section("Value and cost")
        page.note(
            "The line joins the trials that no other beats in both. Seconds were measured while others were running."
        )
        page.gallery(costs)
    if summary.trials or summary.count:
        page.section("How trials ended")
        page.figure(figures.draw_outcomes(summary))


def omission_notes(summary: SweepSummary, max_points: int, max_trials: int) -> Iterator[str]:
    """Sentences about what the figures leave out."""
    if any(len(trial.reports) > max_points for trial in summary.trials):
        yield f"At most {max_points} evaluations of each are drawn, evenly spread."
    if len(summary.trials) > max_trials:
        yield f"No figure shows more than {max_trials:,} trials, evenly spread."


def add_importances(page: Page, study: optuna.Study) -> None:
    found = measure_importances(study)
    overall = found[0]
    page.section("Which parameters matter")
    if not overall.values:
        page.note(f"Not known: {overall.reason}.")
        return
    rough = f" With fewer than {ROUGH_TRIALS} trials this is rough." if overall.trials < ROUGH_TRIALS else ""
    branches = " Then the same for each branch." if len(found) > 1 else ""
    page.note(
        "How much each parameter decides whether a trial is among the best tenth (PED-ANOVA), measured on "
        f"{overall.trials} complete trials.{rough}{branches}"
    )
    if has_figures():
        from nanogpt_kit.sweep.report import figures

        page.gallery(figures.draw_importances(one.values, f"{one.title} ({one.trials})") for one in found)
    else:
        rows = [[one.title, name, value] for one in found for name, value in one.values.items()]
        page.table(["among", "option", "importance"], rows)


def add_outcomes(page: Page, summary: SweepSummary) -> None:
    page.section("How trials ended")
    page.table(["outcome", "trials"], [[cause_text(name), count] for name, count in outcome_counts(summary).items()])


def add_trials(page: Page, summary: SweepSummary) -> None:
    """All trials: complete ones first, the best at the top, then the others by index."""
    if not summary.trials:
        return
    page.section("All trials")
    complete = summary.ranked_trials()
    indices = {trial.index for trial in complete}
    trials = [*complete, *(trial for trial in summary.trials if trial.index not in indices)]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.config))
    columns = ["trial", "state", summary.options.metric, *keys, "tokens", "seconds", "parameters", "run", "cause"]
    if len(trials) > MAX_ROWS:
        page.note(f"The first {MAX_ROWS:,} of {len(trials):,}.")
    if any(trial.is_pruned for trial in trials):
        page.note("A pruned trial has the value that it was pruned with, after fewer tokens than the others.")
    best = summary.best()
    marked = trials.index(best) if best is not None else None
    page.table(columns, (trial_cells(summary, trial, keys) for trial in trials[:MAX_ROWS]), marked)


def trial_cells(summary: SweepSummary, trial: TrialSummary, keys: list[str]) -> list[object]:
    cause = cause_text(trial.cause) if trial.cause != trial.state else ""
    why = ": ".join(part for part in (cause, first_characters(trial.reason, MAX_REASON)) if part)
    values = [trial.config.get(key) for key in keys]
    cost = [trial.tokens, round(trial.seconds, 1), trial.parameters]
    return [trial.index, trial.state, trial.value, *values, *cost, trial.run(summary.seed).name, why]


def format_amount(count: float) -> str:
    """A large count as text: 12.3 million."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,.0f}"


def duration_text(seconds: float) -> str:
    """Seconds as text, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
