"""`nanogpt-kit sample RUN`: let a run's model write."""

from __future__ import annotations

import click

from nanogpt_kit.cli.experiment import STEP, TRUST, WEIGHTS
from nanogpt_kit.core.errors import KitError


@click.command()
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--prompt", help="What the text begins with.  [default: sample.prompt]")
@click.option("--num-samples", type=click.IntRange(1), help="How many texts.  [default: sample.num_samples]")
@click.option("--max-new-tokens", type=click.IntRange(0), help="Tokens of each.  [default: sample.max_new_tokens]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the draws; text number i uses seed + i.")
@STEP
@WEIGHTS
@TRUST
def sample(
    run: str,
    overrides: tuple[str, ...],
    prompt: str | None,
    num_samples: int | None,
    max_new_tokens: int | None,
    seed: int | None,
    step: int | None,
    weights: str | None,
    trust_code: bool,
) -> None:
    """Write text with RUN, a run folder or the name of an experiment (then its newest run).

    KEY=VALUE overrides [sample] and the samplers, as in sampler.0.value=0.5 or 'sampler=["top_k"]'.
    """
    for text in overrides:
        if text.split("=")[0].split(".")[0] not in ("sample", "sampler"):
            raise KitError(f"command line: {text!r}: a trained model is as it is; only sample and sampler can be set")
    from nanogpt_kit.generate.loaded import load_run
    from nanogpt_kit.train.precision import choose_device

    loaded = load_run(run, choose_device("auto"), trust_code, overrides, weights, step)
    wanted = loaded.experiment.sample
    first = wanted.seed if seed is None else seed
    for number in range(num_samples or max(1, wanted.num_samples)):
        if number:
            click.echo("-" * 80)
        for piece in loaded.stream(wanted.prompt if prompt is None else prompt, max_new_tokens, first + number):
            click.echo(piece, nl=False)
        click.echo()
