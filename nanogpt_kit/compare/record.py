"""comparison.json: a question, what was measured, and the verdicts; the ledger consists of these records."""

from __future__ import annotations

from typing import ClassVar, Literal

from nanogpt_kit.runs.record import AnyText, Record, RecordPart
from nanogpt_kit.runs.status import Cause, EndedBy, State

Verdict = Literal["better", "worse", "undecided"]


class ArmRecord(RecordPart):
    """An arm; the first of a comparison is the base."""

    label: AnyText
    experiment: str  # its name
    configuration: str  # Experiment.configuration()
    changes: dict[str, tuple[str | None, str | None]] = {}  # against the base, as TOML; empty for the base


class Measurement(RecordPart):
    """One run of an arm. A run that did not finish has no value."""

    arm: int  # index
    seed: int
    run: AnyText  # its folder
    state: State
    cause: Cause | None = None  # why it did not finish
    reason: AnyText = ""  # the same for people, or why a finished run has no value
    is_reused: bool = False  # answered from a run that was finished before
    value: float | None = None  # of the metric, at the last full evaluation
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent in steps
    ended_by: EndedBy | None = None
    tokens_per_second: float | None = None  # median over the logged steps
    memory_bytes: int | None = None  # peak
    parameters: int | None = None


class Judgement(RecordPart):
    """What differences by seed show."""

    seeds: tuple[int, ...]  # the pairs
    difference: float | None = None  # mean over pairs of contender minus base, in units of the metric
    difference_sd: float | None = None
    low: float | None = None  # of the interval of the difference
    high: float | None = None
    level: float = 0.95  # of the interval; wider after several looks, and for several contenders (Holm)
    p_value: float | None = None  # of the paired t test
    verdict: Verdict = "undecided"
    more_seeds: int | None = None  # that would decide it, were mean and sd to stay; None: decided, or too many
    reason: str = ""  # why it is undecided, besides its interval


class Result(Judgement):
    """A contender against the base, over the seeds that both have."""

    arm: int  # index
    mean: float | None = None  # of the contender, over its own seeds
    sd: float | None = None
    wins: int = 0  # pairs in which the contender is better


class Effect(Judgement):
    """The effect of a level of a factor, or of two together, on average over the levels of all other factors."""

    factors: tuple[AnyText, ...]  # one, or two for an interaction: what both change beyond the sum of their effects
    levels: tuple[AnyText, ...]  # of each, against its first level


class Look(RecordPart):
    """A judgement; each later look at the same question takes a wider interval."""

    seeds: tuple[int, ...]
    values: str = ""  # hash of the judged values: the same seeds with the same values again are the same look
    time: float  # seconds since 1970


class Comparison(Record):
    """A whole comparison."""

    max_bytes: ClassVar[int] = 1 << 24

    id: str
    kind: Literal["compare", "ablate", "noise"]
    command: AnyText
    text: AnyText = ""  # the user's reason to ask
    started: float  # seconds since 1970
    time: float  # of this look
    metric: str
    direction: Literal["minimize", "maximize"]
    yardstick: str
    budget: str = ""  # "1,500 steps", for people
    arms: tuple[ArmRecord, ...]
    looks: tuple[Look, ...]
    measurements: tuple[Measurement, ...]
    results: tuple[Result, ...]
    effects: tuple[Effect, ...] = ()  # of a full factorial
    notes: tuple[AnyText, ...] = ()  # what the reader should know: other threads, other code
    seconds: float = 0.0  # spent in steps of runs that this comparison started
    seconds_reused: float = 0.0  # of runs that were finished before
    tries: int = 0  # contenders compared with this base and metric so far, in the whole ledger
    luck: float | None = None  # by which the best of as many equal contenders is expected to look better
