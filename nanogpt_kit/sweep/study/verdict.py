"""The verdict of a sweep: whether it found something better than the experiment as written, and which branch is better.

Fresh seeds decide where there are some, since no trial was chosen by them; otherwise the seeds of a search with several
of them. With one seed a trial there is no verdict: the best of many values is partly chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanogpt_kit.comparison.judgement import judge_arms
from nanogpt_kit.comparison.numbers import spread_decimals
from nanogpt_kit.comparison.record import Result
from nanogpt_kit.comparison.sentences import verdict_text
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary


@dataclass(frozen=True)
class TrialVerdict:
    """A trial against another one, paired by seed."""

    trial: TrialSummary
    result: Result
    metric: str
    base: int = 0  # index of the other one; 0 is the experiment as written

    def sentence(self) -> str:
        text = verdict_text(self.result, self.metric, spread_decimals([self.result.difference_sd]))
        return f"trial {self.trial.index} against trial {self.base}: {text}"

    def as_json(self) -> dict[str, Any]:
        """The trial, the one that it is compared with, and the fields of Result but its arm."""
        return {
            "trial": self.trial.index,
            "base": self.base,
            **self.result.model_dump(mode="json", exclude={"arm"}),
        }


@dataclass(frozen=True)
class SweepVerdict:
    """What the seeds show. All its judgements are one family: together they are wrong in at most 5% of sweeps."""

    seeds: Literal["fresh", "search"]  # which decided
    best: TrialVerdict | None  # the headline: the best trial except trial 0 against trial 0
    against_first: Sequence[TrialVerdict] = ()  # each judged trial against trial 0, the best first
    between_branches: Sequence[TrialVerdict] = ()  # the best of each other branch against the best of trial 0's
    notes: Sequence[str] = ()  # what the reader should know: seeds that are missing, trials that do not compare

    def of_pair(self, trial: int, base: int) -> TrialVerdict | None:
        """The judgement of two trials, by their indices."""
        both = [*self.against_first, *self.between_branches]
        return next((one for one in both if (one.trial.index, one.base) == (trial, base)), None)

    def as_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "best": self.best.as_json() if self.best else None,
            "against_first": [one.as_json() for one in self.against_first],
            "between_branches": [one.as_json() for one in self.between_branches],
            "notes": list(self.notes),
        }


def headline(summary: SweepSummary) -> str:
    """The conclusion in one or two sentences: the verdict, or why there is none. Never a gain without a verdict."""
    verdict = judge_sweep(summary)
    if verdict is None or verdict.best is None:
        return "No verdict: one seed a trial; set sweep.confirm = 3 and run the sweep again."
    return verdict.best.sentence()


def judge_sweep(summary: SweepSummary) -> SweepVerdict | None:
    """None with one seed a trial and no confirmation, and until trial 0 and another trial have values to pair."""
    best = judge_best_trial(summary)
    return SweepVerdict("search", best, (best,)) if best is not None else None


def judge_best_trial(summary: SweepSummary) -> TrialVerdict | None:
    """The best trial except trial 0 against trial 0, paired by seed, and corrected for the number of complete trials.

    None with a single seed, and until trial 0 and another trial are complete.
    """
    if summary.options.seeds == 1:
        return None
    ranked = summary.ranked_trials()
    first = next((trial for trial in ranked if trial.index == 0), None)
    others = [trial for trial in ranked if trial.index != 0]
    if first is None or not others:
        return None
    best = summary.best()
    chosen = best if best is not None and best.index != 0 else others[0]  # by fresh seeds where there are some
    values = [values_by_seed(summary, trial) for trial in (first, *others)]
    results = judge_arms(values, summary.options.direction)
    return TrialVerdict(chosen, results[others.index(chosen)], summary.options.metric)


def values_by_seed(summary: SweepSummary, trial: TrialSummary) -> dict[int, float]:
    """A complete trial has a value of each seed."""
    return {summary.seed + index: value for index, value in enumerate(trial.values)}
