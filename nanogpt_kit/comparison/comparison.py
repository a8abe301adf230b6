"""Puts a comparison together: checks, judges, counts looks and tries, and writes comparison.json."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nanogpt_kit.comparison.comparability import Comparable, check_measurements
from nanogpt_kit.comparison.factorial import judge_effects
from nanogpt_kit.comparison.intervals import expected_luck
from nanogpt_kit.comparison.judgement import judge_arms
from nanogpt_kit.comparison.ledger import COMPARISON, read_comparisons, recorded_comparison, tried_configurations
from nanogpt_kit.comparison.looks import count_look
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import ArmRecord, Comparison, Effect, Look, Measurement, Result
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.options import digest
from nanogpt_kit.runs.files import check_writable, git_ignored_folder
from nanogpt_kit.runs.folder import runs_root
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.system.writing import remove_temporary_files

RECORD_LOCK = ".comparison.lock"


def make_comparison(
    question: Question, measurements: Sequence[Measurement], command: str, started: float | None = None
) -> Comparison:
    """Judges the runs, and records the look in comparison.json: another process that judges meanwhile waits for it.

    Each arm has at most one measurement of a seed. `started` is when the first of them was asked for, by default now.
    Raises KitError where the runs do not compare, and where an earlier record of the question cannot be read.
    """
    common = check_measurements(question, measurements)
    with locked_record(question):
        before = recorded_comparison(question)
        judged = JudgedValues.of(question, measurements)
        looks, number = count_look(question, before, read_comparisons(), judged.seeds(), judged.hash())
        comparison = judged_comparison(question, measurements, command, common, looks, number)
        first = before.started if before else started
        if first is not None:
            comparison = comparison.model_copy(update={"started": first})
        comparison = with_tries(comparison)
        write_comparison(question, comparison)
    return comparison


def write_comparison(question: Question, comparison: Comparison) -> None:
    """Raises RunFailed where the disk is full."""
    path = question.folder() / COMPARISON
    try:
        comparison.write(path)
    except OSError as error:
        kept = "all runs are kept, and the same command judges them once it can be written"
        raise RunFailed(f"{path} cannot be written: {error.strerror}; {kept}") from None


@contextmanager
def locked_record(question: Question) -> Iterator[None]:
    """The folder of the question exists, and no other process reads or writes its record."""
    check_writable(question.folder(), "NANOGPT_KIT_RUNS")
    with git_ignored_folder(runs_root()):
        question.folder().mkdir(parents=True, exist_ok=True)
        with Lock(question.folder() / RECORD_LOCK, wait=True):
            remove_temporary_files(question.folder(), of=COMPARISON)
            yield


@dataclass(frozen=True)
class JudgedValues:
    """What a judgement sees of the runs, by arm."""

    values: tuple[Mapping[int, float], ...]  # {seed: value}
    failed: tuple[frozenset[int], ...]  # seeds whose run failed; one that was interrupted is only missing

    @classmethod
    def of(cls, question: Question, measurements: Sequence[Measurement]) -> JudgedValues:
        by_arm = [[one for one in measurements if one.arm == arm] for arm in range(len(question.arms))]
        values = tuple({one.seed: one.value for one in runs if one.value is not None} for runs in by_arm)
        failed = tuple(frozenset(one.seed for one in runs if has_failed(one)) for runs in by_arm)
        return cls(values, failed)

    def seeds(self) -> tuple[int, ...]:
        """Those of the base that a contender has, too."""
        return tuple(sorted(self.values[0].keys() & {seed for arm in self.values[1:] for seed in arm}))

    def hash(self) -> str:
        """Of a factorial or of several contenders, whatever their order."""
        plain = [
            [sorted(values.items()), sorted(failed)] for values, failed in zip(self.values, self.failed, strict=True)
        ]
        return digest([plain[0], sorted(plain[1:])])[:16]


def has_failed(measurement: Measurement) -> bool:
    """Whether its arm is to blame: a run that failed, or a finished one whose metric is not finite."""
    return measurement.state == "failed" or (measurement.state == "finished" and measurement.value is None)


def judged_comparison(
    question: Question,
    measurements: Sequence[Measurement],
    command: str,
    common: Comparable,
    looks: tuple[Look, ...],
    number: int,
) -> Comparison:
    judged, now = JudgedValues.of(question, measurements), time.time()
    reused = [one.seconds for one in measurements if one.is_reused]
    return Comparison(
        id=question.id(),
        kind=question.kind,
        command=command,
        text=question.text,
        started=now,
        time=now,
        metric=question.metric,
        direction=question.direction,
        yardstick=common.yardstick,
        budget=common.budget,
        arms=tuple(
            ArmRecord(
                label=arm.label,
                experiment=arm.experiment.name,
                configuration=arm.configuration,
                changes=dict(arm.changes),
            )
            for arm in question.arms
        ),
        looks=looks,
        measurements=tuple(sorted(measurements, key=lambda one: (one.arm, one.seed))),
        results=tuple(judge_contenders(question, judged, number)),
        effects=tuple(judge_factors(question, judged, number)),
        notes=(*question.notes, *common.notes),
        seconds=math.fsum(one.seconds for one in measurements) - math.fsum(reused),
        seconds_reused=math.fsum(reused),
    )


def judge_contenders(question: Question, judged: JudgedValues, look: int) -> list[Result]:
    """None of a measurement of noise: a verdict on its pairs would be a look at the question before it is asked."""
    if question.kind == "noise" or len(question.arms) == 1:
        return []
    return judge_arms(judged.values, question.direction, look, judged.failed)


def judge_factors(question: Question, judged: JudgedValues, look: int) -> list[Effect]:
    """The effects of a full factorial; none of other comparisons."""
    if not all(arm.levels for arm in question.arms):
        return []
    factors = [(name, list(dict.fromkeys(arm.levels[name] for arm in question.arms))) for name in question.base.levels]
    cells = [tuple(levels.index(arm.levels[name]) for name, levels in factors) for arm in question.arms]
    values, failed = dict(zip(cells, judged.values, strict=True)), dict(zip(cells, judged.failed, strict=True))
    return judge_effects(factors, values, question.direction, look, failed)


def with_tries(comparison: Comparison) -> Comparison:
    """With the count of contenders that this base has had in the whole ledger, and what the best owes to luck."""
    if not comparison.results:
        return comparison
    tries = len(tried_configurations([*read_comparisons(), comparison], comparison))
    sign = 1 if comparison.direction == "minimize" else -1
    judged = [
        (sign * result.difference, result.difference_sd / math.sqrt(len(result.seeds)))
        for result in comparison.results
        if result.difference is not None and result.difference_sd
    ]
    luck = expected_luck(tries, min(judged)[1]) if judged and tries else None  # with the noise of the best one
    return comparison.model_copy(update={"tries": tries, "luck": luck})
