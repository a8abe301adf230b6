"""What the reader of a comparison should know: how its runs differ besides their change and their seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nanogpt_kit.comparison.budgets import run_label
from nanogpt_kit.comparison.instruments import Instrument
from nanogpt_kit.comparison.numbers import joined_names
from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import Provenance

SEEDS_SHOWN = 5


@dataclass(frozen=True)
class MeasuredRun:
    """A finished run with the record of its origin."""

    measurement: Measurement
    label: str  # "swiglu with seed 1338"
    origin: Provenance
    instrument: Instrument

    @classmethod
    def read(cls, question: Question, measurement: Measurement) -> Self:
        """Raises KitError where its provenance.json is missing or damaged."""
        label = run_label(question, measurement)
        run = RunFolder(Path(measurement.run))
        return cls(measurement, label, run.provenance(), Instrument.of_run(label, run))

    @property
    def components(self) -> frozenset[tuple[str, str]]:
        """The slots, and the distribution that fills each."""
        names = self.origin.components.items()
        return frozenset((key, name.partition("/")[0]) for key, name in names)


def library(name: str) -> Callable[[Provenance], str]:
    return lambda origin: origin.distributions.get(name, "not recorded")


def device_text(origin: Provenance) -> str:
    return origin.machine.gpu or origin.machine.device or "not recorded"


def start_text(origin: Provenance) -> str:
    return origin.init_from.checkpoint if origin.init_from else "random"


FACTS: Mapping[str, Callable[[Provenance], str]] = {  # that may change a result or a speed, whatever the experiment
    KIT_DISTRIBUTION: library(KIT_DISTRIBUTION),
    "torch": library("torch"),
    "machine": lambda origin: origin.machine.host or "not recorded",
    "device": device_text,
    "precision": lambda origin: origin.machine.precision or "not recorded",
    "threads": lambda origin: str(origin.machine.threads),
    "processes": lambda origin: str(origin.machine.processes),
    "first weights": start_text,  # whose training is not counted
}


def difference_notes(
    question: Question, measurements: Sequence[Measurement], runs: Sequence[MeasuredRun]
) -> Iterator[str]:
    """Sentences about the runs, of which those that did not finish are in `measurements` alone."""
    for name, fact in FACTS.items():
        yield from grouped_note(question, f"the runs differ in {name}", runs, fact)
    yield from code_notes(question, runs)
    yield from history_notes(runs)
    yield from arm_notes(question, runs)
    yield from unpaired_notes(question, measurements)


def grouped_note(
    question: Question, what: str, runs: Sequence[MeasuredRun], fact: Callable[[Provenance], str]
) -> Iterator[str]:
    """Such as "the runs differ in torch: 2.12.0 (gelu), 2.13.0 (swiglu with seed 1338)"."""
    groups: dict[str, list[MeasuredRun]] = {}
    for run in runs:
        groups.setdefault(fact(run.origin), []).append(run)
    if len(groups) > 1:
        texts = (f"{one_line(value)} ({runs_text(question, group, runs)})" for value, group in groups.items())
        yield f"{what}: {', '.join(texts)}"


def runs_text(question: Question, group: Sequence[MeasuredRun], runs: Sequence[MeasuredRun]) -> str:
    """The arms of a group of runs; with seeds where the group has only some of an arm's runs."""
    texts = []
    for index, arm in enumerate(question.arms):
        seeds = [run.measurement.seed for run in group if run.measurement.arm == index]
        total = sum(run.measurement.arm == index for run in runs)
        if seeds:
            label = one_line(arm.label)
            texts.append(label if len(seeds) == total else f"{label} with {seeds_in_words(seeds)}")
    return joined_names(texts)


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Such as "seed 1", "seeds 1, 2 and 3"; of many the first ones."""
    if len(seeds) > SEEDS_SHOWN:
        return f"{len(seeds)} seeds"
    return f"seed{'s' if len(seeds) > 1 else ''} {joined_names(map(str, sorted(seeds)))}"


def code_notes(question: Question, runs: Sequence[MeasuredRun]) -> Iterator[str]:
    """Of runs whose slots are filled by the same distributions, and yet their code differs."""
    by_slots: dict[frozenset[tuple[str, str]], list[MeasuredRun]] = {}
    for run in runs:
        by_slots.setdefault(run.components, []).append(run)
    for group in by_slots.values():
        codes = list(dict.fromkeys(run.origin.code for run in group))
        if len(codes) > 1:
            texts = (runs_text(question, [run for run in group if run.origin.code == code], runs) for code in codes)
            yield f"the code of the kit or of a plugin was changed between runs: {'; then '.join(texts)}"


def history_notes(runs: Sequence[MeasuredRun]) -> Iterator[str]:
    for run in runs:
        if run.origin.branched_from:
            yield f"{run.label} began from a checkpoint of another run, whose steps are not counted"
        elif run.origin.changed_at_step is not None:
            step = run.origin.changed_at_step
            yield f"{run.label} was resumed with other options or other code at step {step:,}"


def arm_notes(question: Question, runs: Sequence[MeasuredRun]) -> Iterator[str]:
    """How contenders differ from the base in what decides their cost, or how they are evaluated."""
    of_arm = {run.measurement.arm: run for run in reversed(runs)}
    if 0 not in of_arm:
        return
    base, base_label = of_arm[0], one_line(question.base.label)
    windows = question.base.experiment.model.block_size
    for index, arm in enumerate(question.arms):
        if index == 0 or index not in of_arm:
            continue
        run, label = of_arm[index], one_line(arm.label)
        yield from ratio_note(label, base_label, "parameters", run.measurement.parameters, base.measurement.parameters)
        if run.measurement.steps == base.measurement.steps:
            tokens, base_tokens = run.measurement.tokens, base.measurement.tokens
            yield from ratio_note(label, base_label, "training tokens", tokens, base_tokens)
        if arm.experiment.model.block_size != windows:
            sizes = f"{arm.experiment.model.block_size:,} tokens and {base_label} in windows of {windows:,}"
            yield f"{label} is evaluated in windows of {sizes}, so that its predictions have other contexts"
        if not run.instrument.has_text_of(base.instrument):
            yield f"{label} is trained on another text than {base_label}; both are evaluated on the same"


def ratio_note(label: str, base_label: str, what: str, count: int | None, base: int | None) -> Iterator[str]:
    """Such as "swiglu has 12% more parameters than gelu (3,360 against 3,000)"; none where that rounds to 0%."""
    percent = f"{abs(count / base - 1):.0%}" if count and base else "0%"
    if count and base and percent != "0%":
        more = "more" if count > base else "fewer"
        yield f"{label} has {percent} {more} {what} than {base_label} ({count:,} against {base:,})"


def unpaired_notes(question: Question, measurements: Sequence[Measurement]) -> Iterator[str]:
    """Seeds that only some arms have a value of; those of failed runs are named with their failure."""
    have = [{one.seed for one in measurements if one.arm == arm} for arm in range(len(question.arms))]
    for index in range(1, len(question.arms)):
        for here, other in ((0, index), (index, 0)):
            missing = sorted(have[here] - have[other])
            if missing:
                label, lacks = (one_line(question.arms[arm].label) for arm in (here, other))
                yield f"{label} has {seeds_in_words(missing)} and {lacks} has not, so that there is no pair"
