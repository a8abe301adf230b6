"""`nanogpt-kit run EXPERIMENT`: prepare the data if needed, train, sample."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.candidates import folder_candidates, run_candidates
from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment, without_garbage_collection
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.cli.resume_option import RunCommand
from nanogpt_kit.cli.texts import print_generated
from nanogpt_kit.cli.verbose import VERBOSE, is_verbose
from nanogpt_kit.core.errors import FAILED, INTERRUPTED, KitError, RunFailed, notes_of, printable
from nanogpt_kit.runs.secrets import hide_in_command

if TYPE_CHECKING:
    from nanogpt_kit.cli.run_reference import NamedRun
    from nanogpt_kit.core.experiment import Experiment


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
    help="Resume RUN, or the newest unfinished run of EXPERIMENT.",
)
@click.option(
    "--extend",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Train a run for this many steps more than it was made for.",
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
@VERBOSE
@TRUST
def run(
    experiment: str,
    overrides: tuple[str, ...],
    resume: str | None,
    extend: int | None,
    into: str | None,
    seeds: int | None,
    nproc: int | None,
    trust_code: bool,
) -> None:
    """Train EXPERIMENT: prepare its data if needed, train, evaluate, sample.

    EXPERIMENT is a .toml file, or a name: that of a file in the current folder without .toml, or of an experiment that
    is shipped (`nanogpt-kit experiments list`). KEY=VALUE overrides any option, as in optimizer.lr=3e-4 or
    model.attention=naive.

    EXPERIMENT may also be a run folder or a run id: that run continues with its own settings.
    """
    continue_without_reader()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and (nproc or seeds):
        raise KitError("torchrun has already started several processes; remove --nproc and --seeds")
    if resume and seeds:
        raise KitError("--seeds resumes the newest run of each seed; remove the run after --resume")
    if into and (resume is not None or seeds):
        raise KitError("--into names the folder of a single run, new or not; remove --resume and --seeds")
    from nanogpt_kit.cli import run_reference

    named = run_reference.find_named_run(experiment)
    if named is None and resume == "" and seeds is None and run_reference.is_bare_name(experiment):
        named = run_reference.newest_unfinished_run(experiment, overrides, trust_code)
    if named is None:
        if extend:
            raise KitError(run_reference.extend_remedy(experiment, extend, resume))
        chosen = load_experiment(experiment, overrides, trust_code, nproc or world_size)
    else:
        named.check_alone(resume, into, seeds)
        if extend:
            overrides = run_reference.extended_overrides(named, overrides, extend, trust_code)
        chosen = run_reference.load_own_settings(named, overrides, trust_code, nproc or world_size)
        experiment, resume = named.as_argument(), str(named)
        if named.step is None and is_finished(named, chosen, trust_code):
            return
    launch = RunLauncher(experiment, overrides, resume, into, nproc or 1, trust_code)
    if seeds is None:
        launch.train(chosen)
    else:
        launch.train_seeds(chosen, seeds)


def is_finished(named: NamedRun, requested: Experiment, trust_code: bool) -> bool:
    """Whether the run is finished; prints so, and how it trains longer."""
    from nanogpt_kit.train.extension import extension_hint
    from nanogpt_kit.train.resume import has_done_run

    if not has_done_run(named.folder, requested, trust_code):
        return False
    if not int(os.environ.get("RANK", "0")):
        hint = extension_hint(named.folder, requested, named.folder.status())
        click.echo(printable(f"already finished: {named.folder}\n{hint}"), err=True)
    return True


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
    follows_seed: bool = False  # a run that differs in its seed came before, and printed what both have in common
    precedes_seed: bool = False  # such a run follows, and will print which command generates more text

    def train_seeds(self, experiment: Experiment, count: int) -> None:
        """Trains `count` runs in sequence. Raises RunFailed at the end if one failed."""
        first, last = experiment.train.seed, experiment.train.seed + count - 1
        failed = []
        for seed in range(first, last + 1):
            click.echo(f"seed {seed}", err=True)
            try:
                replace(self, follows_seed=seed > first, precedes_seed=seed < last).train_seed(experiment, seed)
            except (RunFailed, FailedProcesses) as error:
                if isinstance(error, RunFailed):
                    print_lines(f"run failed: {error}", err=True)
                    click.echo(printable("\n".join(notes_of(error))), err=True)
                failed.append(seed)
            except KeyboardInterrupt as error:
                error.add_note(remaining_seeds_note(range(seed, last + 1)))
                raise
            except SystemExit as error:  # of a run in several processes, which has printed its own note
                if error.code == INTERRUPTED:
                    click.echo(remaining_seeds_note(range(seed, last + 1)), err=True)
                raise
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
                print_lines(f"already finished: {finished}", err=True)
                return
        replace(self, overrides=(*self.overrides, override), resume=resume).train(seeded)

    def train(self, experiment: Experiment) -> None:
        """Trains one run, in this process or in several."""
        if self.into:
            from nanogpt_kit.runs.folder import RunFolder
            from nanogpt_kit.train.resume import has_done_run

            if has_done_run(RunFolder(Path(self.into)), experiment, self.trust_code):
                print_lines(f"already finished: {self.into}", err=True)
                return
        if self.nproc > 1:
            self.start_processes()
            return
        import rich

        with without_garbage_collection():
            from nanogpt_kit.cli.outcome import outcome_text
            from nanogpt_kit.runs import samples
            from nanogpt_kit.train import session
            from nanogpt_kit.train.extension import extension_hint

        rich.reconfigure(stderr=True)  # progress goes to stderr, generated text to stdout
        into = Path(self.into) if self.into else None
        folder = session.run(experiment, self.resume, self.trust_code, into, self.follows_seed)
        if int(os.environ.get("RANK", "0")):
            return
        if folder.samples.exists():
            print_generated(samples.newest_samples(folder.samples))
        print_lines(outcome_text(folder, with_next=not self.precedes_seed), err=True)
        if folder.status().ended_by == "max_seconds":
            click.echo(printable(extension_hint(folder, experiment, folder.status())), err=True)

    def start_processes(self) -> None:
        """Runs the same command in `nproc` processes; if one fails, this process exits with its code.

        The storage of studies is left out: a run does not use it, and the list of processes would show its password.
        """
        from nanogpt_kit.core.layers import parse_override
        from nanogpt_kit.launch.processes import run_ranks

        studies = ("sweep", "ablate")
        overrides = [one for one in self.overrides if parse_override(one)[0][0] not in studies or "storage" not in one]
        arguments = ["run", self.path, *overrides, *(["--trust-code"] if self.trust_code else [])]
        arguments += ["--verbose"] if is_verbose() else []
        if self.resume is not None:
            arguments += [f"--resume={self.resume}"]
        if self.into:
            arguments.append(f"--into={self.into}")
        code = run_ranks(self.nproc, arguments)
        if code == FAILED:
            raise FailedProcesses(code)
        if code:
            sys.exit(code)


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
