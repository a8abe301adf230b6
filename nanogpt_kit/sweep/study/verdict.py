"""The verdict of a sweep: whether it found something better than the experiment as written, and which branch is better.

Where trials are confirmed, their fresh seeds decide, since no trial was chosen by them; otherwise the seeds of a search
with several of them. With one seed a trial there is no verdict: the best of many values is partly chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanogpt_kit.comparison.intervals import Sample
from nanogpt_kit.comparison.numbers import spread_decimals
from nanogpt_kit.comparison.record import Judgement, Result
from nanogpt_kit.comparison.sentences import capitalized, verdict_text
from nanogpt_kit.comparison.verdicts import Differences, is_improvement, judge_differences
from nanogpt_kit.sweep.study.seed_values import Pair, SeedValues, fresh_values
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary
from nanogpt_kit.sweep.study.verdict_notes import (
    WRITTEN,
    absence_text,
    comparability_notes,
    family_notes,
    fresh_notes,
    search_notes,
    size_notes,
    trial_text,
)

SEARCH_NOTE = (
    "branches are compared by fresh seeds only, since the search chose the best trial of each by its own seeds; set "
    "sweep.confirm = 1"
)
Seeds = Literal["fresh", "search"]


@dataclass(frozen=True)
class TrialVerdict:
    """A trial against another one, paired by seed."""

    trial: TrialSummary
    result: Result
    metric: str
    base: int = 0  # index of the other one; 0 is the experiment as written

    def text(self) -> str:
        """Such as "val/loss lower by 0.0473 (95% interval -0.0963 to 0.1910) over 3 pairs: undecided"."""
        return verdict_text(self.result, self.metric, spread_decimals([self.result.difference_sd]))

    def sentence(self) -> str:
        return f"trial {self.trial.index} against trial {self.base}: {self.text()}"

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

    seeds: Seeds  # which decided
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


def judge_sweep(summary: SweepSummary) -> SweepVerdict | None:
    """None with one seed a trial and no confirmation, while trials run, and until two trials have seeds to pair.

    Where trials are confirmed, only fresh seeds decide.
    """
    if summary.is_running:
        return None
    if summary.options.confirm or summary.confirmation:
        seeds = fresh_values(summary)
        return None if seeds is None else judge_fresh_seeds(summary, seeds)
    return judge_search_seeds(summary) if summary.options.seeds > 1 else None


def judge_fresh_seeds(summary: SweepSummary, seeds: SeedValues) -> SweepVerdict | None:
    first = pairs_with_first(seeds)
    branches = [pair for pair in branch_pairs(summary) if pair not in first and set(pair) <= seeds.values.keys()]
    return judge_pairs(summary, "fresh", seeds, first, branches, list(fresh_notes(summary, seeds.look)))


def judge_search_seeds(summary: SweepSummary) -> SweepVerdict | None:
    """Every complete trial against trial 0, which corrects for the choice of the best one."""
    seeds = search_values(summary)
    notes = [SEARCH_NOTE] if len(summary.branches) > 1 else []
    return judge_pairs(summary, "search", seeds, pairs_with_first(seeds), [], [*search_notes(summary), *notes])


def search_values(summary: SweepSummary) -> SeedValues:
    """Of every complete trial, the best first."""
    return SeedValues.of({trial.index: values_by_seed(summary, trial) for trial in summary.ranked_trials()}, {})


def values_by_seed(summary: SweepSummary, trial: TrialSummary) -> dict[int, float]:
    """A complete trial has a value of each seed."""
    return {summary.seed + index: value for index, value in enumerate(trial.values)}


def pairs_with_first(seeds: SeedValues) -> list[Pair]:
    return [(index, 0) for index in seeds.values if index != 0] if 0 in seeds.values else []


def branch_pairs(summary: SweepSummary) -> list[Pair]:
    """The best of each other branch with the best of the branch that trial 0 is in, as the search chose them."""
    written = next((trial for trial in summary.trials if trial.index == 0), None)
    home = next((branch for branch in summary.branches if written and branch.has(written.params)), None)
    base = summary.best_of(home) if home else None
    others = [summary.best_of(branch) for branch in summary.branches if branch != home]
    return [(other.index, base.index) for other in others if other is not None] if base else []


def judge_pairs(
    summary: SweepSummary,
    kind: Seeds,
    seeds: SeedValues,
    first: Sequence[Pair],
    branches: Sequence[Pair],
    notes: Sequence[str],
) -> SweepVerdict | None:
    """Judges all pairs together; one that does not compare has no difference. None without any pair."""
    pairs = [*first, *branches]
    contrasts = [comparable_differences(summary, seeds, pair) for pair in pairs]
    judgements = judge_differences(contrasts, summary.options.direction, seeds.look, is_stepwise=False)
    judged = [
        trial_verdict(summary, seeds, pair, contrast, judgement)
        for pair, contrast, judgement in zip(pairs, contrasts, judgements, strict=True)
    ]
    against = sorted(judged[: len(first)], key=lambda one: rank_key(summary, seeds, one))
    best = against[0] if against and against[0].result.difference is not None else None
    between = judged[len(first) :]
    by_index = {trial.index: trial for trial in summary.trials}
    shown = [*([best] if best else []), *between]
    sizes = [note for one in shown for note in size_notes(one.trial, by_index[one.base])]
    notes = [*notes, *family_notes(judgements), *comparability_notes(summary, [*seeds.values]), *sizes]
    return SweepVerdict(kind, best, against, between, notes) if judged else None


def comparable_differences(summary: SweepSummary, seeds: SeedValues, pair: Pair) -> Differences:
    """None of a pair of which one does not compare with trial 0."""
    reason = next((summary.not_comparable[index] for index in pair if index in summary.not_comparable), "")
    return Differences((), (), reason=reason) if reason else seeds.differences(pair)


def trial_verdict(
    summary: SweepSummary, seeds: SeedValues, pair: Pair, contrast: Differences, judgement: Judgement
) -> TrialVerdict:
    """Adds what the trial itself measured, and in how many pairs it is better."""
    index, base = pair
    trial = next(one for one in summary.trials if one.index == index)
    values = seeds.values[index].values()
    own = Sample.of([*values]) if values else None
    wins = sum(is_improvement(difference, summary.options.direction) for difference in contrast.values)
    fields = {**dict(judgement), "reason": judgement.reason if judgement.seeds else contrast.reason}
    mean, sd = (own.mean, own.sd) if own else (None, None)
    return TrialVerdict(trial, Result(arm=1, mean=mean, sd=sd, wins=wins, **fields), summary.options.metric, base)


def rank_key(summary: SweepSummary, seeds: SeedValues, judged: TrialVerdict) -> tuple[bool, int, float]:
    """For the best first: those that compare, with the fewest failed seeds, by their difference."""
    failed = len(seeds.failed[judged.trial.index])
    difference = judged.result.difference
    return difference is None, failed, summary.sign * (difference or 0.0)


# As text


def headline(summary: SweepSummary) -> str:
    """The conclusion in one or two sentences: the verdict, or why there is none. Never a gain without a verdict."""
    verdict = judge_sweep(summary)
    if verdict is None:
        return absence_text(summary)
    if verdict.best is None:
        return " ".join([reason_without_best(summary, verdict), *branch_sentences(summary, verdict)])
    return " ".join([best_sentence(summary, verdict, verdict.best), *caveats(summary, verdict)])


def best_sentence(summary: SweepSummary, verdict: SweepVerdict, best: TrialVerdict) -> str:
    text = trial_text(summary, best.trial)
    if all(summary.sign * (one.result.difference or 0.0) >= 0 for one in verdict.against_first):
        return f"No judged trial has a better mean than {WRITTEN}. The best of the others is {text}: {best.text()}."
    return capitalized(f"{text} against {WRITTEN}: {best.text()}.")


def caveats(summary: SweepSummary, verdict: SweepVerdict) -> list[str]:
    """What limits the verdict so much that it belongs beside it."""
    assert verdict.best is not None
    ahead = [one for one in verdict.against_first if one.result.difference is None and one.result.reason]
    best = summary.best()
    better = [one for one in verdict.against_first if one.result.verdict == "better"]
    texts = []
    if better and verdict.best.result.verdict != "better":
        texts.append(capitalized(f"{trial_text(summary, better[0].trial)}: {better[0].text()}."))
    texts += [
        f"Not judged is the trial with the best value: {one.result.reason}." for one in ahead if one.trial == best
    ]
    state = summary.confirmation
    if verdict.seeds == "fresh" and state is not None and not state.is_finished:
        texts.append(f"The confirmation is not finished: {state.ended} of {state.runs} runs have ended.")
    return texts


def reason_without_best(summary: SweepSummary, verdict: SweepVerdict) -> str:
    reasons = [one.result.reason for one in verdict.against_first if one.result.reason]
    return f"No verdict: {reasons[0]}." if reasons else absence_text(summary)


def branch_sentences(summary: SweepSummary, verdict: SweepVerdict) -> list[str]:
    """Where nothing is judged against trial 0, the branches may still be."""
    found = [one for one in verdict.between_branches if one.result.difference is not None][:1]
    return [capitalized(f"{one.sentence()}.") for one in found]
