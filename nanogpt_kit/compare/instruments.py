"""What measures an arm or a run: the data and the yardsticks of its metrics, and why two of them do not compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from nanogpt_kit.core.errors import Fault
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import digest
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.data.yardsticks import compute_yardsticks
from nanogpt_kit.runs.provenance import Provenance, TrainingData, find_yardstick
from nanogpt_kit.train.data_record import record_data

TRAIN = "train"
PER_BYTE = "val/bits_per_byte"  # proposed where an experiment has no metric that other tokenizers share


@dataclass(frozen=True)
class Instrument:
    """The data of an arm or a run, and its yardsticks by metric."""

    label: str  # of the arm, or of the run
    data: TrainingData | None
    yardsticks: Mapping[str, str]

    @classmethod
    def of_experiment(cls, label: str, experiment: Experiment) -> Self:
        """Prepares the data where that has not been done. Raises KitError for text that cannot be read."""
        prepared = prepare(experiment, verify=False)
        return cls(label, record_data(prepared), compute_yardsticks(experiment, prepared.manifest))

    @classmethod
    def of_run(cls, label: str, origin: Provenance) -> Self:
        return cls(label, origin.data, origin.yardsticks)

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


def held_out(data: TrainingData | None) -> dict[str, str]:
    """The hashes of the tokens of all splits but train."""
    return {split: tokens for split, tokens in data.splits.items() if split != TRAIN} if data else {}


def measuring_fault(metric: str, one: Instrument, base: Instrument) -> Fault | None:
    """Why the metric does not compare between an arm and the base, with a remedy; None where it does."""
    yardstick = one.yardstick(metric)
    both = f"{one.label} and {base.label}"
    if not yardstick or not base.yardstick(metric):
        unknown = base.label if yardstick else one.label
        return Fault(f"{both}: what measured {metric} of {unknown} is not recorded; train it again", "--metric")
    if yardstick == base.yardstick(metric):
        return None
    if not one.has_tokens_of(base):
        return data_fault(metric, one, base, both)
    reason = f"{both} have the same data and other evaluators: the code or the options of what reports {metric} differ"
    remedy = f"values of two yardsticks say nothing about the change; restore the evaluator of {base.label}"
    return Fault(f"{reason}; {remedy}, or train both with the new one", "evaluator")


def data_fault(metric: str, one: Instrument, base: Instrument, both: str) -> Fault:
    """Of other text, or of the same text as other tokens."""
    shared = one.shared_metrics(base)
    if not shared and not (one.has_text_of(base) and has_other_tokenizer(one, base)):
        reason = f"{both} are not evaluated on the same text, so that {metric} does not compare"
        remedy = (
            "give both the same dataset and the same fractions for val and test, and train again where files changed"
        )
        return Fault(f"{reason}; {remedy}", "dataset")
    reason = f"{both} have other tokens of the same text, and {metric} depends on the tokens"
    if shared:
        of_split = [name for name in shared if name.partition("/")[0] == metric.partition("/")[0]]
        return Fault(f"{reason}; give --metric {' or '.join(of_split or shared)}, which does not", "--metric")
    if PER_BYTE in one.yardsticks and PER_BYTE in base.yardsticks:
        reason = f"{both} have other tokens, and some of them stand for unknown characters: they represent other texts"
        return Fault(f"{reason}; give both a tokenizer that knows all characters, as byte does", "tokenizer")
    remedy = f"add the evaluator bits_per_byte to both, train again, and give --metric {PER_BYTE}"
    return Fault(f"{reason}; {remedy}", "evaluator")


def has_other_tokenizer(one: Instrument, other: Instrument) -> bool:
    return one.data is not None and other.data is not None and one.data.tokenizer != other.data.tokenizer
