"""What `compare` answers: the comparison, and what its options derive from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nanogpt_kit.comparison.finished import FinishedRuns
from nanogpt_kit.comparison.noise import Noise
from nanogpt_kit.comparison.noise_text import noise_lines, noise_of
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.reached import TargetTable
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.split_opening import SplitOpening, check_may_open, open_test_split, opening_lines
from nanogpt_kit.comparison.text import comparison_json, comparison_lines, exit_code
from nanogpt_kit.core.errors import DONE
from nanogpt_kit.sweep.comparison import run_comparison
from nanogpt_kit.sweep.smaller_budgets import BudgetRuns, check_budgets, measure_tokens_saved
from nanogpt_kit.train import open_test


@dataclass(frozen=True)
class CompareOptions:
    """The options of `compare` besides those of its question."""

    seeds: int | None
    target: float | None
    tokens_saved: bool
    noise: bool
    again: bool
    workers: int
    storage: str
    nproc: int
    open_test: bool
    trust_code: bool
    command: str  # that continues it

    def of_runs(self) -> dict[str, Any]:
        """The arguments of `run_comparison`."""
        names = ("again", "workers", "storage", "nproc", "command")
        return {name: getattr(self, name) for name in names}

    def seeds_of(self, question: Question) -> range:
        first = question.base.experiment.train.seed
        return range(first, first + (self.seeds or 0))


@dataclass(frozen=True)
class ComparisonAnswer:
    """Everything that is printed."""

    comparison: Comparison
    noise: Noise | None = None
    target: TargetTable | None = None
    saved: BudgetRuns | None = None
    opening: SplitOpening | None = None
    left_out: str = ""  # which finished runs were not compared, and why

    @classmethod
    def find(cls, question: Question, options: CompareOptions) -> ComparisonAnswer:
        """Trains what is missing. Raises KitError where something cannot be compared."""
        if options.open_test:
            check_may_open(question, None if options.seeds is None else options.seeds_of(question))
        if options.tokens_saved:
            check_budgets(question)
        finished = FinishedRuns.find(question) if options.seeds is None else None
        if finished:
            comparison, left_out = finished.compare(options.command), finished.left_out_text()
        else:
            comparison, left_out = run_comparison(question, options.seeds_of(question), **options.of_runs()), ""
        if options.noise:
            return cls(comparison, noise=noise_of(comparison), left_out=left_out)
        return cls(
            comparison,
            target=None if options.target is None else TargetTable.of(comparison, options.target),
            saved=measure_tokens_saved(question, comparison, **options.of_runs()) if options.tokens_saved else None,
            opening=open_split(question, comparison, options) if options.open_test else None,
            left_out=left_out,
        )

    @property
    def exit_code(self) -> int:
        """That of the verdict on the validation split."""
        return DONE if self.noise else exit_code(self.comparison)

    def lines(self) -> list[str]:
        """For people; the verdict comes last."""
        if self.noise:
            return noise_lines(self.comparison, self.noise)
        *body, verdict = comparison_lines(self.comparison)
        sections = [
            self.target.lines() if self.target else [],
            self.saved.lines() if self.saved else [],
            opening_lines(self.comparison, self.opening) if self.opening else [],
        ]
        return [*body, *(line for section in sections if section for line in (*section, "")), verdict]

    def record(self) -> dict[str, Any]:
        """For programs."""
        more = {
            "noise": asdict(self.noise) if self.noise else None,
            "target": self.target.record() if self.target else None,
            "tokens_saved": self.saved.record() if self.saved else None,
            "test": self.opening.model_dump(mode="json") if self.opening else None,
        }
        return {**comparison_json(self.comparison), **{name: value for name, value in more.items() if value}}


def open_split(question: Question, comparison: Comparison, options: CompareOptions) -> SplitOpening:
    return open_test_split(
        question,
        comparison,
        options.command,
        lambda run: open_test.measure_test_split(run, options.trust_code).metrics,
    )
