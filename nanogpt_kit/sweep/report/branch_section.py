"""The best of each branch of a sweep: what each was given, what was found in it, and how the best ones compare."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from nanogpt_kit.report.page import Page, format_number
from nanogpt_kit.sweep.report.findings import Ranges, edge_side, fraction_of_range
from nanogpt_kit.sweep.report.judgements import judgement_sentence
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.confirmation import ConfirmedTrial
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.verdict import SweepVerdict, TrialVerdict

RANGE_COLUMNS = ("branch", "parameter", "allowed", "tried", "part tried", "best trial has", "at an edge")


def add_branches(page: Page, summary: SweepSummary, verdict: SweepVerdict | None, ranges: Ranges) -> None:
    """Nothing where no choice makes branches."""
    if not summary.branches:
        return
    page.section("Best of each branch")
    page.table(branch_columns(summary), [branch_row(summary, branch) for branch in summary.branches])
    without = [trial for trial in summary.trials if not any(branch.has(trial.params) for branch in summary.branches)]
    if without:
        page.note(f"{len(without)} more ended before their values were chosen.")
    judged = branch_judgements(summary, verdict) if verdict is not None else []
    for one in judged:
        page.lead(judgement_sentence(summary, one))
    if not judged and len(summary.branches) > 1:
        page.note(absence_note(summary))
    rows = list(range_rows(summary, ranges))
    if rows:
        page.note("The range of each number that was tried in a branch, against the range that is allowed:")
        page.table(RANGE_COLUMNS, rows)


def absence_note(summary: SweepSummary) -> str:
    """Why no two branches are judged, and the remedy if there is one."""
    state = summary.confirmation
    if state is not None and state.ended < state.runs:
        return "No verdict between the branches yet: the runs with fresh seeds have not ended."
    with_best = [branch.label for branch in summary.branches if summary.best_of(branch) is not None]
    if len(with_best) < 2:
        which = f"only {with_best[0]}" if with_best else "none of them"
        return f"No verdict between the branches: {which} has a complete trial."
    if not summary.options.confirm and state is None:
        return "No verdict between the branches: it requires fresh seeds for the best of each (confirm in [sweep])."
    if state is None:
        return "No verdict between the branches yet: no run with a fresh seed has begun."
    return "No verdict between the branches: the fresh seeds make no pair between them."


def branch_judgements(summary: SweepSummary, verdict: SweepVerdict) -> list[TrialVerdict]:
    """The judgements between branches, also where the best of one branch is trial 0 itself."""
    if verdict.seeds != "fresh":
        return []  # the search chose the best of each branch by its own seeds
    bests = [best.index for branch in summary.branches if (best := summary.best_of(branch)) is not None]
    against_first = [one for one in verdict.against_first if one.trial.index in bests] if 0 in bests else []
    return [*against_first, *verdict.between_branches]


def branch_columns(summary: SweepSummary) -> list[str]:
    outcomes = ["complete", "pruned", "no result", *["not ended"] * has_unfinished(summary)]
    value = [summary.options.metric, *["sd", "n"] * (summary.options.seeds > 1)]
    fresh = ["fresh seeds: mean", "fresh sd", "fresh n"] if summary.confirmed else []
    return ["branch", *outcomes, "tokens", "best trial", *value, *fresh, "its values"]


def has_unfinished(summary: SweepSummary) -> bool:
    return any(trial.state in ("running", "interrupted") for trial in summary.trials)


def branch_row(summary: SweepSummary, branch: Branch) -> list[object]:
    trials, best = summary.trials_of(branch), summary.best_of(branch)
    complete, pruned = (sum(test) for test in zip(*map(outcome_flags, trials), strict=True)) if trials else (0, 0)
    failed = sum(trial.has_no_result for trial in trials)
    counts = [complete, pruned, failed, *[len(trials) - complete - pruned - failed] * has_unfinished(summary)]
    about_best = [None if best is None else best.index, *value_cells(summary, best), *fresh_cells(summary, best)]
    own = values_text(best, branch) if best is not None else None
    return [branch.label, *counts, sum(trial.tokens for trial in trials), *about_best, own]


def outcome_flags(trial: TrialSummary) -> tuple[bool, bool]:
    return trial.state == "complete", trial.is_pruned


def value_cells(summary: SweepSummary, trial: TrialSummary | None) -> list[object]:
    """The value of a trial; with several seeds also their standard deviation and how many there are."""
    value = trial.value if trial is not None else None
    if summary.options.seeds == 1:
        return [value]
    seeds = trial.values if trial is not None else ()
    return [value, statistics.stdev(seeds) if len(seeds) > 1 else None, len(seeds) or None]


def fresh_cells(summary: SweepSummary, trial: TrialSummary | None) -> list[object]:
    if not summary.confirmed:
        return []
    found = confirmed_of(summary, trial)
    return [None, None, None] if found is None else [found.mean, found.sd, len(found.values)]


def confirmed_of(summary: SweepSummary, trial: TrialSummary | None) -> ConfirmedTrial | None:
    return next((one for one in summary.confirmed if trial is not None and one.index == trial.index), None)


def values_text(trial: TrialSummary, branch: Branch) -> str:
    """Its values without those that are the branch."""
    own = {name.split("@")[0]: value for name, value in trial.params.items() if name not in branch.params}
    texts = (format_number(value) if isinstance(value, float) else str(value) for value in own.values())
    return ", ".join(f"{key} = {text}" for key, text in zip(own, texts, strict=True))


def range_rows(summary: SweepSummary, ranges: Ranges) -> Iterator[list[object]]:
    """One for each branch and each number that is varied in it."""
    for branch in summary.branches:
        trials, best = summary.trials_of(branch), summary.best_of(branch)
        for name, distribution in ranges.items():
            having = [trial.params[name] for trial in trials if name in trial.params]
            if not having or fraction_of_range(having[0], distribution) is None:
                continue
            low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
            scale = ", log" if distribution.log else ""  # type: ignore[attr-defined]
            first, last = (fraction_of_range(end, distribution) or 0.0 for end in (min(having), max(having)))
            of_best = best.params.get(name) if best is not None else None
            side = edge_side(of_best, distribution) if of_best is not None else ""
            yield [
                branch.label,
                name.split("@")[0],
                f"{format_number(low)} to {format_number(high)}{scale}",
                f"{format_number(min(having))} to {format_number(max(having))}",
                f"{last - first:.0%}",
                of_best,
                side or ("no" if of_best is not None else None),
            ]
