"""`nanogpt-kit run EXPERIMENT`: prepare the data if needed, train, sample."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.candidates import folder_candidates, run_candidates
from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.cli.resume_option import RunCommand
from nanogpt_kit.cli.run_launcher import RunLauncher
from nanogpt_kit.cli.run_result import RunResult
from nanogpt_kit.cli.run_seeds import series_record, series_text, train_seeds
from nanogpt_kit.cli.verbose import VERBOSE
from nanogpt_kit.core.errors import KitError, RunFailed, printable
from nanogpt_kit.system.garbage_collection import without_garbage_collection
from nanogpt_kit.system.torch_libraries import load_torch_libraries

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
@click.option(
    "--accept-versions", is_flag=True, help="Continue a run with other versions of plugins than it was made with."
)
@VERBOSE
@json_option("Print a JSON object with the state and the metrics of each run; texts go to standard error.")
@TRUST
def run(
    experiment: str,
    overrides: tuple[str, ...],
    resume: str | None,
    extend: int | None,
    into: str | None,
    seeds: int | None,
    nproc: int | None,
    accept_versions: bool,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Train EXPERIMENT: prepare its data if needed, train, evaluate, sample.

    EXPERIMENT is a .toml file, or a name: that of a file in the current folder without .toml, or of an experiment that
    is shipped (`nanogpt-kit experiments list`). KEY=VALUE overrides any option, as in optimizer.lr=3e-4 or
    model.attention=naive.

    EXPERIMENT may also be a run folder or a run id: that run continues with its own settings.

    With --seeds it ends with the mean, the standard deviation and the 95% interval of the mean of each metric.
    """
    continue_without_reader()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1 and (nproc or seeds):
        raise KitError("torchrun has already started several processes; remove --nproc and --seeds")
    if resume and seeds:
        raise KitError("--seeds resumes the newest run of each seed; remove the run after --resume")
    if into and (resume is not None or seeds):
        raise KitError("--into names the folder of a single run, new or not; remove --resume and --seeds")
    load_torch_libraries()
    with without_garbage_collection():
        from nanogpt_kit.cli import run_reference

    named = run_reference.find_named_run(experiment)
    if named is None and resume == "" and seeds is None and run_reference.is_bare_name(experiment):
        named = run_reference.newest_unfinished_run(experiment, overrides, trust_code)
    if named is None:
        if extend:
            raise KitError(run_reference.extend_remedy(experiment, extend, resume))
        continues = resume is not None or into is not None
        if accept_versions and not continues:
            raise KitError("--accept-versions is for a run that continues; add --resume or --into, or name the run")
        load = partial(run_reference.load_to_continue, run=resume, into=into) if continues else load_experiment
        chosen = load(experiment, overrides, trust_code, nproc or world_size)
    else:
        named.check_alone(resume, into, seeds)
        if extend:
            overrides = run_reference.extended_overrides(named, overrides, extend, trust_code)
        chosen = run_reference.load_own_settings(named, overrides, trust_code, nproc or world_size)
        experiment, resume = named.as_argument(), str(named)
        if named.step is None and is_finished(named, chosen, trust_code):
            report_run(RunResult(chosen.name, chosen.train.seed, named.folder, True, True), as_json)
            return
    launcher = RunLauncher(experiment, overrides, resume, into, nproc or 1, trust_code, accept_versions, as_json)
    if seeds is None:
        report_run(launcher.train(chosen), as_json)
        return
    results = train_seeds(launcher, chosen, seeds)
    print_lines(series_text(launcher, results), err=True)
    if as_json:
        print_json(series_record(launcher, results))
    if failed := [str(result.seed) for result in results if result.error is not None]:
        raise RunFailed(f"{len(failed)} of {seeds} runs, with seeds {', '.join(failed)}")


def report_run(result: RunResult, as_json: bool) -> None:
    """Prints the result for programs, on rank 0; raises the error that ended the run."""
    if as_json and result.folder is not None and not int(os.environ.get("RANK", "0")):
        print_json(result.record())
    if result.error is not None:
        raise result.error


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
