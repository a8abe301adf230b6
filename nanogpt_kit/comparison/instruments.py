"""What measures an arm or a run: the data and the yardsticks of its metrics, and why two of them do not compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from nanogpt_kit.comparison.numbers import joined_names
from nanogpt_kit.core.errors import Fault
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import digest
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.yardsticks import compute_yardsticks
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import TrainingData, find_yardstick
from nanogpt_kit.train.data_record import record_data

TRAIN = "train"
METRIC_OPTION = "--metric"
PER_BYTE = "val/bits_per_byte"  # proposed where an experiment has no metric that other tokenizers share


@dataclass(frozen=True)
class Instrument:
    """The data of an arm or a run, and its yardsticks by metric."""

    label: str  # of the arm, or of the run
    data: TrainingData | None
    yardsticks: Mapping[str, str]
    location: Callable[[str], str]  # of the table of a key, for messages

    @classmethod
    def of_experiment(cls, label: str, experiment: Experiment, prepared: PreparedData) -> Self:
        def location(key: str) -> str:
            return experiment.location(experiment.layers.highest((key,)))

        return cls(label, record_data(prepared), compute_yardsticks(experiment, prepared.manifest), location)

    @classmethod
    def of_run(cls, label: str, run: RunFolder) -> Self:
        """Raises KitError where its provenance.json is missing or damaged."""
        origin = run.provenance()
        return cls(label, origin.data, origin.yardsticks, lambda key: one_line(str(run)))

    def fault(self, key: str, reason: str, remedy: str) -> Fault:
        """A fault at the table of a key."""
        return Fault(f"{reason}; {remedy}", key, self.location(key))

    def yardstick(self, metric: str) -> str:
        """Empty where it is not known."""
        return find_yardstick(self.yardsticks, metric)

    def identity(self, metric: str) -> str:
        """Equal for instruments that measure the metric in the same way."""
        return digest([self.yardstick(metric), held_out(self.data)])

    def has_text_of(self, other: Instrument) -> bool:
        return self.data is not None and other.data is not None and self.data.dataset == other.data.dataset

    def has_tokens_of(self, other: Instrument) -> bool:
        """Whether the tokens that are not trained on are the same."""
        return held_out(self.data) == held_out(other.data)

    def shared_metrics(self, other: Instrument) -> list[str]:
        """The metrics that compare between both."""
        named = (name for name in self.yardsticks if "/" in name)
        return [name for name in named if self.yardsticks[name] == other.yardsticks.get(name)]


def held_out(data: TrainingData | None) -> dict[str, str | None]:
    """The hashes of the tokens of all splits but train, and of which of them count."""
    return {split: data.measured(split) for split in data.splits if split != TRAIN} if data else {}


def measuring_fault(metric: str, one: Instrument, base: Instrument, option: str = METRIC_OPTION) -> Fault | None:
    """Why the metric does not compare between an arm and the base, with a remedy; None where it does.

    `option` is the one by which the user chooses the metric.
    """
    both = f"{one.label} and {base.label}"
    unknown = [side.label for side in (one, base) if not side.yardstick(metric)]
    if unknown:
        reason = f"{both}: what measured {metric} of {joined_names(unknown)} is not recorded"
        return one.fault("evaluator", reason, "train it again")
    if one.yardstick(metric) == base.yardstick(metric):
        return None
    if not one.has_tokens_of(base):
        return data_fault(metric, one, base, both, option)
    reason = f"{both} have the same data and other evaluators: the code or the options of what reports {metric} differ"
    remedy = f"restore the evaluator of {base.label}, or train both with the new one (--again)"
    if option != METRIC_OPTION:  # a sweep, whose space varies it
        remedy = f"take it out of the space, or set another {option}"
    return one.fault("evaluator", reason, remedy)


def data_fault(metric: str, one: Instrument, base: Instrument, both: str, option: str) -> Fault:
    """Of other text, or of the same text as other tokens."""
    shared = one.shared_metrics(base)
    of_text = [name for name in shared if measured_text(name) == measured_text(metric)]
    if not of_text and not (one.has_text_of(base) and has_other_tokenizer(one, base)):
        text = "the same text, or not on the same spans of it"
        reason = f"{both} are not evaluated on {text}, so that their {metric} cannot be compared"
        if shared:
            return Fault(f"{reason}; give {option} {' or '.join(shared)}, whose text is the same", option, COMMAND_LINE)
        remedy = "give both the same dataset with the same splits, and train again where its files have changed"
        return one.fault("dataset", reason, remedy)
    reason = f"{both} have other tokens of the same text, and {metric} depends on the tokens"
    if shared:
        remedy = f"give {option} {' or '.join(of_text or shared)}, which does not"
        return Fault(f"{reason}; {remedy}", option, COMMAND_LINE)
    if PER_BYTE in one.yardsticks and PER_BYTE in base.yardsticks:
        reason = f"{both} have other tokens, and some of these do not give their text back: they represent other texts"
        return one.fault("tokenizer", reason, "give both a tokenizer that loses no character, as byte does")
    remedy = f"add the evaluator bits_per_byte to both, train again, and give {option} {PER_BYTE}"
    return one.fault("evaluator", reason, remedy)


def measured_text(metric: str) -> tuple[str, list[str]]:
    """The split, or another text, and the source in it that a metric is of: of val/loss/code "val" and ["code"]."""
    split, _, *source = metric.split("/")
    return split, source


def has_other_tokenizer(one: Instrument, other: Instrument) -> bool:
    return one.data is not None and other.data is not None and one.data.tokenizer != other.data.tokenizer
