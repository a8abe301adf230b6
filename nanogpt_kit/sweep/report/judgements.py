"""The verdicts of a sweep on its page: the headline, and each trial's differences from trial 0, paired by seed."""

from __future__ import annotations

from collections.abc import Mapping

from nanogpt_kit.comparison.numbers import decimal_text, level_text, spread_decimals
from nanogpt_kit.comparison.sentences import capitalized, interval_text
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.verdict import SweepVerdict, TrialVerdict, values_by_seed

REQUIRED_COLUMNS = ("trial", "against", "difference", "interval", "level", "pairs", "better in", "p", "verdict")
PAIR_COLUMNS = (*REQUIRED_COLUMNS, "more seeds to decide", "because")
MAX_JUDGED = 200  # judgements in a table


def trial_label(summary: SweepSummary, index: int) -> str:
    """Such as "trial 4 (optimizer.use = muon)", "trial 0, as written (optimizer.use = adamw)"."""
    trial = next((one for one in summary.trials if one.index == index), None)
    branches = [branch.label for branch in summary.branches if trial is not None and branch.has(trial.params)]
    text = f"trial {index}{', as written' * (index == 0)}"
    return f"{text} ({branches[0]})" if branches else text


def judgement_sentence(summary: SweepSummary, judged: TrialVerdict) -> str:
    """The sentence of a verdict, with the branch of each trial."""
    sides = [trial_label(summary, index) for index in (judged.trial.index, judged.base)]
    return capitalized(f"{' against '.join(sides)}: {judged.text()}.")


def judged_pairs(verdict: SweepVerdict) -> list[TrialVerdict]:
    """All judgements, those between branches first, then those against trial 0, the best first.

    The last ones of very many are left out.
    """
    return [*verdict.between_branches, *verdict.against_first][:MAX_JUDGED]


def pair_table(verdict: SweepVerdict) -> tuple[list[str], list[list[object]]]:
    """Columns and rows, one for each judgement; the last columns only where one of them has a text."""
    judged = judged_pairs(verdict)
    decimals = spread_decimals([one.result.difference_sd for one in judged])
    rows = [pair_cells(one, decimals) for one in judged]
    used = [at for at, name in enumerate(PAIR_COLUMNS) if name in REQUIRED_COLUMNS or any(row[at] for row in rows)]
    return [PAIR_COLUMNS[at] for at in used], [[row[at] for at in used] for row in rows]


def pair_cells(judged: TrialVerdict, decimals: int) -> list[object]:
    result = judged.result
    interval, difference = interval_text(result, decimals), decimal_text(result.difference, decimals, sign=True)
    pairs = len(result.seeds)
    return [
        *(judged.trial.index, judged.base, difference, interval, level_text(result.level) if interval else ""),
        *(pairs, f"{result.wins} of {pairs}" if pairs else "", result.p_value, result.verdict, result.more_seeds),
        result.reason,
    ]


def values_of_judged(summary: SweepSummary, verdict: SweepVerdict) -> dict[int, Mapping[int, float]]:
    """{trial: {seed: value}} with the seeds that decided the verdict."""
    if verdict.seeds == "fresh":
        return {trial.index: trial.by_seed for trial in summary.confirmed}
    return {trial.index: values_by_seed(summary, trial) for trial in summary.complete_trials()}


def paired_differences(
    summary: SweepSummary, verdict: SweepVerdict, trial: TrialSummary, base: int = 0
) -> dict[int, float]:
    """{seed: the trial's value minus that of the trial `base`} for the seeds of both."""
    values = values_of_judged(summary, verdict)
    mine, theirs = values.get(trial.index, {}), values.get(base, {})
    return {seed: mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())}
