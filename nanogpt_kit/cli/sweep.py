"""`nanogpt-kit sweep EXP`: try the values of its [sweep] table. `nanogpt-kit sweep status EXP`: how far it is."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.output import continue_without_reader
from nanogpt_kit.core.errors import printable

if TYPE_CHECKING:
    from nanogpt_kit.sweep.study.summary import Summary

STORAGE = click.option(
    "--storage", metavar="URL", envvar="NANOGPT_KIT_STORAGE", help="sweep.storage, where a file should not hold it."
)


class Verb(click.Group):
    """`sweep EXP` sweeps; `sweep status EXP` only looks."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args[:1] == ["status"] else ["begin", *args])


class Unnamed(click.Context):
    """Of a command that is not named: to the user it is its group."""

    @property
    def command_path(self) -> str:
        assert self.parent is not None, "it belongs to a group"
        return self.parent.command_path


class Begin(click.Command):
    context_class = Unnamed


@click.group(cls=Verb)
def sweep() -> None:
    """Try values for an experiment's options; see its [sweep] table."""


@sweep.command("begin", cls=Begin)
@EXPERIMENT
@OVERRIDES
@click.option("--trials", type=click.IntRange(1), help="sweep.trials: how many in all, with those that were made.")
@click.option("--workers", type=click.IntRange(1), help="sweep.workers: trials at a time on this machine.")
@STORAGE
@click.option("--nproc", type=click.IntRange(1), default=1, help="Processes of each trial, as in `run --nproc`.")
@click.option("--preview", is_flag=True, help="Tell what it would do, and start nothing.")
@TRUST
def begin(
    experiment: str,
    overrides: tuple[str, ...],
    trials: int | None,
    workers: int | None,
    storage: str | None,
    nproc: int,
    preview: bool,
    trust_code: bool,
) -> None:
    """Try the values of EXPERIMENT's [sweep] table, each trial an ordinary run in a process of its own.

    The same command goes on with a sweep that was stopped or killed.

    `nanogpt-kit sweep status EXPERIMENT.toml` tells how far it is.
    """
    given = {"trials": trials, "workers": workers, "storage": storage and toml_string(storage)}
    more = [f"sweep.{key}={value}" for key, value in given.items() if value is not None]
    chosen = load_experiment(experiment, (*overrides, *more), trust_code, nproc)
    if preview:
        import functools

        from nanogpt_kit.core.experiment import Experiment
        from nanogpt_kit.sweep.preview import preview as look_ahead

        again = functools.partial(Experiment.load, experiment, (*overrides, *more), trust_code, nproc)
        click.echo(printable(look_ahead(chosen, again, nproc)))
        return
    import rich

    from nanogpt_kit.sweep import session

    continue_without_reader()
    rich.reconfigure(stderr=True)
    found = session.sweep(chosen, nproc)
    tell(found)


def toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # TOML has JSON's escapes except those of surrogates


def tell(found: Summary) -> None:
    best = found.best()
    if best is None:
        click.echo("no trial has ended with a value", err=True)
        return
    from nanogpt_kit.sweep.work.progress import in_words

    for line in confirmations(found):
        click.echo(line, err=True)
    click.echo(f"best: trial {best.number}, {found.options.metric} {best.value:.4f}: {in_words(best.config)}", err=True)
    if not found.confirmed and len(found.rows) > 1:
        click.echo("the best of many looks better than it is; sweep.confirm=3 runs the best with fresh seeds", err=True)
    from nanogpt_kit.sweep.study.summary import sweep_folder

    folder = sweep_folder(found.name)
    click.echo(f"finished: {folder / 'best.toml'}, {folder / 'report.html'}", err=True)


def confirmations(found: Summary) -> list[str]:
    lines = []
    for one in found.confirmed:
        values = ", ".join(f"{value:.4f}" for value in one.values)
        failed = f", {one.failed} failed" if one.failed else ""
        lines.append(f"confirmed: trial {one.number}: {found.options.metric} {one.mean:.4f} ({values}{failed})")
    return lines


@sweep.command()
@EXPERIMENT
@OVERRIDES
@STORAGE
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@click.option("--report", "with_report", is_flag=True, help="Write its report.html of what is known by now.")
@TRUST
def status(
    experiment: str,
    overrides: tuple[str, ...],
    storage: str | None,
    as_json: bool,
    with_report: bool,
    trust_code: bool,
) -> None:
    """Tell how far the sweep of EXPERIMENT is, its controller at work or dead."""
    more = (f"sweep.storage={toml_string(storage)}",) if storage else ()
    chosen = load_experiment(experiment, (*overrides, *more), trust_code)
    from nanogpt_kit.sweep import session

    found, study, folder = session.read(chosen)
    if with_report:
        from nanogpt_kit.sweep.report import report

        report.write(found, study, folder / "report.html")
        click.echo(f"written: {folder / 'report.html'}", err=True)
    if as_json:
        click.echo(printable(json.dumps(facts(found), ensure_ascii=False)))
        return
    show(found)


def facts(found: Summary) -> dict[str, Any]:
    best = found.best()
    trials = [
        {
            "number": row.number,
            "state": row.state,
            "value": row.value if row.value is None or math.isfinite(row.value) else None,
            "values": row.config,
            "cause": row.cause,
            "reason": row.reason,
            "step": row.step,
            "tokens": row.tokens,
            "seconds": row.seconds,
        }
        for row in found.rows
    ]
    return {
        "name": found.name,
        "metric": found.options.metric,
        "direction": found.options.direction,
        "trials_wanted": found.count,
        "counts": found.counts(),
        "best": None if best is None else best.number,
        "confirmed": [{"trial": one.number, "mean": one.mean, "of": list(one.values)} for one in found.confirmed],
        "tokens": found.tokens,
        "seconds": found.seconds,
        "seconds_left": found.seconds_left(),
        "trials": trials,
    }


def show(found: Summary) -> None:
    import rich

    from nanogpt_kit.sweep.work.progress import in_time, in_words, status_table

    counts = ", ".join(f"{count} {state}" for state, count in found.counts().items() if count)
    click.echo(f"sweep {found.name}: {found.count} trials: {counts}")
    left = found.seconds_left()
    about = "" if not left else f", about {in_time(left)} of training left"
    click.echo(f"{found.tokens:,} tokens in {in_time(found.seconds)} of training{about}")
    for line in confirmations(found):
        click.echo(line)
    best = found.best()
    if best is not None:
        click.echo(f"best: trial {best.number}, {found.options.metric} {best.value:.4f}: {in_words(best.config)}")
    console = rich.get_console()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width; a log's lines are not folded at 80
    console.print(status_table(found))
