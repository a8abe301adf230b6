"""Fresh seeds on a sweep's page: every seed, means and standard deviations, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Iterator

from nanogpt_kit.comparison.numbers import joined_names
from nanogpt_kit.comparison.sentences import capitalized
from nanogpt_kit.report.page import Page, has_figures
from nanogpt_kit.sweep.report.findings import trial_value
from nanogpt_kit.sweep.report.judgements import MAX_JUDGED, pair_table, trial_label
from nanogpt_kit.sweep.study.confirmation import ConfirmedTrial
from nanogpt_kit.sweep.study.summary import SweepSummary
from nanogpt_kit.sweep.study.verdict import SweepVerdict

PAIRED = (
    "Each trial minus the one that it is compared with, seed by seed: dots are seeds, upright lines are means, and "
    "bars are intervals."
)


def add_confirmation(page: Page, summary: SweepSummary) -> None:
    """Nothing without fresh seeds."""
    if not summary.confirmed:
        return
    note = (
        "Trials run again with fresh seeds, which had no part in their choice: dots are seeds, upright lines are means."
        f"{' Trials that failed with a seed come last.' * has_failed_seeds(summary)}"
    )
    figure = None
    if has_figures():
        from nanogpt_kit.sweep.report.seed_figures import draw_confirmation

        figure = draw_confirmation(summary)
    table = confirmation_columns(summary), [confirmation_cells(summary, one) for one in summary.confirmed]
    page.block("Confirmation", note, figure, instead=table)
    if figure is not None:
        page.table(*table)
    page.note(" ".join(order_sentences(summary)))


def add_differences(page: Page, summary: SweepSummary, verdict: SweepVerdict | None) -> None:
    """Each judged trial against trial 0, and the best of each branch against the other; nothing without a verdict."""
    if verdict is None:
        return
    kind = "fresh seeds" if verdict.seeds == "fresh" else "the seeds of the search"
    count = len(verdict.against_first) + len(verdict.between_branches)
    shown = f" The best {MAX_JUDGED} of {count} are shown." if count > MAX_JUDGED else ""
    note = f"By {kind}. {PAIRED}{shown}"
    figure = None
    if has_figures():
        from nanogpt_kit.sweep.report.seed_figures import draw_differences

        figure = draw_differences(summary, verdict)
    columns, rows = pair_table(verdict)
    page.block("Differences", note, figure, instead=(columns, rows))
    if figure is not None:
        page.table(columns, rows, numbers=[columns.index("difference")])
    for text in verdict.notes:
        page.note(f"{capitalized(text)}.")


def fresh_seeds(summary: SweepSummary) -> list[int]:
    return sorted({seed for trial in summary.confirmed for seed in (*trial.by_seed, *trial.failed)})


def confirmation_columns(summary: SweepSummary) -> list[str]:
    seeds = [f"seed {seed}" for seed in fresh_seeds(summary)]
    failed = ["failed with"] * has_failed_seeds(summary)
    return ["rank", "trial", "mean", "sd", "n", *seeds, *failed, "rank in the search", "value in the search"]


def has_failed_seeds(summary: SweepSummary) -> bool:
    return any(trial.failed for trial in summary.confirmed)


def confirmation_cells(summary: SweepSummary, trial: ConfirmedTrial) -> list[object]:
    rank = next(at for at, one in enumerate(summary.confirmed, 1) if one is trial)
    before = next(
        ([at, trial_value(one)] for at, one in enumerate(summary.ranked_trials(), 1) if one.index == trial.index),
        [None, None],
    )
    values = [trial.by_seed.get(seed) for seed in fresh_seeds(summary)]
    failed = [joined_names(f"seed {seed}" for seed in trial.failed) if trial.failed else None]
    label = trial_label(summary, trial.index)
    spread = [trial.mean, trial.sd, len(trial.values)]
    return [rank, label, *spread, *values, *(failed if has_failed_seeds(summary) else []), *before]


def order_sentences(summary: SweepSummary) -> Iterator[str]:
    """How the order of the means over fresh seeds differs from that of the search. It is not a verdict."""
    ranks = {trial.index: rank for rank, trial in enumerate(summary.ranked_trials())}
    before = sorted((trial.index for trial in summary.confirmed if trial.index in ranks), key=ranks.__getitem__)
    after = [trial.index for trial in summary.confirmed]
    if len(before) < 2:
        return
    if before == after:
        yield "The means over fresh seeds have the order of the search."
    elif before[0] == after[0]:
        yield f"Trial {after[0]} stays first; the means over fresh seeds change the order behind it."
    else:
        rank = ordinal(after.index(before[0]) + 1)
        yield (
            f"By the means over fresh seeds trial {after[0]} is first, and trial {before[0]}, the first of the search, "
            f"is {rank} of {len(after)}."
        )


def ordinal(rank: int) -> str:
    return f"{rank}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(rank, 'th') }"
