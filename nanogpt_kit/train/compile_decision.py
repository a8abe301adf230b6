"""Whether compiling pays: what it saves of the work that is left, against what it costs now and in later runs.

The seconds are those that this machine took for the same graph before, where they were measured, and estimates where
they were not. A first run that decides by estimates measures, so that the next one decides by facts.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt_kit.core.experiment import Experiment

# Estimates, for what was not measured on this machine yet; from two cores of an AMD EPYC.
SECONDS_PER_BLOCK = 7.0  # with an empty cache: 29 s for 4 blocks, 48 for 6, 81 for 12; not measured on GPUs
WARM_FRACTION = 0.1  # of that, where the cache has the graph: 3 s for 4 blocks
MOST_WARM_FRACTION = 0.2  # of what it took with an empty cache; more was measured under load
GPU_GAIN = 0.4  # fraction of a pass: 250 -> 135 ms a step for GPT-2 124M on A100s (nanoGPT's README)
CPU_GAIN = {"bf16": 0.1}  # 0.09 at 384 wide, 0.11 for GPT-2 124M; in fp32 within the noise
NARROW_GAIN = {"bf16": 0.4}  # 42.1 -> 24.0 ms for the passes of a step at 128 wide (4 blocks, Zen 4)
NARROW_BLOCK = 1_000_000  # parameters: 0.2 million at 128 wide, 1.8 million at 384

# What is saved, over what is paid, from which on compiling pays
MIN_GAIN_ESTIMATED = 1.5  # the fraction that is gained differs between networks
MIN_GAIN_MEASURED = 1.2  # measurements of one graph differ by a tenth between runs


@dataclass(frozen=True)
class Seconds:
    """What one graph takes on one machine; None: not measured."""

    cold: float | None = None  # to compile it with an empty cache
    warm: float | None = None  # to compile it where the cache has it
    eager: float | None = None  # of the passes of a step, uncompiled
    compiled: float | None = None  # of the same passes, compiled
    passes: float = 0  # that runs have begun to make uncompiled, as long as it was never compiled

    @property
    def is_warm(self) -> bool:
        """Whether it has been compiled here: what is measured is kept beside the cache that has the graph."""
        return self.cold is not None or self.warm is not None

    @property
    def is_confirmed(self) -> bool:
        """Whether two runs have compiled the graph and timed its passes; a single one may have been disturbed."""
        return None not in (self.cold, self.warm, self.eager, self.compiled)


@dataclass(frozen=True)
class Work:
    """The passes that are left to this run, and the runs of the same graph that follow it."""

    passes: float  # over the batches that are timed: as many as steps, unless schedules change batches
    max_seconds: float | None = None  # that this run trains at most
    runs_to_come: int = 0

    @classmethod
    def of(cls, experiment: Experiment, step: int, runs_to_come: int) -> Work:
        """What is left after `step` steps."""
        plan, left = experiment.step_plan, experiment.total_steps - step
        passes = float(left)
        if not plan.has_equal_steps and left:
            timed = plan.at(step).n_windows + plan.at(experiment.total_steps - 1).n_windows
            passes *= plan.total_tokens / (plan.total_steps * plan.block_size * timed)
        return cls(passes, experiment.train.max_seconds, runs_to_come)

    def passes_within(self, seconds: float) -> float:
        """Those of this run, where each takes that long."""
        return self.passes if self.max_seconds is None else min(self.passes, self.max_seconds / seconds)


@dataclass(frozen=True)
class Decision:
    """Whether to compile, and why."""

    compiles: bool
    why: str


def estimated_gain(device: str, precision: str, block_parameters: int) -> float:
    """The fraction of a pass that compiling saves, roughly; 0 where none is expected."""
    if device != "cpu":
        return GPU_GAIN if device == "cuda" else 0.0
    return (NARROW_GAIN if 0 < block_parameters < NARROW_BLOCK else CPU_GAIN).get(precision, 0.0)


def decide(work: Work, known: Seconds, eager: float, gain: float, blocks: int) -> Decision:
    """Whether compiling pays where a step's passes take `eager` seconds uncompiled.

    `known` has priority over the estimates: `gain`, and the seconds that a network of `blocks` blocks takes to compile.
    The runs that follow train as long as this one does, and find the graph in the cache. How many follow is seldom
    known; as many as before are likely, so what compiling would have saved in earlier runs counts, too.
    """
    is_measured = bool(known.compiled and known.eager)
    if known.compiled and known.eager:
        gain = 1 - known.compiled / known.eager
    if gain <= 0:
        how = "was measured" if is_measured else "is expected"
        return Decision(False, f"no gain {how} for this model")
    seconds = work.passes_within(eager) * eager
    usual = SECONDS_PER_BLOCK * max(1, blocks)
    cold = known.cold if known.cold is not None else usual
    warm = WARM_FRACTION * min(cold, usual)  # cold may have been under load
    if known.warm is not None:  # a run that does not compile would never correct a time that is too long
        warm = known.warm if known.cold is None else min(known.warm, MOST_WARM_FRACTION * cold)
    runs = 1 + work.runs_to_come
    before = 0.0 if known.is_warm else gain * known.passes * eager
    saved, cost = gain * seconds * runs, (warm if known.is_warm else cold) + work.runs_to_come * warm
    # Where the cost is known, a run that compiles measures the gain for those that follow
    least = MIN_GAIN_MEASURED if is_measured or known.is_warm else MIN_GAIN_ESTIMATED
    of_runs = f" of {runs} runs" if runs > 1 else ""
    source = "measured here before" if is_measured else "estimated"
    state = "a warm" if known.is_warm else "an empty"
    why = f"saves {saved:,.0f} of {seconds * runs:,.0f} s{of_runs} and costs {cost:,.0f} s with {state} cache; {source}"
    if before:
        why += f"; earlier runs would have saved {before:,.0f} s"
    return Decision(saved + before > least * cost, why)
