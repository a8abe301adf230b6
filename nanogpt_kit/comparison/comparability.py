"""Refuses to compare what does not compare, with every reason at once, and notes what a reader should know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanogpt_kit.comparison.budgets import planned_faults, run_label, spent_budget
from nanogpt_kit.comparison.instruments import Instrument, measuring_fault
from nanogpt_kit.comparison.ledger import recorded_comparison
from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.comparison.run_notes import MeasuredRun, difference_notes
from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.evaluator_metrics import evaluator_metrics
from nanogpt_kit.core.options import digest
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.runs.description import one_line


@dataclass(frozen=True)
class Comparable:
    """What all runs of a comparison have in common, and how they differ besides the change."""

    yardstick: str  # of the metric
    budget: str  # "1,500 steps", for people
    notes: tuple[str, ...] = ()


def check_arms(question: Question) -> None:
    """Before anything runs. Raises KitError with a fault for each reason why an arm does not compare with the base.

    The data of the arms is prepared only where nothing else is wrong.
    """
    recorded_comparison(question)
    faults = [*metric_faults(question), *planned_faults(question)]
    if not faults:
        base, *others = instruments(question)
        faults = [fault for other in others if (fault := measuring_fault(question.metric, other, base))]
    if faults:
        raise KitError(*faults)


def metric_faults(question: Question) -> Iterator[Fault]:
    """Of arms none of whose evaluators reports the metric."""
    for arm in question.arms:
        names = evaluator_metrics(arm.experiment)
        if names is not None and question.metric not in names:
            reason = f"no evaluator of {one_line(arm.label)} reports {question.metric!r}"
            yield Fault(f"{reason}{did_you_mean(question.metric, names)}", "--metric", COMMAND_LINE)


def instruments(question: Question) -> Iterator[Instrument]:
    """What measures each arm: of named runs as they recorded it, of others as it is now. Prepares their data."""
    prepared: dict[str, PreparedData] = {}
    for arm in question.arms:
        label = one_line(arm.label)
        if arm.runs:
            yield Instrument.of_run(label, arm.runs[0])
            continue
        text = text_options(arm)
        if text not in prepared:
            prepared[text] = prepare(arm.experiment, verify=False)
        prepared[text].check_block_size(arm.experiment.model.block_size)
        yield Instrument.of_experiment(label, arm.experiment, prepared[text])


def text_options(arm: Arm) -> str:
    """Equal for arms whose options of dataset and tokenizer are the same."""
    values = arm.experiment.resolved()
    return digest([values["dataset"], values["tokenizer"]])


def check_measurements(question: Question, measurements: Sequence[Measurement]) -> Comparable:
    """After the runs. Raises KitError with a fault for each reason why they do not compare.

    Runs that did not finish are not looked at: they have no value that could compare.
    """
    runs = [MeasuredRun.read(question, one) for one in measurements if one.state == "finished"]
    budget, budget_faults = spent_budget(question, [run.measurement for run in runs])
    faults = [*repeated_faults(question, measurements), *identity_faults(question, runs), *budget_faults]
    unlike = {(run.measurement.arm, run.instrument.identity(question.metric)): run for run in reversed(runs)}
    for run in reversed(unlike.values()):  # one of each arm and way of measuring
        faults += filter(None, [measuring_fault(question.metric, run.instrument, runs[0].instrument)])
    if faults:
        raise KitError(*dict.fromkeys(faults))
    yardstick = runs[0].instrument.yardstick(question.metric) if runs else ""
    return Comparable(yardstick, budget, tuple(difference_notes(question, measurements, runs)))


def repeated_faults(question: Question, measurements: Sequence[Measurement]) -> Iterator[Fault]:
    """Of seeds that an arm has two runs of: to choose between them would be to choose a result."""
    first: dict[tuple[int, int], Measurement] = {}
    for one in measurements:
        before = first.setdefault((one.arm, one.seed), one)
        if before is not one:
            runs = f"{one_line(before.run)} and {one_line(one.run)}"
            yield Fault(f"{run_label(question, one)} has two runs: {runs}; leave one of them out")


def identity_faults(question: Question, runs: Sequence[MeasuredRun]) -> Iterator[Fault]:
    """Of runs of an arm with another configuration than its first one, and of those whose text is not that of other
    runs with the same options."""
    first: dict[int, MeasuredRun] = {}
    first_of_text: dict[str, MeasuredRun] = {}
    for run in runs:
        before = first.setdefault(run.measurement.arm, run)
        if run.origin.configuration != before.origin.configuration:
            command = f"nanogpt-kit runs diff {one_line(before.measurement.run)} {one_line(run.measurement.run)}"
            reason = f"{run.label} and {before.label} differ by more than their seed, as `{command}` shows"
            yield Fault(f"{reason}; leave one out, or compare them as two arms")
            continue
        before = first_of_text.setdefault(text_options(question.arms[run.measurement.arm]), run)
        if not run.instrument.has_text_of(before.instrument):
            reason = f"{run.label} and {before.label} were trained on different texts, though by the same options"
            yield Fault(f"{reason}: files of the dataset have changed; train both again", "dataset")
