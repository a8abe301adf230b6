"""The page of one run, and of several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from nanogpt_kit.report.metric_curves import (
    MAX_PANELS,
    MAX_POINTS,
    TRAIN_LOSS,
    MetricCurve,
    first_panels,
    range_after_start,
    window_width,
)
from nanogpt_kit.report.page import NO_FIGURES, Page, Table, has_figures, utc_time
from nanogpt_kit.report.run_group_page import runs_of_groups_page
from nanogpt_kit.report.run_options import changed_options, default_text, option_text
from nanogpt_kit.report.run_results import ReportedRun, result_sentences, state_warning
from nanogpt_kit.report.run_sections import add_provenance, add_samples
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.notes import read_notes
from nanogpt_kit.runs.ranking import LOSS
from nanogpt_kit.runs.secrets import hide_in_text

MAX_ROWS = 30  # of the table of evaluations


def runs_page(folders: Sequence[RunFolder], compare_command: Callable[[str], str] = lambda _: "") -> Page:
    """The page of a run, or of several, which then are grouped by configuration.

    `compare_command` returns the command for a verdict on several groups by a metric; "" where there is none.
    """
    if len(folders) == 1:
        return run_page(ReportedRun.read(folders[0]))
    return runs_of_groups_page([ReportedRun.read(folder) for folder in folders], compare_command)


def run_page(run: ReportedRun) -> Page:
    row = run.row
    page = Page(f"Run {row.reference}")
    for text in result_sentences(run):
        page.lead(text)
    if warning := state_warning(row):
        page.warning(warning)
    page.note(f"Written {utc_time(time.time())}.")
    if run.curves and not has_figures():
        page.note(NO_FIGURES)
    add_curves(page, run.curves)
    add_evaluations(page, run.curves)
    add_configuration(page, run)
    add_samples(page, {row.reference: row})
    add_notes(page, run)
    add_provenance(page, {row.reference: row})
    return page


# Curves


def add_curves(page: Page, curves: Mapping[str, MetricCurve]) -> None:
    if not has_figures():
        return
    from nanogpt_kit.report.run_curves import draw_losses, draw_panel

    losses = {name: curves[name] for name in (TRAIN_LOSS, LOSS) if name in curves}
    if losses:
        page.block("Loss", " ".join(loss_notes(losses)), draw_losses(losses))
    others = {name: curve for name, curve in curves.items() if name not in losses}
    evaluated = [name for name, curve in others.items() if curve.is_evaluated]
    logged = first_panels(name for name in others if name not in evaluated)
    for title, names in (("Other evaluations", evaluated), ("Training", logged)):
        note = f"The first {MAX_PANELS} of {len(names)} metrics." if len(names) > MAX_PANELS else ""
        page.block(title, note, figures=[draw_panel(name, others[name]) for name in names[:MAX_PANELS]])


def loss_notes(losses: Mapping[str, MetricCurve]) -> Iterator[str]:
    width = window_width(list(losses.values()))
    if width > 1:
        yield f"The line is the mean over {width:,} steps; behind it are the lowest and the highest values."
    if any(len(curve.steps) > MAX_POINTS for curve in losses.values()):
        yield f"At most {MAX_POINTS:,} points of a curve are drawn, its extremes included."
    if any(has_gaps(curve) for curve in losses.values()):
        yield "A gap is a value that was not finite."
    if range_after_start(list(losses.values())):
        yield "A double click shows the values at the start, which are above the axis."


def has_gaps(curve: MetricCurve) -> bool:
    return any(value != value for value in curve.values)


# Tables


def add_evaluations(page: Page, curves: Mapping[str, MetricCurve]) -> None:
    """A row for each evaluation, evenly chosen where they are many; the last one included."""
    table = evaluations_table(curves)
    if table is None:
        return
    page.section("Evaluations")
    columns, rows = table
    lines = list(rows)
    if len(lines) > MAX_ROWS:
        page.note(f"{MAX_ROWS} of {len(lines):,}, evenly spaced; the last one included.")
        lines = [lines[round(at * (len(lines) - 1) / (MAX_ROWS - 1))] for at in range(MAX_ROWS)]
    page.table(columns, lines)


def evaluations_table(curves: Mapping[str, MetricCurve]) -> Table | None:
    evaluated = {name: curve for name, curve in curves.items() if curve.is_evaluated}
    if not evaluated:
        return None
    rows: dict[int, dict[str, object]] = {}
    for name, curve in evaluated.items():
        for step, tokens, value in zip(curve.steps, curve.tokens, curve.values, strict=True):
            row = rows.setdefault(step, {"step": step, "tokens": int(tokens)})
            row[name] = value if value == value else "not finite"
    columns = ["step", "tokens", *evaluated]
    return columns, [[row.get(column) for column in columns] for _, row in sorted(rows.items())]


def add_configuration(page: Page, run: ReportedRun) -> None:
    if not run.row.options:
        return
    options, shipped = changed_options(run.row)
    page.section("Configuration")
    if not options:
        page.note("Every option has its default.")
        return
    than = f" or from the shipped experiment {shipped}, those first" if shipped else ""
    page.note(
        f"The options that differ from their defaults{than}. Those without a default are chosen by each experiment."
    )
    columns = ["option", "this run", *([shipped] if shipped else []), "default"]
    rows = [
        [one.key, option_text(one.value), *([option_text(one.shipped)] if shipped else []), default_text(one.default)]
        for one in options
    ]
    page.table(columns, rows)


def add_notes(page: Page, run: ReportedRun) -> None:
    notes = read_notes(run.row.folder.path)
    if notes:
        page.section("Notes")
        page.mapping((utc_time(note.time), hide_in_text(note.text)) for note in notes)
