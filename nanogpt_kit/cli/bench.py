"""`nanogpt-kit bench EXP`: how fast it trains here, against what is possible, and where the time goes."""

from __future__ import annotations

import functools
import json
import math
import statistics
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.core.errors import KitError

if TYPE_CHECKING:
    from nanogpt_kit.bench.rounds import Timing
    from nanogpt_kit.core.experiment import Experiment


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option(
    "--vs",
    callback=expand_path_argument,
    metavar="OTHER.toml",
    help="Another experiment, timed in alternation; KEY=VALUE do not change it.",
)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Of each experiment.")
@click.option(
    "--seconds", type=click.FloatRange(0, 600, min_open=True), default=2.0, show_default=True, help="Of a round."
)
@click.option("--sample", "texts", type=click.IntRange(1), metavar="N", help="Time N texts written at a time instead.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@TRUST
def bench(
    experiment: str,
    overrides: tuple[str, ...],
    vs: str | None,
    rounds: int,
    seconds: float,
    texts: int | None,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Time the steps of EXPERIMENT as its run would take them: tokens/s, the parts of a step, MFU, memory.

    With --sample, time how fast its model writes sample.max_new_tokens tokens of N texts, and what that takes of the
    memory's speed.

    Medians over rounds, and the range that holds the true median with 95% (6 rounds at the least). Nothing is
    written but prepared data; trackers hear of it as of a run.
    """
    if math.isnan(seconds):  # which compares with no bound
        raise click.BadParameter("nan is no number of seconds.", param_hint="'--seconds'")
    wanted = [(experiment, overrides), *([(vs, ())] if vs else [])]
    loaded = [load_experiment(path, changes, trust_code) for path, changes in wanted]  # before any is timed
    if texts is not None:
        if vs:
            raise KitError("--vs compares trainings, --sample times the writing of texts; take one")
        sampling(loaded[0], texts, rounds, seconds, as_json)
        return
    from nanogpt_kit.bench.rounds import bench as time_rounds
    from nanogpt_kit.bench.rounds import interval, paired_ratios
    from nanogpt_kit.core.experiment import Experiment

    choices = [functools.partial(Experiment.load, path, changes, trust_code) for path, changes in wanted]
    timings = time_rounds(choices, rounds, seconds)
    ratios = paired_ratios(timings[0], timings[-1]) if vs else []
    if as_json:
        told: dict[str, Any] = {"experiment": facts(timings[0])}
        if vs:
            told["vs"] = facts(timings[1])
            told["ratio"] = {"median": statistics.median(ratios), "interval": interval(ratios), "of": ratios}
        click.echo(json.dumps(told, indent=2))
        return
    for (path, changes), timing in zip(wanted, timings, strict=True):
        click.echo(" ".join([path, *changes]))
        show(timing)
    if vs:
        low, high = interval(ratios)
        click.echo(
            f"the first makes {statistics.median(ratios):.3f} times the tokens/s of the second "
            f"({low:.3f} to {high:.3f}, {rounds} pairs of rounds{too_few(rounds)})"
        )


def sampling(experiment: Experiment, texts: int, rounds: int, seconds: float, as_json: bool) -> None:
    from nanogpt_kit.bench.generation import write
    from nanogpt_kit.bench.rounds import interval
    from nanogpt_kit.data.prepare import prepare
    from nanogpt_kit.nn.uninitialized import check_parts
    from nanogpt_kit.train.precision import choose_device

    check_parts(experiment)
    if not experiment.sample.max_new_tokens:
        raise KitError("sample.max_new_tokens is 0: there is nothing to time")
    device = choose_device(experiment.train.device)
    seen = write(experiment, prepare(experiment).encoder, device, texts, rounds, seconds)
    read, copied = statistics.median(seen.bytes_per_second), seen.copy_bytes_per_second
    low, high = interval(seen.rates)
    if as_json:
        told = {"texts": texts, "tokens": seen.tokens, "precision": seen.precision, "interval": [low, high]}
        told |= {"tokens_per_second": statistics.median(seen.rates), "rounds": seen.rates}
        told |= {"bytes_per_second": read, "copy_bytes_per_second": copied}
        click.echo(json.dumps({"sample": told}, indent=2))
        return
    each = f"{texts} texts at a time" if texts > 1 else "one text"
    click.echo(f"  {each} of {seen.tokens} tokens, {seen.precision}")
    rate = f"{statistics.median(seen.rates):,.1f} tokens/s ({low:,.1f} to {high:,.1f}"
    click.echo(f"  {rate}, {rounds} rounds{too_few(rounds)})")
    click.echo(
        f"  {read / 1e9:,.1f} GB/s of weights and cache; memory copies {copied / 1e9:,.1f} GB/s, read and written"
    )


def too_few(rounds: int) -> str:
    from nanogpt_kit.bench.rounds import ENOUGH

    return "" if rounds >= ENOUGH else ", too few for 95%"


def facts(timing: Timing) -> dict[str, Any]:
    from nanogpt_kit.bench.rounds import interval

    return {
        **timing.facts,
        "tokens_per_second": timing.tokens_per_second,
        "interval": interval(timing.rounds),
        "rounds": timing.rounds,
        "steps_a_round": timing.steps,
        "parts_ms": {part: 1000 * seconds for part, seconds in timing.parts.items()},
        "mfu": timing.mfu,
        "peak_memory_bytes": timing.memory,
    }


def show(timing: Timing) -> None:
    told = facts(timing)
    threads = f" ({told['threads']})" if told["device"] == "cpu" else ""
    click.echo(f"  {told['device']}{threads}, {told['precision']} ({told['precision_since']})")
    click.echo(f"  compile: {told['compile']} ({told['compile_since']})")
    for key, words in told["choices"].items():
        click.echo(f"  {key}: {words}")
    low, high = told["interval"]
    count = f"{len(timing.rounds)} rounds of {timing.steps} steps{too_few(len(timing.rounds))}"
    click.echo(f"  {told['tokens_per_second']:,.0f} tokens/s ({low:,.0f} to {high:,.0f}, {count})")
    parts = ", ".join(f"{part} {ms:,.2f}" for part, ms in told["parts_ms"].items())
    click.echo(f"  {1000 * told['step_tokens'] / told['tokens_per_second']:,.2f} ms a step; its parts: {parts}")
    peak = f"{told['peak_flops'] / 1e9:,.0f} GFLOP/s"
    if timing.mfu is None:
        click.echo(f"  MFU unknown: the model's FLOPs cannot be counted; products of {told['precision']} reach {peak}")
    else:
        flops = f"{told['flops_per_token'] / 1e6:,.1f} million FLOPs a token"
        click.echo(f"  MFU {timing.mfu:.1%}: {flops}, of {peak} that matrix products in {told['precision']} reach here")
    if timing.memory is not None:
        click.echo(f"  {timing.memory / 2**20:,.0f} MiB of memory at the peak")
