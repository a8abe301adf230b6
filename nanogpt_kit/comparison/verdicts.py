"""The verdict on differences by seed: intervals, corrected for several contenders and several looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanogpt_kit.comparison.intervals import Sample, holm_alphas, look_alpha, seeds_to_decide
from nanogpt_kit.comparison.record import Judgement, Verdict

ONE_PAIR = "one pair has no spread"
SAME_DIFFERENCE = "the difference is the same for every seed, so its spread is unknown"


@dataclass(frozen=True)
class Differences:
    """Contender minus base, or another contrast, for each of `seeds`."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    rounding: float = 0.0  # a mean or a spread within it is 0
    can_be_better: bool = True  # not if runs of the contender failed
    can_be_worse: bool = True  # not if runs of the base failed
    reason: str = ""  # what was left out
    sides: str = "both arms"  # what a seed must have a value of

    def sample(self) -> Sample | None:
        return Sample.of(self.values, self.rounding) if self.values else None


def judge_differences(
    contrasts: Sequence[Differences], direction: str, looks: int = 1, is_stepwise: bool = True
) -> list[Judgement]:
    """A judgement of each. `looks` counts the judgements of these contrasts, this one included.

    Stepwise the levels are Holm's; otherwise each has that of Holm's first step, whatever the others show.
    """
    samples = [one.sample() for one in contrasts]
    tested = {index: sample for index, sample in enumerate(samples) if sample is not None and is_testable(sample)}
    p_values = {index: sample.p_value() for index, sample in tested.items()}
    if is_stepwise:
        alphas = dict(zip(tested, holm_alphas([*p_values.values()], look_alpha(looks)), strict=True))
        more_seeds = seeds_to_add(tested, p_values, look_alpha(looks + 1))
    else:
        alphas = dict.fromkeys(tested, look_alpha(looks) / max(1, len(tested)))
        needed = {index: seeds_to_decide(one, look_alpha(looks + 1) / len(tested)) for index, one in tested.items()}
        more_seeds = {index: seeds - tested[index].n for index, seeds in needed.items() if seeds is not None}
    judgements = []
    for index, (contrast, sample) in enumerate(zip(contrasts, samples, strict=True)):
        if sample is None or index not in tested:
            judgements.append(judge_without_spread(contrast, sample, 1 - look_alpha(looks)))
        else:
            judgement = judge_sample(contrast, sample, alphas[index], direction, more_seeds.get(index))
            judgements.append(judgement)
    return judgements


def is_testable(sample: Sample) -> bool:
    """Whether it has a spread, or is 0 throughout; a difference that is the same each time may be one of few steps."""
    return sample.sd is not None and (sample.sd > 0 or sample.mean == 0)


def judge_without_spread(contrast: Differences, sample: Sample | None, level: float) -> Judgement:
    if sample is None:
        reason = join_sentences(contrast.reason, f"no seed has a value in {contrast.sides}")
        return Judgement(seeds=(), level=level, reason=reason)
    return Judgement(
        seeds=contrast.seeds,
        difference=sample.mean,
        difference_sd=sample.sd,
        level=level,
        reason=join_sentences(contrast.reason, ONE_PAIR if sample.sd is None else SAME_DIFFERENCE),
    )


def judge_sample(contrast: Differences, sample: Sample, alpha: float, direction: str, more: int | None) -> Judgement:
    low, high = sample.interval(alpha)
    verdict: Verdict = "better" if is_improvement(sample.mean, direction) else "worse"
    can_be = contrast.can_be_better if verdict == "better" else contrast.can_be_worse
    is_decided = can_be and not low <= 0 <= high
    return Judgement(
        seeds=contrast.seeds,
        level=1 - alpha,
        difference=sample.mean,
        difference_sd=sample.sd,
        low=low,
        high=high,
        p_value=sample.p_value(),
        verdict=verdict if is_decided else "undecided",
        more_seeds=more if can_be and not is_decided else None,
        reason=contrast.reason,
    )


def is_improvement(difference: float, direction: str) -> bool:
    return difference < 0 if direction == "minimize" else difference > 0


def seeds_to_add(tested: Mapping[int, Sample], p_values: Mapping[int, float], alpha: float) -> dict[int, int]:
    """For each sample, how many seeds make its interval exclude 0 at `alpha`, were means and spreads to stay.

    Holm tests a sample only after those with smaller p values were rejected, so it needs at least as many as they.
    Samples that more than MAX_MORE_SEEDS would not decide are left out.
    """
    found: dict[int, int] = {}
    most = 0
    for rank, index in enumerate(sorted(tested, key=p_values.__getitem__)):
        sample = tested[index]
        seeds = seeds_to_decide(sample, alpha / (len(tested) - rank))
        if seeds is None:
            break
        most = max(most, seeds - sample.n)
        found[index] = most
    return found


def join_sentences(*sentences: str) -> str:
    return "; ".join(filter(None, sentences))
