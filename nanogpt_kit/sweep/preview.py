"""The preview of a sweep: its trials, tokens and estimated hours; nothing is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import tomli

from nanogpt_kit.bench import rounds
from nanogpt_kit.comparison.numbers import count_text, joined_names
from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.sections import Ablate, Sweep
from nanogpt_kit.launch.slots import allocate_slots
from nanogpt_kit.runs import metrics
from nanogpt_kit.runs.folder import runs_of_experiment
from nanogpt_kit.sweep.session import check_sweep
from nanogpt_kit.sweep.space.parameters import Config, format_value
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.allocation import SHOWN_BRANCHES, allocation_lines, branch_count, trial_count
from nanogpt_kit.sweep.study.branches import find_branches
from nanogpt_kit.sweep.study.confirmation import most_confirmed
from nanogpt_kit.sweep.study.sampler import first_rung_tokens
from nanogpt_kit.sweep.study.summary import sweep_folder
from nanogpt_kit.sweep.study.trial_steps import find_trial_steps
from nanogpt_kit.sweep.study.warmup import idle_pruner_reason, most_compared
from nanogpt_kit.sweep.work.budget import KEYS, MIN_TRIALS
from nanogpt_kit.sweep.work.warnings_at_start import warnings_at_start
from nanogpt_kit.train.precision import choose_device

TIMED_SECONDS = 2.0  # of steps, if no run of the experiment has recorded its speed
# Until a run's process takes its first step: imports, data, model. Whole runs of a few tiny steps took 2.5 to 3.2
# seconds on two cores of an AMD EPYC.
START_SECONDS = 4.0


@dataclass(frozen=True)
class Rung:
    """A number of tokens at which a pruner ends trials, and how many trials it is expected to keep."""

    tokens: int
    trials: float


@dataclass(frozen=True)
class RunSpeed:
    """The measured or recorded speed of one run."""

    tokens_per_second: float
    source: str  # of this figure, as text
    threads: int | None  # train.threads of the run; None: it had the whole machine


def preview_sweep(base: Experiment, load_again: Callable[[], Experiment], nproc: int = 1) -> str:
    """The preview as text. Raises KitError if the sweep is not valid.

    `load_again` loads the experiment in another process.
    """
    space, first = check_sweep(base, nproc)
    options, tokens, count = space.options, space.trial_tokens, trial_count(space)
    steps, compared = find_trial_steps(space), most_compared(options, count, len(find_branches(space)))
    idle = idle_pruner_reason(options, tokens, steps, compared)
    rungs = [] if idle else expected_rungs(options, count, tokens, branch_count(space))
    unpruned = rungs[-1].trials if rungs else count
    expected = expected_tokens(rungs, count, tokens) + (options.seeds - 1) * tokens * unpruned
    fresh_runs = most_confirmed(options, len(find_branches(space)), count) * options.confirm_seeds
    total, runs = expected + fresh_runs * tokens, count + (options.seeds - 1) * unpruned + fresh_runs
    fraction = 1.0 if options.max_tokens is None else min(1.0, options.max_tokens / total)
    speed = estimate_speed(base, load_again)
    lines = [
        *space_lines(space, first, count),
        *(
            f"  {options.pruner}: about {rung.trials:.0f} of them continue after {rung.tokens:,} tokens"
            for rung in rungs
        ),
        *([f"  nothing is pruned: {idle}"] if idle else []),
        f"{count * options.seeds * tokens:,} tokens at most"
        + (f", about {expected:,.0f} with {options.pruner}" if rungs else ""),
        *confirmation_lines(space, count, fresh_runs),
        estimate_duration(base, options, speed, fraction * total, fraction * runs, nproc).text,
        *budget_lines(options, tokens / speed.tokens_per_second),
        *(f"warning: {one}" for one in warnings_at_start(options, tokens, steps, compared)),
    ]
    return "\n".join(lines)


def space_lines(space: Space, first: Config, count: int) -> Iterator[str]:
    """The trials, what they vary, how they are divided among branches, and the tokens of each."""
    options, points, branches = space.options, space.points(), find_branches(space)
    possible = "" if points is None else f" of {len(points):,} possible"
    yield f"{count_text(count, 'trial')}{possible}, chosen by {options.sampler}, {options.metric} {options.direction}d"
    yield from (f"  {key}: {text.removeprefix('= ')}" for key, text in space.describe().items())
    yield from allocation_lines(space)
    if branches and options.allocate == "sampler" and (points is None or count < len(points)):
        labels = "; ".join(branch.label for branch in branches[:SHOWN_BRANCHES])
        more = f"; and {len(branches) - SHOWN_BRANCHES} more" if len(branches) > SHOWN_BRANCHES else ""
        yield f"{options.sampler} divides them among {len(branches)} branches ({labels}{more}), perhaps unequally"
        yield '  sweep.allocate = "equal" gives each branch as many trials'
    yield "trial 0, the experiment as written: " + ", ".join(
        f"{key} = {format_value(value)}" for key, value in first.items()
    )
    seeds = f" with each of {options.seeds} seeds" if options.seeds > 1 else ""
    yield f"each trains on {space.trial_tokens:,} tokens ({space.base.total_steps:,} steps){seeds}"


def confirmation_lines(space: Space, count: int, fresh_runs: int) -> Iterator[str]:
    """The runs with fresh seeds, at most: only the results of the search decide which trials they are."""
    options, branches = space.options, find_branches(space)
    if not fresh_runs:
        return
    best = min(options.confirm, count)
    which = [f"the best {best}" if best > 1 else "the best trial", "trial 0"]
    which += [f"the best of each of {len(branches)} branches"] if branches else []
    trials = fresh_runs // options.confirm_seeds
    yield f"then {joined_names(which)} again, with {options.confirm_seeds} fresh seeds:"
    runs = f"{count_text(fresh_runs, 'run')} of {count_text(trials, 'trial')}"
    yield f"  {runs} and {fresh_runs * space.trial_tokens:,} tokens at most"


def budget_lines(options: Sweep, run_seconds: float) -> Iterator[str]:
    """When the search ends; `run_seconds` is the estimate for a run that is not pruned."""
    needed = MIN_TRIALS * (options.seeds + options.confirm_seeds) * run_seconds
    for key in KEYS:
        if getattr(options, key) is not None:
            earlier = "; the search ends earlier, to leave room for the confirmation" if options.confirm else ""
            yield f"no trial starts after sweep.{key} = {getattr(options, key):,g}{earlier}"
    if options.confirm and options.max_seconds is not None and options.max_seconds < needed:
        yield (
            f"warning: sweep.max_seconds = {options.max_seconds:g} is probably too small for a confirmation: two "
            f"trials with their fresh seeds need about {needed:,.0f} seconds"
        )


def expected_rungs(options: Sweep, count: int, tokens: int, branches: int = 1) -> list[Rung]:
    """The rungs of asha, or of hyperband's bracket with the earliest first rung, in trials of `tokens`.

    Trials are compared within each of `branches`, one of which always continues. Empty for other pruners: how many
    trials they end cannot be predicted.
    """
    if options.pruner not in ("asha", "hyperband"):
        return []
    rungs, at, left = [], first_rung_tokens(options, tokens), float(count)
    while at < tokens:
        left = max(float(branches), left / options.reduction_factor)
        rungs.append(Rung(at, left))
        at *= options.reduction_factor
    return rungs


def expected_tokens(rungs: list[Rung], count: int, tokens: int) -> float:
    """The tokens of all trials, if those that do not continue end at their rung."""
    total, before, left = 0.0, 0, float(count)
    for rung in rungs:
        total += left * (rung.tokens - before)
        before, left = rung.tokens, rung.trials
    return total + left * (tokens - before)


@dataclass(frozen=True)
class Duration:
    """An estimate of time."""

    seconds: float
    text: str  # the same, and where it comes from


def estimate_duration(
    base: Experiment, options: Sweep | Ablate, speed: RunSpeed, tokens: float, runs: float, nproc: int
) -> Duration:
    """The time to start `runs` runs and to train them on `tokens` tokens in all."""
    workers, rate, source = options.workers, speed.tokens_per_second, speed.source
    device = choose_device(base.train.device)
    slot = allocate_slots(workers, device, nproc)[0]
    if workers > 1 and (device != "cpu" or speed.threads == (base.train.threads or slot.threads)):
        rate *= workers
        source += f"; assuming that each of {workers} parallel runs is as fast in its slot"
    elif workers > 1:
        source += f"; {workers} parallel runs share the cores: assuming that together they are as fast as one"
    training, starting = tokens / rate, runs * START_SECONDS / workers
    if base.train.max_seconds is not None:
        training = min(training, runs * base.train.max_seconds / workers)
    if isinstance(options, Sweep) and options.max_seconds is not None:
        fraction = min(1.0, options.max_seconds / workers / training)
        training, starting = fraction * training, fraction * starting
    return Duration(
        training + starting,
        f"about {format_duration(training + starting)}: {format_duration(training)} of training at {rate:,.0f} tokens/s"
        f" ({source}), and {format_duration(starting)} for {runs:.0f} run{'s' if round(runs) != 1 else ''} to start, "
        f"{START_SECONDS:g} s each; without evaluations",
    )


def estimate_speed(base: Experiment, load_again: Callable[[], Experiment]) -> RunSpeed:
    """The speed of the newest trial or run of this experiment, otherwise measured now."""
    folder = sweep_folder(base.name)
    for run in (*reversed(runs_of_experiment(folder)), *reversed(runs_of_experiment(folder.parent))):
        rates = [
            record["perf/tokens_per_second"] for record in metrics.read_metrics(run.metrics) if "train/loss" in record
        ]
        if rates:
            threads = tomli.loads(run.experiment.read_text(encoding="utf-8")).get("train", {}).get("threads")
            return RunSpeed(sorted(rates)[len(rates) // 2], f"the median of {run}", threads)
    try:
        timing = rounds.time_alternating([load_again], rounds=1, seconds=TIMED_SECONDS)[0]
    except RunFailed as error:
        raise RunFailed(f"the experiment as written cannot be timed: {error}") from error
    return RunSpeed(timing.tokens_per_second, f"measured for {TIMED_SECONDS:g} seconds", base.train.threads)
