"""The results of a sweep as lines for people: what each of them claims is what the seeds carry."""

from __future__ import annotations

from collections.abc import Iterator

from nanogpt_kit.comparison.numbers import count_text, decimal_text, joined_names, spread_decimals
from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.sweep.study.confirmation import ConfirmedTrial
from nanogpt_kit.sweep.study.summary import SweepSummary
from nanogpt_kit.sweep.study.verdict import SweepVerdict, TrialVerdict, headline, judge_sweep
from nanogpt_kit.sweep.study.verdict_notes import have
from nanogpt_kit.sweep.work.seed_text import mean_text
from nanogpt_kit.sweep.work.status_table import format_config


def result_lines(summary: SweepSummary) -> Iterator[str]:
    """The verdict first, then what it is made of; until a trial has a value, why there is none."""
    verdict, first = judge_sweep(summary), headline(summary)
    yield first
    if summary.best() is None:
        return
    if verdict is not None:
        yield from (f"note: {note}" for note in verdict.notes if note not in first)
    yield from confirmation_lines(summary, verdict)
    yield from (branch_sentence(one, summary) for one in (verdict.between_branches if verdict else ()))
    yield extreme_line(summary)


def confirmation_lines(summary: SweepSummary, verdict: SweepVerdict | None) -> Iterator[str]:
    """Each trial that was run again: mean, spread and values of its fresh seeds, and the difference from trial 0."""
    for trial in summary.confirmed:
        remark = "; ".join(filter(None, [failure_text(trial), unfinished_text(trial, summary)]))
        text = mean_text(summary.options.metric, trial.values, "fresh seed", remark)
        contrast = verdict.of_pair(trial.index, 0) if verdict is not None else None
        yield f"confirmed: trial {trial.index}: {text}" + (f"; {contrast_text(contrast)}" if contrast else "")


def failure_text(trial: ConfirmedTrial) -> str:
    """Such as "seeds 1340 and 1341 failed"; empty if none did."""
    if not trial.failed:
        return ""
    return f"seed{'s' if len(trial.failed) > 1 else ''} {joined_names(map(str, trial.failed))} failed"


def unfinished_text(trial: ConfirmedTrial, summary: SweepSummary) -> str:
    """Such as "1 of 3 seeds has ended"; empty if all have."""
    assert summary.confirmation is not None, "there are confirmed trials"
    ended, seeds = len(trial.by_seed) + len(trial.failed), len(summary.confirmation.seeds)
    return f"{ended} of {seeds} seeds {have(ended)} ended" if ended < seeds else ""


def contrast_text(contrast: TrialVerdict) -> str:
    """Such as "0.2069 lower than trial 0 over 3 pairs: better"; the interval is in the JSON and in the report."""
    result = contrast.result
    if result.difference is None:
        return f"against trial {contrast.base}: {result.verdict}"
    size = decimal_text(abs(result.difference), spread_decimals([result.difference_sd]))
    relation = f"{size} {'lower' if result.difference < 0 else 'higher'} than" if result.difference else "equal to"
    return f"{relation} trial {contrast.base} over {count_text(len(result.seeds), 'pair')}: {result.verdict}"


def branch_sentence(contrast: TrialVerdict, summary: SweepSummary) -> str:
    """The verdict on the best of a branch, with the names of both branches."""
    base = next(trial for trial in summary.trials if trial.index == contrast.base)
    names = []
    for trial in (contrast.trial, base):
        names += [branch.label for branch in summary.branches if branch.has(trial.params)][:1]
    return f"{' against '.join(names)}: {contrast.sentence()}"


def extreme_line(summary: SweepSummary) -> str:
    """The trial that best.toml has. Its value is not a conclusion: chance helped to choose it."""
    best, options = summary.best(), summary.options
    assert best is not None, "called only if there is one"
    which, config = "lowest" if options.direction == "minimize" else "highest", format_config(best.config)
    if summary.is_confirmed() and best.index in [trial.index for trial in summary.confirmed]:
        return f"{which} mean over fresh seeds: trial {best.index}: {config}"
    return (
        f"{which} value: trial {best.index}, {mean_text(options.metric, best.values or [best.value or 0.0])}: {config}"
    )


def confirmation_progress(summary: SweepSummary) -> str:
    """Such as "confirmation: 2 of 9 runs ended, 19,200 tokens in 12 s of training"; empty before it has begun."""
    state = summary.confirmation
    if state is None:
        return ""
    ended = f"confirmation: {state.ended} of {count_text(state.runs, 'run')} ended"
    return f"{ended}, {state.tokens:,} tokens in {format_duration(state.seconds)} of training"
