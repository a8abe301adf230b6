"""Tokens saved: runs of the better arm at smaller budgets, and what a difference is worth in tokens by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nanogpt_kit.comparison.exchange import TokensSaved, tokens_saved
from nanogpt_kit.comparison.numbers import joined_names
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.sentences import label_of
from nanogpt_kit.comparison.text import arm_values
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.sweep.comparison import find_answers, run_comparison
from nanogpt_kit.sweep.study.cells import required_cells

FRACTIONS = (0.5, 0.75)  # of the steps of the compared runs; with those themselves, three budgets
REMARK = "each of those runs was trained to the end of its schedule, with the other options as written, also its warmup"


@dataclass(frozen=True)
class BudgetRuns:
    """The better arm at several budgets, {tokens: {seed: value}}, and what follows from it."""

    arm: int  # index, of the better arm by the sign of the difference
    label: str
    values: dict[int, dict[int, float]]
    saved: TokensSaved

    def lines(self) -> list[str]:
        if not self.values:
            return [f"tokens saved: {self.saved.text()}"]
        budgets = joined_names(f"{tokens:,}" for tokens in sorted(self.values))
        lines = [f"tokens saved by {self.label}: {self.saved.text()}"]
        if self.saved.per_halving is not None:
            lines.append(f"  by its runs on {budgets} tokens: half the tokens cost it {self.saved.per_halving:.4f}")
        return [*lines, f"  {REMARK}"]

    def record(self) -> dict[str, Any]:
        """For programs."""
        values = [
            {"tokens": tokens, "seed": seed, "value": value}
            for tokens, by_seed in sorted(self.values.items())
            for seed, value in sorted(by_seed.items())
        ]
        return {**asdict(self.saved), "arm": self.arm, "values": values}


@dataclass(frozen=True)
class SmallerBudgets:
    """What the runs at smaller budgets cost."""

    steps: tuple[int, ...]
    total: int  # runs
    missing: int  # of them
    tokens: int  # to be trained on in these

    @classmethod
    def of(cls, question: Question, arm: Arm, seeds: Sequence[int], again: bool = False) -> SmallerBudgets:
        """If `arm` is the better one."""
        questions = list(budget_questions(question, arm))
        cells = [cell for smaller in questions for cell in required_cells(smaller, seeds)]
        answers = {} if again else find_answers(question, cells)
        missing = [cell.arm.experiment for cell in cells if cell.key not in answers]
        tokens = sum(experiment.total_tokens for experiment in missing)
        return cls(tuple(one.base.experiment.total_steps for one in questions), len(cells), len(missing), tokens)

    def line(self) -> str:
        steps = " and ".join(f"{steps:,}" for steps in self.steps)
        runs = f"{self.missing} of {self.total} further runs are to be done, of the better arm with {steps} steps"
        return f"--tokens-saved: {runs}: {self.tokens:,} tokens"


def measure_tokens_saved(question: Question, comparison: Comparison, **options: Any) -> BudgetRuns:
    """Trains the better arm at smaller budgets with the seeds of the pairs; `options` are those of `run_comparison`.

    Nothing is trained where the difference has no interval, or is 0. Raises KitError where seconds end the runs.
    """
    result = comparison.results[0]
    if not result.difference or result.low is None:
        return BudgetRuns(0, label_of(comparison, 0), {}, tokens_saved({}, (None, None, None), question.direction))
    better = result.arm if (result.difference < 0) == (question.direction == "minimize") else 0
    arm = question.arms[better]
    pairs = arm_values(comparison, better)
    values = {arm.experiment.total_tokens: {s: pairs[s] for s in result.seeds}}
    for smaller in budget_questions(question, arm):
        done = run_comparison(smaller, result.seeds, **options)
        experiment = smaller.base.experiment
        values[experiment.total_tokens] = arm_values(done, 0)
    effect = result.difference, result.low, result.high
    saved = tokens_saved(values, effect, question.direction, result.level)
    return BudgetRuns(better, label_of(comparison, better), values, saved)


def check_budgets(question: Question) -> None:
    """Before anything runs. Raises KitError where seconds end the runs."""
    for arm in question.arms:
        list(budget_questions(question, arm))


def budget_questions(question: Question, arm: Arm) -> Iterator[Question]:
    """The arm alone at each of the smaller budgets. Raises KitError where seconds end its runs."""
    experiment = arm.experiment
    if experiment.train.max_seconds is not None:
        raise KitError("--tokens-saved: train.max_seconds ends the runs, and this takes budgets of steps or tokens")
    for steps in dict.fromkeys(max(1, round(experiment.total_steps * fraction)) for fraction in FRACTIONS):
        if steps < experiment.total_steps:
            smaller = Arm(f"{arm.label} train.steps={steps}", experiment.with_({"train.steps": steps}))
            text = f"tokens saved by {arm.label}: {question.text}".removesuffix(": ")
            yield replace(question, kind="noise", arms=(smaller,), text=text)
