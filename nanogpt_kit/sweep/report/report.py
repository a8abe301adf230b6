"""report.html: what a sweep has found, in one file that any browser opens without a network."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import optuna

from nanogpt_kit.core.writing import write_atomically
from nanogpt_kit.report.page import NO_FIGURES, Page, first_characters, format_number, has_figures
from nanogpt_kit.sweep.report.findings import (
    ROUGH,
    Ranges,
    cause_words,
    cautions,
    complete_of,
    importances,
    is_pruned,
    outcomes,
    ranges_of,
    sign_of,
    value_of,
    verdict,
)
from nanogpt_kit.sweep.study.summary import Row, Summary

TABLE_ROWS = 2_000
REASON = 240  # letters of it in the table


def write(summary: Summary, study: optuna.Study, path: Path) -> None:
    """The report of a sweep that may still be going on. best.toml is looked for beside `path`."""
    write_atomically(path, made(summary, study, path.parent).html())


def made(summary: Summary, study: optuna.Study, folder: Path) -> Page:
    page = Page(f"Sweep of {summary.name}")
    ranges = ranges_of(study)
    add_headline(page, summary, folder)
    for text in cautions(summary, ranges):
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


def add_headline(page: Page, summary: Summary, folder: Path) -> None:
    options = summary.options
    counts = ", ".join(f"{count} {state}" for state, count in summary.counts().items() if count)
    better = "lower" if options.direction == "minimize" else "higher"
    page.lead(
        f"{options.metric}, {better} is better. Of {summary.count} trials: {counts or 'none has begun'}. "
        f"Sampler {options.sampler}, pruner {options.pruner}, {runs_of_a_trial(summary)}."
    )
    spent = f"{amount(summary.tokens)} tokens and {duration(summary.seconds)} of training so far"
    page.lead(f"{spent}; a whole trial takes {amount(summary.trial_tokens)} tokens.")
    best = summary.best()
    page.lead(best_in_words(summary, best) if best is not None else "No trial is complete: there is no best one yet.")
    page.note(f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.")


def runs_of_a_trial(summary: Summary) -> str:
    seeds = summary.options.seeds
    return "one run a trial" if seeds == 1 else f"{seeds} seeds a trial, whose mean counts"


def best_in_words(summary: Summary, best: Row) -> str:
    words = f"The best is trial {best.number} with {summary.options.metric} = {format_number(value_of(best))}"
    if summary.confirmed and summary.confirmed[0].number == best.number:
        words += f", and {format_number(summary.confirmed[0].mean)} on average over fresh seeds"
    first = next((row for row in complete_of(summary) if row.number == 0), None)
    if first is None:
        return f"{words}."
    if first == best:
        return f"{words}: the experiment as it is written, which no other trial beats."
    gain = sign_of(summary) * (value_of(first) - value_of(best))
    relation = f"{format_number(abs(gain), 3)} {'better' if gain >= 0 else 'worse'} than"
    return f"{words}, {relation} trial 0, the experiment as it is written ({format_number(value_of(first))})."


def add_best(page: Page, summary: Summary, folder: Path) -> None:
    best = summary.best()
    if best is None:
        return
    page.section("The best")
    first = next((row for row in summary.rows if row.number == 0 and row != best), None)
    columns = ["option", f"trial {best.number}", *(["trial 0, as written"] if first else []), "tried"]
    rows = []
    for name, value in best.names.items():
        as_written = [first.config.get(name.split("@")[0])] if first else []
        rows.append([name.split("@")[0], value, *as_written, summary.space.get(name, "").split(", where")[0]])
    page.table(columns, rows)
    page.note("To run it again, with these values and all others of the experiment:")
    page.command(summary.command(folder))


def add_confirmation(page: Page, summary: Summary) -> None:
    if not summary.confirmed:
        return
    page.section("Confirmation")
    page.note("The best trials again, with seeds that had no part in choosing them. Where one failed, it is last.")
    own = {row.number: value_of(row) for row in complete_of(summary)}
    place = {row.number: at for at, row in enumerate(summary.best_first(), 1)}
    most = max(len(one.values) for one in summary.confirmed)
    rows = []
    for at, one in enumerate(summary.confirmed, 1):
        spread = statistics.stdev(one.values) if len(one.values) > 1 else None
        values = [*one.values, *[None] * (most - len(one.values))]
        before = [place.get(one.number), own.get(one.number)]
        rows.append([at, one.number, one.mean, spread, *values, one.failed, *before])
    seeds = [f"value {at}" for at in range(1, most + 1)]
    columns = ["place", "trial", "mean", "sd", *seeds, "failed", "place in the sweep", "value in the sweep"]
    page.table(columns, rows, marked=0)
    page.lead(" ".join(verdict(summary)))


def add_figures(page: Page, summary: Summary, study: optuna.Study, ranges: Ranges) -> None:
    from nanogpt_kit.sweep.report import figures

    if any(row.value is not None or row.reports for row in summary.rows):
        page.section("History")
        page.note(
            "Here and below, crosses above a figure are trials that were pruned (grey), or lost (red: out of memory, "
            "no finite loss, refused, failed). Values far off on the bad side are left out; a double click shows them."
        )
        page.figure(figures.history(summary))
        page.section("Curves")
        left_out = list(thinnings(summary, figures.most_of_a_curve(summary), figures.DOTS))
        page.note(" ".join(["Each evaluation of each trial, of its first seed.", *left_out]))
        page.figure(figures.curves(summary))
    add_importances(page, study)
    drawn = figures.slices(summary, ranges)
    if drawn:
        page.section("One parameter at a time")
        page.note("A dot is a complete trial; pale ones are early, dark ones late, and the star is the best.")
        page.gallery(drawn)
        together = figures.parallel(summary, ranges) if len(drawn) > 1 else None
        if together is not None:
            page.section("All parameters together")
            page.note("A line is a complete trial, orange the best. Drag along an axis to keep those that pass there.")
            page.figure(together, min_width=110 * (len(drawn) + 1))
    costs = figures.costs(summary)
    if costs:
        page.section("Value and cost")
        page.note("The line joins the trials that no other beats in both. Seconds were taken while others ran beside.")
        page.gallery(costs)
    if summary.rows or summary.count:
        page.section("How trials ended")
        page.figure(figures.states(summary))


def thinnings(summary: Summary, most: int, dots: int) -> Iterator[str]:
    """What the figures leave out."""
    if any(len(row.reports) > most for row in summary.rows):
        yield f"Of each no more than {most} evaluations are drawn, evenly spread."
    if len(summary.rows) > dots:
        yield f"No figure shows more than {dots:,} trials, evenly spread."


def add_importances(page: Page, study: optuna.Study) -> None:
    found = importances(study)
    page.section("Which parameters matter")
    if not found[0].shares:
        page.note(f"That cannot be told: {found[0].why_none}.")
        return
    rough = f" With fewer than {ROUGH} trials this is rough." if found[0].trials < ROUGH else ""
    branches = " Then the same for each branch." if len(found) > 1 else ""
    page.note(
        f"Shares in whether a trial is among the best tenth (PED-ANOVA), of {found[0].trials} complete trials."
        f"{rough}{branches}"
    )
    if has_figures():
        from nanogpt_kit.sweep.report import figures

        titles = [f"{one.title} ({one.trials})" for one in found]
        page.gallery(figures.importances(one.shares, title) for one, title in zip(found, titles, strict=True))
    else:
        rows = [[one.title, name, share] for one in found for name, share in one.shares.items()]
        page.table(["among", "option", "share"], rows)


def add_outcomes(page: Page, summary: Summary) -> None:
    page.section("How trials ended")
    page.table(["outcome", "trials"], [[cause_words(name), count] for name, count in outcomes(summary).items()])


def add_trials(page: Page, summary: Summary) -> None:
    """All of them: complete ones first, the best first of all, then by number."""
    if not summary.rows:
        return
    page.section("All trials")
    complete = summary.best_first()
    numbers = {row.number for row in complete}
    others = [row for row in summary.rows if row.number not in numbers]
    rows = [*complete, *others]
    keys = list(dict.fromkeys(key for row in rows for key in row.config))
    columns = ["trial", "state", summary.options.metric, *keys, "tokens", "seconds", "parameters", "run", "cause"]
    if len(rows) > TABLE_ROWS:
        page.note(f"The first {TABLE_ROWS:,} of {len(rows):,}.")
    if any(is_pruned(row) for row in rows):
        page.note("The value of a pruned trial is the one that it was given up with, of fewer tokens than the others'.")
    best = summary.best()
    marked = rows.index(best) if best is not None else None
    page.table(columns, (cells(summary, row, keys) for row in rows[:TABLE_ROWS]), marked)


def cells(summary: Summary, row: Row, keys: list[str]) -> list[object]:
    cause = cause_words(row.cause) if row.cause != row.state else ""
    why = ": ".join(part for part in (cause, first_characters(row.reason, REASON)) if part)
    values = [row.config.get(key) for key in keys]
    cost = [row.tokens, round(row.seconds, 1), row.parameters]
    return [row.number, row.state, row.value, *values, *cost, row.run(summary.seed).name, why]


def amount(count: float) -> str:
    """12.3 million."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """In the unit that it is thought of in."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
