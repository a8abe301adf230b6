"""What a sweep would do: how many trials, tokens and hours, before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tomli

from nanogpt_kit.bench import rounds
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.launch.slots import allocate_slots
from nanogpt_kit.runs import metrics
from nanogpt_kit.runs.folder import RunFolder, runs_of_experiment
from nanogpt_kit.sweep.session import checked
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.sampler import first_rung
from nanogpt_kit.sweep.study.summary import sweep_folder
from nanogpt_kit.sweep.work.progress import in_time
from nanogpt_kit.train.precision import choose_device

TIMED_SECONDS = 2.0  # of steps, where no run of the experiment has told its speed
# Of a run's process: imports, data, model. Whole runs of a few tiny steps took 2.5 to 3.2 on two cores of an AMD EPYC.
START_SECONDS = 4.0


@dataclass(frozen=True)
class Rung:
    """Trials that are still there after so many tokens, if the pruner does as it is meant to."""

    tokens: int
    trials: float


def preview(base: Experiment, again: Callable[[], Experiment], nproc: int = 1) -> str:
    """For people. `again` loads the experiment in another process. Raises KitError where the sweep is wrong."""
    space, first = checked(base, nproc)
    options = space.options
    points = space.points()
    count = options.trials if points is None else min(options.trials, len(points))
    each = base.total_steps * base.train.batch_tokens
    most, expected = count * options.seeds * each, 0.0
    lines = [f"{count} trials{of(points)}, chosen by {options.sampler}, {options.metric} {options.direction}d"]
    lines += [f"  {key}: {words}" for key, words in space.described().items()]
    lines.append("trial 0, the experiment as written: " + ", ".join(f"{key} = {value}" for key, value in first.items()))
    seeds = f" with each of {options.seeds} seeds" if options.seeds > 1 else ""
    lines.append(f"each trains on {each:,} tokens ({base.total_steps:,} steps){seeds}")
    found = rungs(space, count, each)
    for rung in found:
        lines.append(f"  {options.pruner}: after {rung.tokens:,} tokens about {rung.trials:.0f} of them go on")
    expected = tokens_with(found, count, each) + (options.seeds - 1) * each * (found[-1].trials if found else count)
    if options.pruner != "none" and base.evaluate.every_steps >= base.total_steps:
        lines.append(f"  nothing is pruned: {options.metric} is first known at the end; lower evaluate.every_steps")
    lines.append(f"{most:,} tokens at most" + (f", about {expected:,.0f} with {options.pruner}" if found else ""))
    confirming = min(options.confirm, count) * options.confirm_seeds
    if confirming:
        lines.append(f"then the best {min(options.confirm, count)} with {options.confirm_seeds} fresh seeds each: ")
        lines[-1] += f"{confirming * each:,} tokens"
    runs = count + (options.seeds - 1) * (found[-1].trials if found else count) + confirming
    lines.append(duration(base, options, speed(base, again), expected + confirming * each, runs, nproc))
    for key in ("max_tokens", "max_seconds"):
        if getattr(options, key) is not None:
            lines.append(f"no trial begins after sweep.{key} = {getattr(options, key):,g}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Speed:
    """Of one run: tokens/s."""

    rate: float
    since: str  # how that is known
    threads: int | None  # that it was told to keep to; None: it had the whole machine


def duration(base: Experiment, options: Sweep, speed: Speed, tokens: float, runs: float, nproc: int) -> str:
    """How long it takes to start so many runs and to train them on so many tokens."""
    workers, rate, since = options.workers, speed.rate, speed.since
    device = choose_device(base.train.device)
    slot = allocate_slots(workers, device, nproc)[0]
    if workers > 1 and (device != "cpu" or speed.threads == (base.train.threads or slot.threads)):
        rate *= workers
        since += f"; {workers} at a time are counted as if each were as quick on its share"
    elif workers > 1:
        since += f"; {workers} at a time share the cores, and are counted as if they were together as quick as one"
    training, starting = tokens / rate, runs * START_SECONDS / workers
    if options.max_seconds is not None:
        done = min(1.0, options.max_seconds / workers / training)
        training, starting = done * training, done * starting
    return (
        f"about {in_time(training + starting)}: {in_time(training)} of training at {rate:,.0f} tokens/s ({since}), and "
        f"{in_time(starting)} until {runs:.0f} runs have started, {START_SECONDS:g} s each; evaluations are not counted"
    )


def of(points: object) -> str:
    return f" of {len(points):,} possible" if isinstance(points, list) else ""


def rungs(space: Space, count: int, each: int) -> list[Rung]:
    """Of asha and hyperband (its most eager bracket); the others promise no number."""
    options = space.options
    if options.pruner not in ("asha", "hyperband"):
        return []
    found, tokens, left = [], first_rung(options, each), float(count)
    while tokens < each:
        left = max(1.0, left / options.reduction_factor)
        found.append(Rung(tokens, left))
        tokens *= options.reduction_factor
    return found


def tokens_with(found: list[Rung], count: int, each: int) -> float:
    """What all trials train on, where those that do not go on end at their rung."""
    spent, before, left = 0.0, 0, float(count)
    for rung in found:
        spent += left * (rung.tokens - before)
        before, left = rung.tokens, rung.trials
    return spent + left * (each - before)


def speed(base: Experiment, again: Callable[[], Experiment]) -> Speed:
    """Of the newest run of this experiment, else measured now."""
    for folder in (*reversed(trials_of(base.name)), *reversed(runs_of_experiment(sweep_folder(base.name).parent))):
        told = [record["perf/tokens_per_second"] for record in metrics.read(folder.metrics) if "train/loss" in record]
        if told:
            threads = tomli.loads(folder.experiment.read_text(encoding="utf-8")).get("train", {}).get("threads")
            return Speed(sorted(told)[len(told) // 2], f"the median of {folder}", threads)
    try:
        timing = rounds.time_alternating([again], rounds=1, seconds=TIMED_SECONDS)[0]
    except RunFailed as error:
        raise RunFailed(f"the experiment as written cannot be timed: {error}") from error
    return Speed(timing.tokens_per_second, f"measured for {TIMED_SECONDS:g} seconds", base.train.threads)


def trials_of(name: str) -> list[RunFolder]:
    return runs_of_experiment(sweep_folder(name))
