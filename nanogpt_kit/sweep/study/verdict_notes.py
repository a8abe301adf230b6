"""What the reader of a sweep's verdict should know, and why a sweep has no verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nanogpt_kit.comparison.numbers import count_text, joined_names, level_text
from nanogpt_kit.comparison.record import Judgement
from nanogpt_kit.comparison.run_notes import ratio_note
from nanogpt_kit.core.errors import shorten
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.sweep.space.parameters import format_value
from nanogpt_kit.sweep.study.seed_values import has_all_seeds
from nanogpt_kit.sweep.study.summary import ENDED, SweepSummary, TrialSummary

WRITTEN = "trial 0, the experiment as written"
SHOWN_VALUES = 4  # of a trial
SHOWN_BRANCHES = 3  # in a note
REASON_LENGTH = 100  # characters
PROPOSED_CONFIRM = 3


def trial_text(summary: SweepSummary, trial: TrialSummary) -> str:
    """Such as "trial 4 (optimizer.use=muon, optimizer.lr=0.01)": its values that trial 0 does not have."""
    written = next((one.config for one in summary.trials if one.index == 0), {})
    changed = [f"{key}={rounded_value(value)}" for key, value in trial.config.items() if written.get(key) != value]
    shown = (
        changed if len(changed) <= SHOWN_VALUES else [*changed[:SHOWN_VALUES], f"{len(changed) - SHOWN_VALUES} more"]
    )
    return f"trial {trial.index} ({one_line(', '.join(shown))})" if shown else f"trial {trial.index}"


def rounded_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)


# Beside a verdict


def fresh_notes(summary: SweepSummary, look: int) -> Iterator[str]:
    """Of a verdict by fresh seeds: runs that are missing, trials without a value, and looks before this one."""
    state = summary.confirmation
    assert state is not None, "only with fresh seeds"
    if not state.is_finished:
        yield (
            f"the confirmation is not finished: {state.ended} of {state.runs} runs with fresh seeds have ended, and "
            f"only whole pairs are judged{continuation(summary)}"
        )
    yield from search_notes(summary)
    valued = {trial.index for trial in summary.confirmed}
    lost = [index for index in state.trials if index not in valued and has_all_seeds(summary, index)]
    for index in lost:
        yield f"trial {index} failed with every fresh seed, so that it is not judged"
    yield from incomplete_branches_note(summary)
    later = [index for index in summary.to_confirm() if index not in state.trials]
    if later:
        yield f"{trials_text(later)} {'is' if len(later) == 1 else 'are'} not confirmed yet{continuation(summary)}"
    if look > 1:
        yield (
            "these trials were judged before, or not all of their seeds have ended: the intervals are wider than those "
            "of a first look at all seeds"
        )


def incomplete_branches_note(summary: SweepSummary) -> Iterator[str]:
    """Of branches that no verdict is about, since none of their trials is complete."""
    labels = [one_line(branch.label) for branch in summary.branches if summary.best_of(branch) is None]
    if labels:
        more = len(labels) - SHOWN_BRANCHES
        names = joined_names([*labels[:SHOWN_BRANCHES], *([f"{more} more"] if more > 0 else [])])
        what = "this branch is" if len(labels) == 1 else "these branches are"
        yield f"no trial with {names} is complete, so that {what} not compared"


def search_notes(summary: SweepSummary) -> Iterator[str]:
    """Of a search that is not finished."""
    counts = summary.counts()
    ended = sum(counts[name] for name in ENDED)
    if ended < summary.count:
        trials = f"{ended} of {count_text(summary.count, 'trial')} {have(ended)} ended"
        yield f"the search is not finished: {trials}{continuation(summary)}"


def family_notes(judgements: Sequence[Judgement]) -> Iterator[str]:
    """Why intervals have another level than 95%."""
    levels = [judgement.level for judgement in judgements if judgement.low is not None]
    if len(levels) > 1:
        yield (
            f"{len(levels)} pairs are judged together, each by an interval of {level_text(levels[0])}, so that at most "
            "5% of sweeps call any equal trials different"
        )


def comparability_notes(summary: SweepSummary, indices: Sequence[int]) -> Iterator[str]:
    """Why some of these trials are not judged."""
    yield from dict.fromkeys(summary.not_comparable[index] for index in indices if index in summary.not_comparable)


def size_notes(trial: TrialSummary, base: TrialSummary) -> Iterator[str]:
    """How a trial differs from another one in what decides its cost, as `compare` notes it of two arms."""
    names = f"trial {trial.index}", f"trial {base.index}"
    yield from ratio_note(*names, "parameters", trial.parameters, base.parameters)
    if trial.step == base.step:
        yield from ratio_note(*names, "training tokens", trial.tokens, base.tokens)


def trials_text(indices: Sequence[int]) -> str:
    """Such as "trial 4", "trials 0, 4 and 7"."""
    return f"trial{'s' if len(indices) > 1 else ''} {joined_names(map(str, indices))}"


def continuation(summary: SweepSummary) -> str:
    """How what is unfinished continues: a budget may have ended it, of which a rest is left for a confirmation."""
    if spent := spent_budgets(summary):
        return f"; raise {' and '.join(spent)}, and the same command continues"
    limited = [f"sweep.{key}" for key in ("max_tokens", "max_seconds") if getattr(summary.options, key) is not None]
    larger = f", if necessary with a larger {' or '.join(limited)}" if limited else ""
    return f"; the same command continues{larger}"


def spent_budgets(summary: SweepSummary) -> list[str]:
    """The keys of the budgets that are used up, by the search and its confirmation together."""
    state, options = summary.confirmation, summary.options
    tokens = summary.tokens + (state.tokens if state else 0)
    seconds = summary.seconds + (state.seconds if state else 0.0)
    used = {"sweep.max_tokens": (tokens, options.max_tokens), "sweep.max_seconds": (seconds, options.max_seconds)}
    return [key for key, (spent, limit) in used.items() if limit is not None and spent >= limit]


# Without a verdict


def absence_text(summary: SweepSummary) -> str:
    """Why there is no verdict against trial 0, and the remedy."""
    counts, state = summary.counts(), summary.confirmation
    first = next((trial for trial in summary.trials if trial.index == 0), None)
    others = [trial for trial in summary.complete_trials() if trial.index != 0]
    ended = sum(counts[name] for name in ENDED)
    if summary.is_running:
        if state is not None and state.is_running:
            return f"No verdict yet: {state.ended} of {state.runs} runs with fresh seeds {have(state.ended)} ended."
        return f"No verdict yet: {ended} of {count_text(summary.count, 'trial')} {have(ended)} ended."
    if not summary.complete_trials():
        return "No verdict: no trial is complete."
    if first is None or first.state in ("running", "interrupted", "waiting"):
        return f"No verdict: {WRITTEN}, has not ended; the same command continues."
    if first.state != "complete":
        reason = shorten(one_line(first.reason.partition(";")[0]), REASON_LENGTH) or first.cause or first.state
        how = "was pruned" if first.is_pruned else f"gave no result ({reason})"
        return f"No verdict: {WRITTEN}, {how}, so that nothing can be compared with it."
    if not others:
        return f"No verdict: {WRITTEN}, is the only complete trial."
    if not summary.options.confirm and state is None:
        return single_seed_text(summary, len(others) + 1)
    return confirmation_text(summary)


def single_seed_text(summary: SweepSummary, complete: int) -> str:
    return (
        f"No verdict: each trial has one seed, and the best of {complete} values is partly chance. Set "
        f"sweep.confirm = {PROPOSED_CONFIRM}: the same command then runs the best trials and trial 0 with fresh seeds."
    )


def confirmation_text(summary: SweepSummary) -> str:
    """Of a confirmation that has not begun, whose runs have failed, or which has too few pairs."""
    state = summary.confirmation
    if state is None:
        return f"No verdict: no trial has run with fresh seeds yet{continuation(summary)}."
    if not state.is_finished:
        return (
            f"No verdict: {state.ended} of {state.runs} runs with fresh seeds {have(state.ended)} ended: too few pairs"
            f"{continuation(summary)}."
        )
    valued = [trial.index for trial in summary.confirmed]
    if 0 not in valued:
        return f"No verdict: {WRITTEN}, failed with every fresh seed."
    if valued == [0]:
        return "No verdict: every trial except trial 0 failed with every fresh seed."
    return "No verdict: the fresh seeds make no pair."


def have(count: int) -> str:
    return "has" if count == 1 else "have"
