"""report.html: the results of a sweep in one file, which any browser opens without a network."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import optuna

from nanogpt_kit.comparison.numbers import count_text
from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.page import NO_FIGURES, Page, format_number, has_figures
from nanogpt_kit.sweep.report.branch_section import add_branches
from nanogpt_kit.sweep.report.confirmation_section import add_confirmation, add_differences
from nanogpt_kit.sweep.report.findings import (
    Ranges,
    cause_text,
    ended_counts,
    has_overlapping_trials,
    outcome_counts,
    parameter_ranges,
    trial_value,
    warnings_about,
)
from nanogpt_kit.sweep.report.importances import ROUGH_TRIALS, measure_importances, missing_for_importances
from nanogpt_kit.sweep.report.trial_tables import add_best, add_trials
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.verdict import SweepVerdict, headline, judge_sweep
from nanogpt_kit.system.writing import write_atomically

UNEQUAL_TOKENS = 0.99  # of the longest complete run: a run with fewer tokens is a shorter one
BEST_IS_ORANGE = "Orange is the best; the others are the greyer the worse their value."


def write_report(summary: SweepSummary, study: optuna.Study, path: Path) -> None:
    """Writes the report of a sweep, which may still be running; `path` is in the sweep's folder."""
    write_atomically(path, build_page(summary, study, path.parent).html())


def build_page(summary: SweepSummary, study: optuna.Study, folder: Path) -> Page:
    """`folder` is the sweep's."""
    page = Page(f"Sweep of {summary.name}")
    ranges = parameter_ranges(study)
    verdict = judge_sweep(summary)
    add_headline(page, summary, verdict)
    for text in warnings_about(summary, ranges):
        page.warning(text)
    if not has_figures():
        page.note(NO_FIGURES)
    add_branches(page, summary, verdict, ranges)
    add_confirmation(page, summary)
    add_differences(page, summary, verdict)
    add_best(page, summary, folder)
    add_history(page, summary)
    add_curves(page, summary)
    add_importances(page, summary, study)
    add_parameters(page, summary, ranges)
    add_costs(page, summary, study)
    add_outcomes(page, summary)
    add_trials(page, summary)
    return page


