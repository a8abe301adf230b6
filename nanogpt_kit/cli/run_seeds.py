"""`run --seeds N`: runs that differ in their seed alone, in sequence."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.run_launcher import FailedProcesses, RunLauncher
from nanogpt_kit.cli.run_result import RunResult
from nanogpt_kit.core.errors import INTERRUPTED, RunFailed, notes_of, printable
from nanogpt_kit.core.machine_choices import CALIBRATION
from nanogpt_kit.core.runs_to_come import expected_runs
from nanogpt_kit.runs.secrets import hide_in_command

if TYPE_CHECKING:
    from nanogpt_kit.comparison.seed_summary import SeedSummary
    from nanogpt_kit.core.experiment import Experiment

OTHER = "OTHER"  # stands for what the user compares with
NOT_A_CHANGE = ("train.seed", "train.steps", "train.max_", "train.batch_tokens", "dataset", "tokenizer", "evaluat")


def train_seeds(launcher: RunLauncher, experiment: Experiment, count: int) -> list[RunResult]:
    """Trains `count` runs in sequence; a run that fails does not end it. All compute as the first that has begun."""
    with ExitStack() as stack:
        return list(train_each_seed(launcher, experiment, count, stack))


def train_each_seed(launcher: RunLauncher, experiment: Experiment, count: int, stack: ExitStack) -> Iterator[RunResult]:
    first, last = experiment.train.seed, experiment.train.seed + count - 1
    shares_choices = False
    for seed in range(first, last + 1):
        click.echo(f"seed {seed}", err=True)
        try:
            one = replace(launcher, follows_seed=seed > first, precedes_seed=seed < last)
            with expected_runs(last - seed):
                result = train_seed(one, experiment, seed)
        except KeyboardInterrupt as error:
            error.add_note(remaining_seeds_note(range(seed, last + 1)))
            raise
        except SystemExit as error:  # of a run in several processes, which has printed its own note
            if error.code == INTERRUPTED:
                click.echo(remaining_seeds_note(range(seed, last + 1)), err=True)
            raise
        if result.error is not None and not isinstance(result.error, RunFailed | FailedProcesses):
            raise result.error  # a bug
        if isinstance(result.error, RunFailed):
            print_lines(f"run failed: {result.error}", err=True)
            click.echo(printable("\n".join(notes_of(result.error))), err=True)
        if result.folder is not None and not shares_choices:
            shares_choices = stack.enter_context(choices_of_run(result.folder.path))
        yield result


@contextmanager
def choices_of_run(folder: Path) -> Iterator[bool]:
    """While entered, runs of this process and of its children compute as that run has recorded, where it has."""
    from nanogpt_kit.runs.machine_choices import FILE_NAME

    record, before = folder / FILE_NAME, os.environ.get(CALIBRATION)
    if not record.exists():
        yield False
        return
    os.environ[CALIBRATION] = str(record.absolute())
    try:
        yield True
    finally:
        os.environ.pop(CALIBRATION)
        if before is not None:
            os.environ[CALIBRATION] = before


def train_seed(launcher: RunLauncher, experiment: Experiment, seed: int) -> RunResult:
    """Trains a run with that seed; with `resume` the newest run of this seed continues."""
    override = f"train.seed={seed}"
    layers = experiment.layers.copy()
    layers.override([override])
    seeded = type(experiment).of(layers, experiment.folder, launcher.trust_code)
    resume = launcher.resume
    if resume is not None:
        from nanogpt_kit.train.resume import find_done_or_unfinished

        finished, resume = find_done_or_unfinished(seeded)
        if finished:
            print_lines(f"already finished: {finished}", err=True)
            return RunResult(seeded.name, seed, finished, is_resumed=True, is_reused=True)
    return replace(launcher, overrides=(*launcher.overrides, override), resume=resume).train(seeded)


def remaining_seeds_note(seeds: range) -> str:
    """Which seeds an interrupted series has not finished, and the command that continues it."""
    if len(seeds) == 1:
        names, which = f"seed {seeds[0]} remains", ""
    elif len(seeds) == 2:
        names, which = f"seeds {seeds[0]} and {seeds[1]} remain", " both"
    else:
        names, which = f"seeds {seeds[0]} to {seeds[-1]} remain", " all"
    words = ["nanogpt-kit", *sys.argv[1:]]
    resume = [] if any(word.partition("=")[0] == "--resume" for word in words) else ["--resume"]
    return f"{names}; continue{which} with: {hide_in_command([*words, *resume])}"


def series_text(launcher: RunLauncher, results: Sequence[RunResult]) -> str:
    """The metrics over the finished runs, the failed seeds, and the command that compares; for people."""
    from nanogpt_kit.comparison.groups import seeds_text

    lines = [summary.text() for summary in summaries(results)]
    failed = [result.seed for result in results if not result.is_finished]
    if failed:
        lines.append(f"not finished: {seeds_text(failed)}")
    if len(failed) < len(results):
        lines.append(f"compare: {compare_command(launcher, results)}")
    return "\n".join(lines)


def series_record(launcher: RunLauncher, results: Sequence[RunResult]) -> dict[str, Any]:
    """The same for programs; the keys are listed in docs/guide/agents.md."""
    return {
        "runs": [result.record() for result in results],
        "metrics": {summary.metric: summary.record() for summary in summaries(results)},
        "failed": [result.seed for result in results if not result.is_finished],
        "compare": compare_command(launcher, results),
    }


def summaries(results: Sequence[RunResult]) -> list[SeedSummary]:
    from nanogpt_kit.comparison.seed_summary import summarize_seeds

    return summarize_seeds({result.seed: result.measured()["metrics"] for result in results if result.is_finished})


def compare_command(launcher: RunLauncher, results: Sequence[RunResult]) -> str:
    """The command that compares these runs: with the experiment as written where it was changed, else with another.

    Where the change is one of the seed, the budget or the data, the first of the runs stands for the base.
    """
    from nanogpt_kit.core.overrides import parse_override

    base, other = launcher.path, shlex.join(launcher.overrides) if launcher.overrides else OTHER
    keys = [".".join(map(str, parse_override(text)[0])) for text in launcher.overrides]
    finished = [result for result in results if result.is_finished]
    if finished and any(key.startswith(NOT_A_CHANGE) for key in keys):
        base, other = str(finished[0].folder), OTHER
    processes = ["--nproc", str(launcher.nproc)] if launcher.nproc > 1 else []
    return hide_in_command(["nanogpt-kit", "compare", base, other, "--seeds", str(len(results)), *processes])
