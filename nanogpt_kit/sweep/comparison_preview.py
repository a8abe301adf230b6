"""The preview of a comparison: its runs, tokens and estimated hours; nothing is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanogpt_kit.comparison.question import Question
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.comparison import check_comparison, comparison_options, find_answers, report_as_options
from nanogpt_kit.sweep.preview import Duration, estimate_duration, estimate_speed
from nanogpt_kit.sweep.study.cells import named_runs


@dataclass(frozen=True)
class ComparisonEstimate:
    """What a comparison would cost now."""

    runs: int  # arms of one configuration share theirs
    missing_runs: int  # which nothing answers yet
    tokens: int  # to be trained on in these
    seconds: float  # the time for them
    duration: str  # the same as text, and where it comes from; empty where nothing is missing


def estimate_comparison(
    question: Question,
    seeds: Sequence[int],
    load_base: Callable[[], Experiment],
    *,
    again: bool = False,
    workers: int = 1,
    storage: str = "journal",
    nproc: int = 1,
) -> ComparisonEstimate:
    """Estimates the rest of a comparison from the speed of its base, recorded or else measured now.

    `load_base` loads the base in another process. What runs of other machines have answered is not known here. Raises
    KitError if the comparison cannot run.
    """
    with report_as_options():
        cells = check_comparison(question, seeds, workers, storage, nproc)
    answers = {} if again else find_answers(question, cells)
    experiments = [cell.arm.experiment for cell in cells if cell.key not in answers]
    tokens = sum(experiment.total_tokens for experiment in experiments)
    duration = Duration(0.0, "")
    if experiments:
        base, options = question.base.experiment, comparison_options(question, workers, storage)
        speed = estimate_speed(base, load_base)
        duration = estimate_duration(base, options, speed, tokens, len(experiments), nproc)
    named = sum(len(named_runs(arm).keys() & set(seeds)) for arm in question.arms)
    return ComparisonEstimate(named + len(cells), len(experiments), tokens, duration.seconds, duration.text)


def estimate_lines(estimate: ComparisonEstimate) -> list[str]:
    """The estimate for people."""
    known = estimate.runs - estimate.missing_runs
    lines = [f"{estimate.missing_runs} of {estimate.runs} runs are to be done; {known} are answered by finished runs"]
    if estimate.missing_runs:
        lines += [f"{estimate.tokens:,} tokens at most", estimate.duration]
    return lines
