"""A comparison of runs that exist: over the seeds that every arm has. Nothing is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nanogpt_kit.compare.comparability import check_arms
from nanogpt_kit.compare.comparison import make_comparison
from nanogpt_kit.compare.groups import has_ended, seeds_text
from nanogpt_kit.compare.ledger import finished_by_seed
from nanogpt_kit.compare.measurement import measure_run
from nanogpt_kit.compare.question import Arm, Question
from nanogpt_kit.compare.record import Comparison
from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.index import index_runs
from nanogpt_kit.runs.resume_command import kit_command

PROPOSED_SEEDS = 3  # where there is nothing to compare: fewer have hardly ever an interval that excludes 0

RunsBySeed = Mapping[int, RunFolder]


def compare_finished(question: Question, command: str = "") -> Comparison:
    """Judges the runs that have ended, and records the look. Raises KitError where the arms share no seed."""
    check_arms(question)
    runs = [runs_by_seed(arm) for arm in question.arms]
    seeds = shared_seeds(question, runs)
    measurements = [
        measure_run(found[seed], question.metric, index, is_reused=True)
        for index, found in enumerate(runs)
        for seed in seeds
    ]
    return make_comparison(question, measurements, command)


def shared_finished_seeds(question: Question) -> list[int]:
    """The seeds that `compare_finished` compares. Raises KitError where there are none."""
    return shared_seeds(question, [runs_by_seed(arm) for arm in question.arms])


def runs_by_seed(arm: Arm) -> RunsBySeed:
    """The runs of an arm that have ended: those that the user named, or else those of its configuration."""
    if arm.runs:
        return {seed: run for run in arm.runs if (seed := run.seed()) is not None}
    return {**diverged_by_seed(arm.experiment), **finished_by_seed(arm.experiment)}


def diverged_by_seed(experiment: Experiment) -> RunsBySeed:
    """Runs of this configuration that ended since a value was not finite: leaving them out would flatter an arm."""
    identity = experiment.configuration(), code_identity(experiment)
    found = (run for run in index_runs() if (run.configuration, run.code) == identity and has_ended(run.folder))
    return {run.seed: run.folder for run in found if run.seed is not None and run.state == "failed"}


def shared_seeds(question: Question, runs: Sequence[RunsBySeed]) -> list[int]:
    """The seeds of which every arm has a run. Raises KitError where there is none."""
    shared = sorted(set.intersection(*(set(found) for found in runs)))
    if shared:
        return shared
    held = "; ".join(held_text(arm, found) for arm, found in zip(question.arms, runs, strict=True))
    noise = ["--noise"] if question.kind == "noise" else []
    seeds = ["--seeds", str(PROPOSED_SEEDS)]
    command = kit_command("compare", *noise, *(arm.label for arm in question.arms), *seeds)
    raise KitError(f"no seed has a finished run in every arm: {held}; `{command}` trains what is missing")


def held_text(arm: Arm, found: RunsBySeed) -> str:
    return f"{arm.label} has {seeds_text(sorted(found)) if found else 'no finished run'}"
