"""Whether a sweep with several seeds found something better than the experiment as written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nanogpt_kit.comparison.judgement import judge_arms
from nanogpt_kit.comparison.numbers import spread_decimals
from nanogpt_kit.comparison.record import Result
from nanogpt_kit.comparison.sentences import verdict_text
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary


@dataclass(frozen=True)
class TrialVerdict:
    """A trial against trial 0, the experiment as written."""

    trial: TrialSummary
    result: Result
    metric: str

    def sentence(self) -> str:
        text = verdict_text(self.result, self.metric, spread_decimals([self.result.difference_sd]))
        return f"trial {self.trial.index} against trial 0: {text}"

    def as_json(self) -> dict[str, Any]:
        """The trial, the one that it is compared with, and the fields of Result but its arm."""
        return {"trial": self.trial.index, "base": 0, **self.result.model_dump(mode="json", exclude={"arm"})}


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
