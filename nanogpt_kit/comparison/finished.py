"""A comparison of runs that exist: over the seeds that every arm has. Nothing is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nanogpt_kit.comparison.comparability import check_arms
from nanogpt_kit.comparison.comparison import make_comparison
from nanogpt_kit.comparison.groups import has_ended, seeds_text
from nanogpt_kit.comparison.ledger import finished_by_seed
from nanogpt_kit.comparison.measurement import measure_run
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.index import index_runs
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.resume_command import kit_command

PROPOSED_SEEDS = 3  # where there is nothing to compare: fewer have hardly ever an interval that excludes 0

RunsBySeed = Mapping[int, RunFolder]


def compare_finished(question: Question, command: str = "") -> Comparison:
    """Judges the runs that have ended, and records the look. Raises KitError where the arms share no seed."""
    return FinishedRuns.find(question).compare(command)


@dataclass(frozen=True)
class FinishedRuns:
    """The runs of each arm that have ended."""

    question: Question
    runs: tuple[RunsBySeed, ...]  # by arm
    seeds: tuple[int, ...]  # of which every arm has a run

    @classmethod
    def find(cls, question: Question) -> FinishedRuns:
        """Raises KitError where the arms do not compare, or share no seed."""
        check_arms(question)
        rows = index_runs()
        runs = tuple(runs_by_seed(arm, rows) for arm in question.arms)
        return cls(question, runs, shared_seeds(question, runs))

    def compare(self, command: str = "") -> Comparison:
        """Judges them, and records the look."""
        measurements = [
            measure_run(found[seed], self.question.metric, index, is_reused=True)
            for index, found in enumerate(self.runs)
            for seed in self.seeds
        ]
        return make_comparison(self.question, measurements, command)

    def left_out_text(self) -> str:
        """Which runs are not compared, since another arm has none with their seed; "" where there are none."""
        texts = []
        for arm, found in zip(self.question.arms, self.runs, strict=True):
            others = sorted(found.keys() - set(self.seeds))
            if others:
                texts.append(f"{arm.label} with {seeds_text(others)}")
        return f"not compared, since another arm has no such run: {'; '.join(texts)}" if texts else ""


def runs_by_seed(arm: Arm, rows: Sequence[IndexedRun]) -> RunsBySeed:
    """The runs of an arm that have ended: those that the user named, or else those of its configuration in the ledger.

    A run that ended since a value was not finite is one of them: leaving it out would flatter its arm.
    """
    if arm.runs:
        return {seed: run for run in arm.runs if (seed := run.seed()) is not None}
    identity = arm.configuration, code_identity(arm.experiment)
    failed = (run for run in rows if (run.configuration, run.code) == identity and run.state == "failed")
    diverged = {run.seed: run.folder for run in failed if run.seed is not None and has_ended(run.folder)}
    return {**diverged, **finished_by_seed(arm.experiment, rows)}


def shared_seeds(question: Question, runs: Sequence[RunsBySeed]) -> tuple[int, ...]:
    """The seeds of which every arm has a run. Raises KitError where there is none."""
    shared = tuple(sorted(set.intersection(*(set(found) for found in runs))))
    if shared:
        return shared
    held = "; ".join(held_text(arm, found) for arm, found in zip(question.arms, runs, strict=True))
    options = ["--noise"] if question.kind == "noise" else []
    options += ["--metric", question.metric] if question.metric != "val/loss" else []
    options += ["--direction", question.direction] if question.direction != "minimize" else []
    seeds = ["--seeds", str(PROPOSED_SEEDS)]
    command = kit_command("compare", *options, *(arm.label for arm in question.arms), *seeds)
    raise KitError(f"no seed has a finished run in every arm: {held}; `{command}` trains what is missing")


def held_text(arm: Arm, found: RunsBySeed) -> str:
    return f"{arm.label} has {seeds_text(sorted(found)) if found else 'no finished run'}"
