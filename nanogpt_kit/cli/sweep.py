"""`nanogpt-kit sweep EXP`: vary options as its [sweep] table says. `nanogpt-kit sweep status EXP`: results so far."""

from __future__ import annotations

import functools
import sys

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.cli.sweep_output import print_result, print_status, status_json
from nanogpt_kit.core.errors import FAILED, KitError
from nanogpt_kit.core.override_text import override_text
from nanogpt_kit.runs.secrets import hide_in_command

STORAGE = click.option(
    "--storage",
    metavar="URL",
    envvar="NANOGPT_KIT_STORAGE",
    help="Replaces sweep.storage, to keep a password out of a file.",
)


class SweepGroup(click.Group):
    """`sweep EXP` runs a sweep; `sweep status EXP` only reads."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args[:1] == ["status"] else ["run", *args])


class GroupContext(click.Context):
    """The context of a subcommand that users do not name: help shows the name of its group."""

    @property
    def command_path(self) -> str:
        assert self.parent is not None, "it belongs to a group"
        return self.parent.command_path


class DefaultCommand(click.Command):
    context_class = GroupContext


@click.group(cls=SweepGroup)
def sweep() -> None:
    """Vary an experiment's options; see its [sweep] table."""


@sweep.command("run", cls=DefaultCommand, epilog="Example: nanogpt-kit sweep sweep_lr --preview")
@EXPERIMENT
@OVERRIDES
@click.option("--trials", type=click.IntRange(1), help="Replaces sweep.trials: total trials, including finished ones.")
@click.option("--workers", type=click.IntRange(1), help="Replaces sweep.workers: parallel trials on this machine.")
@STORAGE
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes of each trial, as in `run --nproc`.")
@click.option("--preview", is_flag=True, help="Show the plan and exit.")
@json_option("Print the results as a JSON object, as `sweep status --json` does.")
@TRUST
def run_command(
    experiment: str,
    overrides: tuple[str, ...],
    trials: int | None,
    workers: int | None,
    storage: str | None,
    nproc: int,
    preview: bool,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Run the sweep of EXPERIMENT's [sweep] table; each trial is an ordinary run in a separate process.

    The same command continues a sweep that was stopped or killed.

    `nanogpt-kit sweep status EXPERIMENT` shows the results so far.
    """
    if preview and as_json:
        raise KitError("--preview shows the plan as text, and --json prints the results of a sweep; remove one of them")
    options = {"trials": trials, "workers": workers, "storage": storage and override_text(storage)}
    more = [f"sweep.{key}={value}" for key, value in options.items() if value is not None]
    base = load_experiment(experiment, (*overrides, *more), trust_code, nproc)
    if preview:
        from nanogpt_kit.core.experiment import Experiment
        from nanogpt_kit.sweep.preview import preview_sweep

        load_again = functools.partial(Experiment.load, experiment, (*overrides, *more), trust_code, nproc)
        print_lines(preview_sweep(base, load_again, nproc))
        return
    import rich

    from nanogpt_kit.sweep.session import run_sweep

    continue_without_reader()
    rich.reconfigure(stderr=True)
    try:
        summary = run_sweep(base, nproc)
    except KeyboardInterrupt as error:
        error.add_note(interruption_note(base.name))
        raise
    print_result(summary)
    if as_json:
        print_json(status_json(summary))
    if summary.best() is None:
        click.get_current_context().exit(FAILED)


def interruption_note(name: str) -> str:
    """What a sweep that was asked to stop has saved, and the command that continues it."""
    from nanogpt_kit.sweep.study.summary import sweep_folder

    saved = f"the sweep is saved in {sweep_folder(name)}"
    return f"stopped; {saved}; continue with: {hide_in_command(['nanogpt-kit', *sys.argv[1:]])}"


@sweep.command("status", epilog="Example: nanogpt-kit sweep status sweep_lr")
@EXPERIMENT
@OVERRIDES
@STORAGE
@json_option()
@TRUST
def status_command(
    experiment: str,
    overrides: tuple[str, ...],
    storage: str | None,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Show the results of EXPERIMENT's sweep so far, whether it is running or not."""
    more = (f"sweep.storage={override_text(storage)}",) if storage else ()
    base = load_experiment(experiment, (*overrides, *more), trust_code)
    from nanogpt_kit.sweep.session import read_sweep

    summary, _, _ = read_sweep(base)
    if as_json:
        print_json(status_json(summary))
        return
    print_status(summary)
