"""comparison.json: a question, what was measured, and the verdicts; the ledger consists of these records."""

from __future__ import annotations

import importlib
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from nanogpt_kit.core.errors import printable
from nanogpt_kit.runs.record import AnyText, NamesRecord, RecordPart
from nanogpt_kit.runs.status import Cause, EndedBy, State

Verdict = Literal["better", "worse", "undecided"]

T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(strict=False)]  # a list in JSON
Change = Annotated[tuple[str | None, str | None], Field(strict=False)]  # values as TOML: of the base, of the contender


class ArmRecord(RecordPart):
    """An arm; the first of a comparison is the base."""

    label: AnyText  # name of the arm in tables
    experiment: str  # its name
    configuration: str  # Experiment.configuration()
    changes: dict[
        str, Annotated[tuple[str | None, str | None], Field(strict=False)]
    ] = {}  # against the base, as TOML; empty for the base


class Measurement(RecordPart):
    """One run of an arm. A run that did not finish has no value."""

    arm: int  # index
    seed: int  # of the run
    run: AnyText  # its folder
    state: State  # of the run
    cause: Cause | None = None  # why it did not finish
    reason: AnyText = ""  # the same for people, or why a finished run has no value
    is_reused: bool = False  # answered from a run that was finished before
    value: float | None = None  # of the metric, at the last full evaluation
    steps: int = 0  # taken
    tokens: int = 0  # trained on
    seconds: float = 0.0  # spent in steps
    ended_by: EndedBy | None = None  # the limit, callback or signal that ended the run
    tokens_per_second: float | None = None  # median over the logged steps
    memory_bytes: int | None = None  # peak
    parameters: int | None = None  # of the model, tied ones once


class Judgement(RecordPart):
    """What differences by seed show."""

    seeds: Listed[int]  # the pairs
    difference: float | None = None  # mean over pairs of contender minus base, in units of the metric
    difference_sd: float | None = Field(None, ge=0)  # standard deviation of the differences of the pairs
    low: float | None = None  # of the interval of the difference
    high: float | None = None  # of the interval of the difference
    level: float = Field(0.95, gt=0, lt=1)  # of the interval; higher after several looks, and for several contenders
    p_value: float | None = None  # of the paired t test
    verdict: Verdict = "undecided"  # better or worse where the whole interval is
    more_seeds: int | None = None  # that would decide it, were mean and sd to stay; None: decided, or too many
    reason: str = ""  # why it is undecided, besides its interval


class Result(Judgement):
    """A contender against the base, over the seeds that both have."""

    arm: int  # index
    mean: float | None = None  # of the contender, over its own seeds
    sd: float | None = None  # standard deviation of the contender over its own seeds
    wins: int = 0  # pairs in which the contender is better


class Effect(Judgement):
    """The effect of a level of a factor, or of two together, on average over the levels of all other factors."""

    factors: Listed[AnyText]  # one, or two for an interaction: what both change beyond the sum of their effects
    levels: Listed[AnyText]  # of each, against its first level

    @model_validator(mode="after")
    def check_levels(self) -> Self:
        if len(self.factors) != len(self.levels):
            raise ValueError("an effect has as many levels as factors")
        return self


class Look(RecordPart):
    """A judgement; each later look at the same two arms takes a wider interval."""

    seeds: Listed[int]  # the pairs that were judged
    values: str = ""  # hash of the judged values: the same seeds with the same values again are the same look
    time: float  # seconds since 1970


class Comparison(NamesRecord):
    """A whole comparison."""

    max_bytes: ClassVar[int] = 1 << 24

    id: str  # the name of its folder
    kind: Literal["compare", "ablate", "noise"]  # the question; noise: of one arm, how much its seeds differ
    command: AnyText  # as it was given
    text: AnyText = ""  # the user's reason to ask
    started: float  # seconds since 1970, when the question was first asked
    time: float  # of this look
    metric: str  # that is compared
    direction: Literal["minimize", "maximize"]  # of the better value
    yardstick: str  # identifies what measured the metric, and on which text
    budget: str = ""  # "1,500 steps", for people
    arms: Listed[ArmRecord]
    looks: Listed[Look]
    measurements: Listed[Measurement]
    results: Listed[Result]
    effects: Listed[Effect] = ()  # of a full factorial
    notes: Listed[AnyText] = ()  # what the reader should know: other threads, other code
    seconds: float = 0.0  # spent in steps of runs that this comparison started
    seconds_reused: float = 0.0  # of runs that were finished before
    tries: int = 0  # contenders compared with this base and metric so far, in the whole ledger
    luck: float | None = None  # by which the best of as many equal contenders is expected to look better

    @model_validator(mode="after")
    def check_arms(self) -> Self:
        indices = [*(one.arm for one in self.measurements), *(one.arm for one in self.results)]
        if not self.arms or not all(0 <= index < len(self.arms) for index in indices):
            raise ValueError("it names arms that it does not have")
        return self

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each contender, by its label."""
        return {self.arms[result.arm].label: result.verdict for result in self.results}

    def __str__(self) -> str:
        """What `nanogpt-kit compare` prints."""
        lines: list[str] = importlib.import_module("nanogpt_kit.comparison.text").comparison_lines(self)
        return printable("\n".join(lines))

    def __repr__(self) -> str:
        """One line."""
        verdicts = ", ".join(f"{label} {verdict}" for label, verdict in self.verdicts.items()) or self.kind
        seeds = sorted({one.seed for one in self.measurements} or {seed for one in self.results for seed in one.seeds})
        text = f"<Comparison with {self.arms[0].label}: {verdicts}; {self.metric}, seeds {seeds}>"
        return printable(text.replace("\n", " "))
