"""The page of a recorded comparison: verdicts, differences and values by seed, curves, tables, and where it is from.

It is written from comparison.json, also where runs were removed since; what is missing is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.report import headline, tables
from nanogpt_kit.comparison.report.arm_labels import ranked_arms, short_arm_labels
from nanogpt_kit.comparison.report.arm_runs import ArmRun, find_arm_runs, missing_sentence
from nanogpt_kit.comparison.report.origin import add_origin
from nanogpt_kit.comparison.sentences import effect_sentence, tries_sentence
from nanogpt_kit.comparison.split_opening import OPENING, SplitOpening, opening_lines
from nanogpt_kit.comparison.text import EFFECTS, spending_lines, wins_sentence
from nanogpt_kit.report.page import NO_FIGURES, Page, has_figures
from nanogpt_kit.report.run_sections import add_samples
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.index import read_run
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.record import Unreadable

MAX_SAMPLED = 6  # arms whose samples are side by side


def comparison_page(comparison: Comparison, folder: Path) -> Page:
    """The page of the comparison that is recorded in `folder`."""
    names = short_arm_labels(comparison)
    found = find_arm_runs(comparison, folder)
    page = Page(headline.page_title(comparison))
    headline.add_headline(page, comparison)
    missing = missing_sentence(found)
    if missing:
        page.warning(missing)
    add_evidence(page, comparison, names, found)
    tables.add_costs(page, comparison, names)
    tables.add_changes(page, comparison, names)
    tables.add_failures(page, comparison, names)
    add_remarks(page, comparison)
    add_test_split(page, comparison, folder)
    add_run_samples(page, comparison, names, found)
    add_origin(page, comparison, names, found, folder)
    return page


def add_evidence(page: Page, comparison: Comparison, names: Sequence[str], found: Sequence[ArmRun]) -> None:
    """Effects, differences, values and curves: each figure with its table, or the tables alone without plotly."""
    sections: Any = None
    if has_figures():
        from nanogpt_kit.comparison.report import figure_sections as sections
    else:
        page.note(NO_FIGURES)
    if comparison.effects:
        add_effects(page, comparison, sections)
    if comparison.results and sections:
        sections.add_difference_figure(page, comparison, names)
    page.section("Means and differences" if comparison.results else "Means")
    if len(comparison.results) == 1 and comparison.results[0].seeds:
        page.lead(f"{wins_sentence(comparison, comparison.results[0])}.")
    tables.add_summary(page, comparison, names)
    title = "Values by seed"
    if sections and any(one.value is not None for one in comparison.measurements):
        sections.add_value_figure(page, comparison, names, title)
    else:
        page.section(title)
    tables.add_values(page, comparison, names)
    if sections:
        sections.add_curves(page, comparison, names, found)


def add_effects(page: Page, comparison: Comparison, sections: Any) -> None:
    """Of a full factorial."""
    note = f"{EFFECTS[0].upper()}{EFFECTS[1:].rstrip(':')}."
    if sections:
        sections.add_effect_figure(page, comparison, note)
    else:
        page.section("Effects")
        page.note(note)
    for effect in comparison.effects:
        page.verdict(headline.full_stop(effect_sentence(comparison, effect)), effect.verdict)


def add_remarks(page: Page, comparison: Comparison) -> None:
    """Budget, looks, notes, and what the best of many tries owes to luck."""
    tries = tries_sentence(comparison)
    lines = [
        *spending_lines(comparison),
        *(f"note: {one_line(note)}" for note in comparison.notes),
        *([tries] if tries else []),
    ]
    if lines:
        page.section("Remarks")
        for line in lines:
            page.lead(line)


def add_test_split(page: Page, comparison: Comparison, folder: Path) -> None:
    """The verdicts on the test split, where this comparison has opened it."""
    try:
        opening = SplitOpening.read(folder / OPENING)
    except FileNotFoundError:
        return
    except Unreadable as error:
        page.section("Test split")
        page.warning(one_line(str(error)))
        return
    if opening.results is not None and opening.has_runs_of(comparison):
        page.section("Test split")
        for line in opening_lines(comparison, opening):
            page.lead(line.strip())


def add_run_samples(page: Page, comparison: Comparison, names: Sequence[str], found: Sequence[ArmRun]) -> None:
    """Of each arm the samples of its first run that has some."""
    first: dict[int, ArmRun] = {}
    for one in found:
        if one.folder is not None and one.folder.samples.exists():
            first.setdefault(one.measurement.arm, one)
    arms = [arm for arm in ranked_arms(comparison) if arm in first]
    add_samples(page, indexed_runs(names, [first[arm] for arm in arms[:MAX_SAMPLED]]))


def indexed_runs(names: Sequence[str], found: Sequence[ArmRun]) -> dict[str, IndexedRun]:
    """Those that are there, by arm and seed."""
    return {
        f"{names[one.measurement.arm]}, seed {one.measurement.seed}": read_run(one.folder)
        for one in found
        if one.folder is not None
    }
