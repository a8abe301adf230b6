"""`nanogpt-kit run EXPERIMENT`: prepare the data if needed, train, sample."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.candidates import folder_candidates, run_candidates
from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment, without_garbage_collection
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.cli.texts import print_generated
from nanogpt_kit.core.errors import FAILED, KitError, RunFailed

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment


class RunCommand(click.Command):
    """`--resume` takes a run or nothing: in `--resume optimizer.lr=1` and `--resume mine.toml` it has no value.

    The next word is a run unless it has a "=" or is a file; it then keeps its place among the arguments.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, (word, following) in enumerate(pairwise(args)):
            # os.path.exists, unlike Path.exists, accepts an override that is longer than a file's name can be
            is_run = os.path.exists(following) if "=" in following else not os.path.isfile(following)
            if word == "--resume" and not is_run:
                args[index] = "--resume="
        return super().parse_args(ctx, args)


@click.command(cls=RunCommand)
@EXPERIMENT
@OVERRIDES
@click.option(
    "--resume",
    callback=expand_path_argument,
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    shell_complete=run_candidates,
    help="Resume RUN, or the newest unfinished run of this experiment.",
)
@click.option(
    "--into",
    callback=expand_path_argument,
    metavar="FOLDER",
    shell_complete=folder_candidates,
    help="Folder of the run: created, or resumed if a run is in it.",
)
@click.option(
    "--seeds", type=click.IntRange(1), help="Train this many runs in sequence, with train.seed, train.seed + 1, ..."
)
@click.option(
    "--nproc", type=click.IntRange(1), help="Processes on this machine; for several machines start it with torchrun."
)
@TRUST
def run(
    experiment: str,
    overrides: tuple[str, ...],
    resume: str | None,
    into: str | None,
    seeds: int | None,
    nproc: int | None,
    trust_code: bool,
) -> None:
    """Train EXPERIMENT: prepare its data if needed, train, evaluate, sample.

    EXPERIMENT is a .toml file, or a name: that of a file in the current folder without .toml, or of an experiment that
    is shipped (`nanogpt-kit experiments list`). KEY=VALUE overrides any option, as in optimizer.lr=3e-4 or
    model.attention=naive.
    """
    continue_without_reader()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and (nproc or seeds):
        raise KitError("torchrun has already started several processes; remove --nproc and --seeds")
    if resume and seeds:
        raise KitError("--seeds resumes the newest run of each seed; remove the run after --resume")
    if into and (resume is not None or seeds):
        raise KitError("--into names the folder of a single run, new or not; remove --resume and --seeds")
    chosen = load_experiment(experiment, overrides, trust_code, nproc or world_size)
    launch = RunLauncher(experiment, overrides, resume, into, nproc or 1, trust_code)
    if seeds is None:
        launch.train(chosen)
    else:
        launch.train_seeds(chosen, seeds)


class FailedProcesses(SystemExit):
    """A run in several processes failed; one of them has printed why."""


@dataclass(frozen=True)
class RunLauncher:
    """Starts runs with the options of the command."""

    path: str
    overrides: tuple[str, ...]
    resume: str | None  # "": the newest unfinished run
    into: str | None
    nproc: int
    trust_code: bool

    def train_seeds(self, experiment: Experiment, count: int) -> None:
        """Trains `count` runs in sequence. Raises RunFailed at the end if one failed."""
        first, failed = experiment.train.seed, []
        for seed in range(first, first + count):
            click.echo(f"seed {seed}", err=True)
            try:
                self.train_seed(experiment, seed)
            except (RunFailed, FailedProcesses) as error:
                if isinstance(error, RunFailed):
                    click.echo(f"run failed: {error}", err=True)
                failed.append(seed)
        if failed:
            raise RunFailed(f"{len(failed)} of {count} runs, with seeds {', '.join(map(str, failed))}")

    def train_seed(self, experiment: Experiment, seed: int) -> None:
        """Trains a run with that seed; with `resume` the newest run of this seed continues."""
        override = f"train.seed={seed}"
        layers = experiment.layers.copy()
        layers.override([override])
        seeded = type(experiment).of(layers, experiment.folder, self.trust_code)
        resume = self.resume
        if resume is not None:
            from nanogpt_kit.train.resume import find_done_or_unfinished

            finished, resume = find_done_or_unfinished(seeded)
            if finished:
                click.echo(f"already finished: {finished}", err=True)
                return
        replace(self, overrides=(*self.overrides, override), resume=resume).train(seeded)

    def train(self, experiment: Experiment) -> None:
        """Trains one run, in this process or in several."""
        if self.into:
            from nanogpt_kit.runs.folder import RunFolder
            from nanogpt_kit.train.resume import has_done_run

            if has_done_run(RunFolder(Path(self.into)), experiment, self.trust_code):
                click.echo(f"already finished: {self.into}", err=True)
                return
        if self.nproc > 1:
            self.start_processes()
            return
        import rich

        with without_garbage_collection():
            from nanogpt_kit.runs import samples
            from nanogpt_kit.train import session

        rich.reconfigure(stderr=True)  # progress goes to stderr, generated text to stdout
        folder = session.run(experiment, self.resume, self.trust_code, Path(self.into) if self.into else None)
        if int(os.environ.get("RANK", "0")):
            return
        if folder.samples.exists():
            print_generated(samples.newest_samples(folder.samples))
        click.echo(f"finished: {folder}", err=True)

    def start_processes(self) -> None:
        """Runs the same command in `nproc` processes; if one fails, this process exits with its code.

        The storage of a sweep is left out: a run does not use it, and the list of processes would show its password.
        """
        from nanogpt_kit.core.layers import parse_override
        from nanogpt_kit.launch.processes import run_ranks

        overrides = [text for text in self.overrides if parse_override(text)[0][0] != "sweep" or "storage" not in text]
        arguments = ["run", self.path, *overrides, *(["--trust-code"] if self.trust_code else [])]
        if self.resume is not None:
            arguments += [f"--resume={self.resume}"]
        if self.into:
            arguments.append(f"--into={self.into}")
        code = run_ranks(self.nproc, arguments)
        if code == FAILED:
            raise FailedProcesses(code)
        if code:
            sys.exit(code)
