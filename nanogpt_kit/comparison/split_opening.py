"""The opening of a test split: once for each split in the whole ledger, by one comparison, with its record.

A test split measures what was chosen by validation. Whoever looks at it twice chooses by it, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from nanogpt_kit.comparison.judgement import judge_arms
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import Comparison, Listed, Measurement, Result
from nanogpt_kit.comparison.sentences import verdict_sentence
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.evaluator_metrics import declared_metrics, evaluators_of_test
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.files import git_ignored_folder
from nanogpt_kit.runs.folder import RunFolder, files_below_runs, runs_root
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.runs.record import AnyText, NamesRecord, RecordPart, Unreadable

OPENING = "test-split.json"
LOCK = ".test-split.lock"
VAL, TEST = "val/", "test/"  # beginnings of metrics

EvaluateRun = Callable[[RunFolder], "dict[str, float | None]"]  # the metrics of its newest checkpoint on the test split


class SplitIdentity(RecordPart):
    """Which test split: the text, and the tokens of that split. Either makes another split the same one."""

    dataset: str  # fingerprint
    tokens: str  # SHA-256


class SplitOpening(NamesRecord):
    """test-split.json beside comparison.json: who opened which test splits, and what was measured there."""

    max_bytes: ClassVar[int] = 1 << 24

    id: str  # of the comparison
    command: AnyText
    time: float  # seconds since 1970, of the opening
    metric: str  # of the test split
    splits: Listed[SplitIdentity]
    measurements: Listed[Measurement]  # those of the comparison, with their values on the test split
    results: Listed[Result] | None = None  # None: it was stopped before all runs were evaluated

    @property
    def seeds(self) -> set[int]:
        return {one.seed for one in self.measurements}

    def has_split_of(self, splits: tuple[SplitIdentity, ...]) -> bool:
        datasets, tokens = {split.dataset for split in self.splits}, {split.tokens for split in self.splits}
        return any(split.dataset in datasets or split.tokens in tokens for split in splits)

    def has_runs_of(self, comparison: Comparison) -> bool:
        """Whether the comparison is the one that opened it: the same question, arms and runs."""
        mine, theirs = (
            {(one.arm, one.seed, Path(one.run).name) for one in it.measurements} for it in (self, comparison)
        )
        has_arms = all(0 < one.arm < len(comparison.arms) for one in self.results or ())
        return self.id == comparison.id and mine == theirs and has_arms


def open_test_split(question: Question, comparison: Comparison, command: str, evaluate: EvaluateRun) -> SplitOpening:
    """Evaluates every run that has a value on the test split, and judges it there, too; its runs are judged once.

    The comparison that opened it before is answered from the record. Raises KitError where another comparison has
    opened the split, where the metric is not one of a split, and where a dataset has no test split.
    """
    metric = metric_of_test(comparison.metric)
    splits = test_splits(comparison)
    file = question.folder() / OPENING
    with locked_openings():
        for path, opening in read_openings():
            if not opening.has_split_of(splits):
                continue
            if path.absolute() != file.absolute() or not opening.has_runs_of(comparison):
                raise already_open(path, opening)
            if opening.results is not None:
                return opening
            break
        else:
            opening = SplitOpening(
                id=comparison.id,
                command=command,
                time=time.time(),
                metric=metric,
                splits=splits,
                measurements=comparison.measurements,
            )
            opening.write(file)  # before anybody can see a value
    measurements = tuple(measured_on_test(one, metric, evaluate) for one in comparison.measurements)
    results = tuple(judge_measurements(measurements, len(comparison.arms), comparison.direction))
    opening = opening.model_copy(update={"measurements": measurements, "results": results})
    opening.write(file)
    return opening


def check_may_open(question: Question, seeds: Collection[int], again: bool = False) -> None:
    """Before anything runs. Raises KitError for what `open_test_split` would refuse after it, as far as that is known:
    two splits with other tokens of one text are known to be the same, two texts with the same split are not. With
    `again` the runs are others than those that opened it."""
    metric = metric_of_test(question.metric)
    for arm in question.arms:
        if "test" not in arm.experiment.dataset.splits:
            raise no_test_split(one_line(arm.label))
        measured = declared_metrics(evaluators_of_test(arm.experiment), arm.experiment.dataset.sources)
        if measured is not None and metric not in measured:
            raise not_measured(one_line(arm.label), metric, measured)
    openings = [
        (path, opening)
        for path, opening in read_openings()
        if again or opening.id != question.id() or opening.seeds != set(seeds)
    ]
    datasets = {arm.experiment.dataset.fingerprint() for arm in question.arms} if openings else set()
    for path, opening in openings:
        if any(split.dataset in datasets for split in opening.splits):
            raise already_open(path, opening)


def no_test_split(label: str) -> KitError:
    remedy = "dataset.test_fraction = 0.05 sets a part of a text aside, for runs that are trained after that"
    return KitError(f"--open-test: the dataset of {label} has no test split; {remedy}")


def not_measured(label: str, metric: str, measured: Iterable[str]) -> KitError:
    names = ", ".join(sorted(measured)) or "nothing"
    return KitError(f"--open-test: no evaluator of {label} measures {metric}; they measure {names}")


def metric_of_test(metric: str) -> str:
    """ "test/loss" of "val/loss". Raises KitError for a metric that is not measured on the validation split."""
    if not metric.startswith(VAL):
        raise KitError(f"--open-test: {metric} is not measured on a split; it takes metrics such as val/loss")
    return TEST + metric.removeprefix(VAL)


def test_splits(comparison: Comparison) -> tuple[SplitIdentity, ...]:
    """Those of the compared runs. Raises KitError where a run has none."""
    found: dict[SplitIdentity, None] = {}
    for measurement in comparison.measurements:
        if measurement.value is None:
            continue
        data = RunFolder(Path(measurement.run)).provenance().data
        if data is None or "test" not in data.splits:
            raise no_test_split(one_line(comparison.arms[measurement.arm].label))
        found[SplitIdentity(dataset=data.dataset, tokens=data.splits["test"])] = None
    return tuple(found)


@contextmanager
def locked_openings() -> Iterator[None]:
    """No other process opens a test split meanwhile."""
    with git_ignored_folder(runs_root()), Lock(runs_root() / LOCK, wait=True):
        yield


def read_openings() -> list[tuple[Path, SplitOpening]]:
    """All openings with their files. Raises KitError where one cannot be read: it might be of the same split."""
    found = []
    for path in files_below_runs(f"*/*/*/{OPENING}"):
        try:
            found.append((path, SplitOpening.read(path)))
        except FileNotFoundError:
            continue
        except Unreadable as error:
            raise KitError(f"{path.parent}: {error}; which test split it opened is unknown") from None
    return found


def already_open(path: Path, opening: SplitOpening) -> KitError:
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(opening.time))
    reason = "what is chosen by a test split needs another one to be tested"
    return KitError(f"--open-test: this test split was opened on {when} by `{opening.command}` ({path}); {reason}")


def measured_on_test(measurement: Measurement, metric: str, evaluate: EvaluateRun) -> Measurement:
    """The measurement with its value on the test split. Raises KitError where no evaluator measures that."""
    if measurement.value is None:
        return measurement
    metrics = evaluate(RunFolder(Path(measurement.run)))
    if metric not in metrics:
        raise not_measured(measurement.run, metric, metrics)
    return measurement.model_copy(update={"value": metrics[metric]})


def judge_measurements(measurements: tuple[Measurement, ...], arms: int, direction: str) -> list[Result]:
    by_arm = [[one for one in measurements if one.arm == arm] for arm in range(arms)]
    values = [{one.seed: one.value for one in runs if one.value is not None} for runs in by_arm]
    failed = [{one.seed for one in runs if one.value is None} for runs in by_arm]
    return judge_arms(values, direction, failed=failed)


def opening_lines(comparison: Comparison, opening: SplitOpening) -> list[str]:
    """The result on the test split, for people: the means, and a sentence for each contender."""
    tested = comparison.model_copy(
        update={
            "metric": opening.metric,
            "measurements": opening.measurements,
            "results": opening.results or (),
        }
    )
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(opening.time))
    heading = f"{opening.metric}, on the test split, which this comparison opened on {when} and no other may open again"
    return [heading, *(f"  {verdict_sentence(tested, result)}" for result in tested.results)]
