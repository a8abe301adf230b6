"""`nanogpt-kit run EXP`: prepare the data if needed, train, sample."""

from __future__ import annotations

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load, take_back_resume


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Go on with RUN, or with the newest run of this experiment that is not done.",
)
@TRUST
def run(experiment: str, overrides: tuple[str, ...], resume: str | None, trust_code: bool) -> None:
    """Train EXPERIMENT: prepare its data if needed, train, evaluate, sample.

    KEY=VALUE overrides any option, as in optimizer.lr=3e-4 or model.attention=naive.
    """
    resume, overrides = take_back_resume(resume, overrides)
    chosen = load(experiment, overrides, trust_code)
    import rich

    from nanogpt_kit.train import session

    rich.reconfigure(stderr=True)  # progress there, text that the model wrote on stdout
    folder = session.run(chosen, resume, trust_code)
    if folder.samples.exists():
        click.echo(folder.samples.read_text(encoding="utf-8"))
    click.echo(f"finished: {folder}", err=True)