def add_headline(page: Page, summary: SweepSummary, verdict: SweepVerdict | None) -> None:
    text = headline(summary)
    if verdict is not None and verdict.best is not None:
        page.verdict(text, verdict.best.result.verdict)
    else:
        page.lead(text)
    best = summary.best()
    page.lead(best_text(summary, best) if best is not None else "No trial is complete, so there is no best one yet.")
    options = summary.options
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in ended_counts(summary).items() if count)
    better = "lower" if options.direction == "minimize" else "higher"
    runs = "one run per trial" if options.seeds == 1 else f"{options.seeds} seeds per trial, whose mean counts"
    page.lead(
        f"{options.metric}, {better} is better. Of {count_text(summary.count, 'trial')}: {counts or 'none has begun'}. "
        f"Sampler {options.sampler}, pruner {options.pruner}, {runs}."
    )
    used = f"{format_amount(summary.tokens)} tokens and {duration_text(summary.seconds)} of training so far"
    page.lead(f"{used}; {trial_tokens_text(summary)}.{fresh_text(summary)}")
    page.note(f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.")


def trial_tokens_text(summary: SweepSummary) -> str:
    """What a complete trial takes. Trials differ where the sweep varies what a step takes."""
    amounts = [trial.reports[-1][0] for trial in summary.complete_trials() if trial.reports]
    least, most = min(amounts, default=0), max(amounts, default=0)
    if least > UNEQUAL_TOKENS * most or not most:
        return f"a complete trial takes {format_amount(summary.trial_tokens)} tokens"
    return f"the runs of complete trials took {format_amount(least)} to {format_amount(most)} tokens each"


def fresh_text(summary: SweepSummary) -> str:
    """What the confirmation took besides the search."""
    state = summary.confirmation
    if state is None:
        return ""
    used = f"{format_amount(state.tokens)} tokens and {duration_text(state.seconds)}"
    return f" {state.ended} of {count_text(state.runs, 'run')} with fresh seeds took {used}."


def best_text(summary: SweepSummary, best: TrialSummary) -> str:
    """The best trial and trial 0 with their values. How they compare is for the verdict to say."""
    text = f"The best is trial {best.index} with {summary.options.metric} = {search_value_text(summary, best)}"
    if best.index == 0:
        return f"{text}: the experiment as written."
    first = next((trial for trial in summary.complete_trials() if trial.index == 0), None)
    written = (
        f" Trial 0, the experiment as written, has {search_value_text(summary, first)}." if first is not None else ""
    )
    return f"{text}.{written}"


def search_value_text(summary: SweepSummary, trial: TrialSummary) -> str:
    """Its value in the search, and its mean over fresh seeds where it has some."""
    confirmed = next((one for one in summary.confirmed if one.index == trial.index), None)
    fresh = f", and {format_number(confirmed.mean)} on average over fresh seeds" if confirmed is not None else ""
    return f"{format_number(trial_value(trial))}{fresh}"


def add_history(page: Page, summary: SweepSummary) -> None:
    if not has_figures() or not any(trial.value is not None or trial.reports for trial in summary.trials):
        return
    from nanogpt_kit.sweep.report import figures

    seeds = "Small dots are seeds, diamonds are their means. " if summary.options.seeds > 1 else ""
    note = (
        f"{seeds}Here and below, crosses above a figure are trials that were pruned (grey) or gave no result (red: out "
        "of memory, loss not finite, refused, failed). Values far off on the bad side are left out; a double click "
        "shows them."
    )
    page.block("History", note, figures.draw_history(summary))


def add_curves(page: Page, summary: SweepSummary) -> None:
    if not has_figures() or not any(trial.reports for trial in summary.trials):
        return
    from nanogpt_kit.sweep.report import trial_curves

    branches = "Colours are branches; pruned trials are dotted. " if len(summary.branches) > 1 else ""
    omissions = list(omission_notes(summary))
    note = " ".join([f"{branches}Evaluations of the first seed of each trial.", *omissions])
    page.block("Curves", note, trial_curves.draw_trial_curves(summary))


def omission_notes(summary: SweepSummary) -> Iterator[str]:
    """Sentences about what the figures leave out."""
    from nanogpt_kit.sweep.report.markers import MAX_TRIALS
    from nanogpt_kit.sweep.report.trial_curves import MAX_CURVES, max_curve_points

    max_points = max_curve_points(summary)
    if any(len(trial.reports) > max_points for trial in summary.trials):
        yield f"At most {max_points} evaluations of each are drawn, evenly spread."
    if len(summary.trials) > MAX_CURVES:
        yield f"The curves of {MAX_CURVES} trials are drawn, evenly spread, and that of the best."
    if len(summary.trials) > MAX_TRIALS:
        yield f"No other figure shows more than {MAX_TRIALS:,} trials."


def add_importances(page: Page, summary: SweepSummary, study: optuna.Study) -> None:
    """The importances, or what the trials show instead while they are too few."""
    if not summary.complete_trials():
        return
    title = "Which parameters matter"
    missing = list(missing_for_importances(summary))
    found = [] if missing else measure_importances(study, summary.branches)
    if not found or not found[0].values:
        page.section(title)
        page.note(" ".join(missing) or f"Not known: {found[0].reason}.")
        return
    overall = found[0]
    rough = f" With fewer than {ROUGH_TRIALS} trials this is rough." if overall.trials < ROUGH_TRIALS else ""
    note = (
        "How much each parameter decides whether a trial is among the best tenth (PED-ANOVA), measured on "
        f"{overall.trials} complete trials.{rough}{' Then the same for each branch.' * (len(found) > 1)}"
    )
    labels = short_labels(list(overall.values), 60)
    rows = [[one.title, labels[name], value] for one in found for name, value in one.values.items()]
    if has_figures():
        from nanogpt_kit.sweep.report import figures

        most = max(value for one in found for value in one.values.values())
        drawn = [figures.draw_importances(one.values, f"{one.title}, {one.trials} complete", most) for one in found]
        page.block(title, note, figures=drawn)
    else:
        page.block(title, note, instead=(["among", "option", "importance"], rows))


def add_parameters(page: Page, summary: SweepSummary, ranges: Ranges) -> None:
    if not has_figures():
        return
    from nanogpt_kit.sweep.report import slices

    panels = slices.draw_slices(summary, ranges)
    colors = "Colours are branches; pale dots" if len(summary.branches) > 1 else "Pale dots"
    note = f"A dot is a complete trial, the star is the best. {colors} are early trials, full ones late."
    page.block("Each parameter separately", note, figures=panels)
    shades = "Colours are branches, the greyer the worse the value." if len(summary.branches) > 1 else BEST_IS_ORANGE
    parallel = slices.draw_parallel_coordinates(summary, ranges) if len(panels) > 1 else None
    page.block(
        "All parameters together",
        f"A line is a complete trial. {shades} Trials to which a parameter does not apply pass below its axis. Drag "
        "along an axis to select the trials that pass there.",
        parallel,
        min_width=110 * (len(panels) + 1),
    )


def add_costs(page: Page, summary: SweepSummary, study: optuna.Study) -> None:
    if not has_figures():
        return
    from nanogpt_kit.sweep.report import figures

    beside = (
        " Some trials ran at the same time as others, which may have made their seconds longer."
        if has_overlapping_trials(study)
        else ""
    )
    note = f"The line joins the trials that no other beats in both.{beside}"
    page.block("Value and cost", note, figures=figures.draw_costs(summary))


def add_outcomes(page: Page, summary: SweepSummary) -> None:
    if len(outcome_counts(summary)) < 2:  # the headline has its number
        return
    if has_figures():
        from nanogpt_kit.sweep.report import figures

        page.block("How trials ended", figure=figures.draw_outcomes(summary))
    else:
        rows = [[cause_text(name), count] for name, count in outcome_counts(summary).items()]
        page.block("How trials ended", instead=(["outcome", "trials"], rows))


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
