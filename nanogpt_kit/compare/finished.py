"""A comparison of runs that exist: over the seeds that every arm has. Nothing is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nanogpt_kit.compare.comparability import check_arms
from nanogpt_kit.compare.comparison import make_comparison, write_comparison
from nanogpt_kit.compare.groups import seeds_text
from nanogpt_kit.compare.ledger import finished_by_seed
from nanogpt_kit.compare.measurement import measure_run
from nanogpt_kit.compare.question import Arm, Question
from nanogpt_kit.compare.record import Comparison
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.resume_command import kit_command

PROPOSED_SEEDS = 3  # where nothing is there to be compared: the fewest that usually decide anything


def compare_finished(question: Question, command: str = "") -> Comparison:
    """Judges the finished runs of each arm, and records the look. Raises KitError where the arms share no seed."""
    check_arms(question)
    runs = [runs_by_seed(arm) for arm in question.arms]
    seeds = shared_seeds(question.arms, runs)
    measurements = [
        measure_run(found[seed], question.metric, index, is_reused=True)
        for index, found in enumerate(runs)
        for seed in seeds
    ]
    comparison = make_comparison(question, measurements, command)
    write_comparison(question, comparison)
    return comparison


def runs_by_seed(arm: Arm) -> dict[int, RunFolder]:
    """The runs of an arm: those that the user named, or else those of its configuration in the ledger."""
    if arm.runs:
        return {seed: run for run in arm.runs if (seed := run.seed()) is not None}
    return finished_by_seed(arm.experiment)


def shared_seeds(arms: Sequence[Arm], runs: Sequence[Mapping[int, RunFolder]]) -> list[int]:
    """The seeds of which every arm has a run. Raises KitError where there is none."""
    shared = sorted(set[int].intersection(*(set(found) for found in runs)))
    if shared:
        return shared
    held = "; ".join(
        f"{arm.label} has {seeds_text(sorted(found)) if found else 'no finished run'}"
        for arm, found in zip(arms, runs, strict=True)
    )
    command = kit_command("compare", *(arm.label for arm in arms), "--seeds", str(PROPOSED_SEEDS))
    raise KitError(
        f"there is no seed of which every arm has a finished run: {held}; `{command}` trains what is missing"
    )
