"""`nanogpt-kit run EXP`: prepare the data if needed, train, sample."""

from __future__ import annotations

import os
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load, read
from nanogpt_kit.cli.output import continue_unread
from nanogpt_kit.cli.paths import expand
from nanogpt_kit.cli.writing import show
from nanogpt_kit.core.errors import FAILED, KitError, RunFailed

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment


class WithBareResume(click.Command):
    """In `--resume optimizer.lr=1` the second word is an override and keeps its place among the others; in
    `--resume mine.toml` it is the experiment.

    A run's name has no "=" in it, and a run is not a file.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for at, (word, after) in enumerate(pairwise(args)):
            # unlike Path.exists, an override may be longer than a file's name can be
            is_run = os.path.exists(after) if "=" in after else not os.path.isfile(after)
            if word == "--resume" and not is_run:
                args[at] = "--resume="
        return super().parse_args(ctx, args)


@click.command(cls=WithBareResume)
@EXPERIMENT
@OVERRIDES
@click.option(
    "--resume",
    callback=expand,
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Continue RUN, or the newest run of this experiment that is not finished.",
)
@click.option(
    "--into", callback=expand, metavar="FOLDER", help="The run's folder: starts the run there, or continues it."
)
@click.option(
    "--seeds", type=click.IntRange(1), help="As many runs, one after the other: train.seed, train.seed + 1, ..."
)
@click.option("--nproc", type=click.IntRange(1), help="Processes on this machine; over several machines use torchrun.")
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

    KEY=VALUE overrides any option, as in optimizer.lr=3e-4 or model.attention=naive.
    """
    continue_unread()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and (nproc or seeds):
        raise KitError("torchrun has started several processes already; leave out --nproc and --seeds")
    if resume and seeds:
        raise KitError("--seeds goes on with the runs of its seeds; leave out the run after --resume")
    if into and (resume is not None or seeds):
        raise KitError("--into names the folder of one run, begun or not; leave out --resume and --seeds")
    launched = (nproc or 1) > 1  # the processes of the run load it again, and print its notes
    chosen = (read if launched else load)(experiment, overrides, trust_code, nproc or world_size)
    begin = partial(one, resume=resume, nproc=nproc or 1, trust_code=trust_code)
    if seeds is None:
        begin(chosen, (experiment, *overrides), into=into)
        return
    failed = []
    for seed in range(chosen.train.seed, chosen.train.seed + seeds):
        click.echo(f"seed {seed}", err=True)
        words = (*overrides, f"train.seed={seed}")
        try:
            begin(read(experiment, words, trust_code, nproc or 1), (experiment, *words), of_seeds=True)
        except (RunFailed, FailedRanks) as error:
            if isinstance(error, RunFailed):
                click.echo(f"run failed: {error}", err=True)
            failed.append(seed)
    if failed:
        raise RunFailed(f"{len(failed)} of {seeds} runs, with seeds {', '.join(map(str, failed))}")


class FailedRanks(SystemExit):
    """A run in several processes that failed, as one of them has told."""


def one(
    chosen: Experiment,
    words: tuple[str, ...],
    resume: str | None,
    nproc: int,
    trust_code: bool,
    of_seeds: bool = False,
    into: str | None = None,
) -> None:
    """A run, in this process or in several; `words` are the command's that gave `chosen`.

    With `of_seeds`, `resume` continues what there is of this seed.
    """
    if of_seeds and resume is not None:
        from nanogpt_kit.train.resume import done_or_unfinished

        done, resume = done_or_unfinished(chosen)
        if done:
            click.echo(f"finished already: {done}", err=True)
            return
    if into:
        from nanogpt_kit.runs.folder import RunFolder
        from nanogpt_kit.train.resume import is_done_in

        if is_done_in(RunFolder(Path(into)), chosen, trust_code):
            click.echo(f"finished already: {into}", err=True)
            return
    if nproc > 1:
        in_processes(nproc, words, resume, trust_code, into)
        return
    import rich

    from nanogpt_kit.runs import samples
    from nanogpt_kit.train import session

    rich.reconfigure(stderr=True)  # progress there, text that the model wrote on stdout
    folder = session.run(chosen, resume, trust_code, Path(into) if into else None)
    if int(os.environ.get("RANK", "0")):
        return
    if folder.samples.exists():
        show(samples.newest(folder.samples))
    click.echo(f"finished: {folder}", err=True)


def in_processes(nproc: int, words: tuple[str, ...], resume: str | None, trust_code: bool, into: str | None) -> None:
    """The same command in each of them; what ends one ends this one, and is printed there.

    The storage of a sweep is left out: a run does not use it, and its password would be in the list of processes.
    """
    from nanogpt_kit.core.layers import parse_override
    from nanogpt_kit.launch.processes import start

    experiment, *overrides = words
    overrides = [word for word in overrides if parse_override(word)[0][0] != "sweep" or "storage" not in word]
    arguments = ["run", experiment, *overrides, *(["--trust-code"] if trust_code else [])]
    if resume is not None:
        arguments += [f"--resume={resume}"]
    if into:
        arguments.append(f"--into={into}")
    code = start(nproc, arguments)
    if code == FAILED:
        raise FailedRanks(code)
    if code:
        sys.exit(code)
