"""`nanogpt-kit bench EXP`: training speed, relative to the peak of the machine, and the time of each part of a step."""

from __future__ import annotations

import functools
import math
import statistics
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.bench_text import (
    check_tokens,
    json_of_generation,
    json_of_timing,
    read_rate_text,
    rounds_text,
    show_timing,
)
from nanogpt_kit.cli.candidates import experiment_candidates, folder_candidates
from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.core.errors import KitError

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment


@click.command()
@EXPERIMENT
@OVERRIDES
@click.option(
    "--vs",
    callback=expand_path_argument,
    metavar="OTHER",
    shell_complete=experiment_candidates,
    help="Compare with another experiment, timed in alternation; KEY=VALUE does not apply to it.",
)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Rounds per experiment.")
@click.option(
    "--seconds", type=click.FloatRange(0, 600, min_open=True), default=2.0, show_default=True, help="Seconds per round."
)
@click.option(
    "--sample", "texts", type=click.IntRange(1), metavar="N", help="Time generation instead, N texts per batch."
)
@click.option(
    "--nanogpt",
    callback=expand_path_argument,
    metavar="DIR",
    shell_complete=folder_candidates,
    help="Compare with nanoGPT, timed in alternation: DIR is a checkout, whose files are executed.",
)
@json_option()
@TRUST
def bench(
    experiment: str,
    overrides: tuple[str, ...],
    vs: str | None,
    rounds: int,
    seconds: float,
    texts: int | None,
    nanogpt: str | None,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Time training steps of EXPERIMENT as in a run: tokens/s, the parts of a step, MFU, memory.

    With --sample, time the generation of N texts of sample.max_new_tokens tokens, and compare it with the rate at
    which memory is read.

    With --nanogpt, print a row of a table in Markdown: nanoGPT in a model of the same sizes, on the same tokens, in
    fp32 on a CPU; its idle threads once asleep and once as is the default of OpenMP. With --sample as well, it
    generates with the same weights.

    Reports medians over rounds, with an interval that contains the true median with 95% confidence (from 6 rounds
    on). Nothing is written except prepared data and what the kit remembers of this machine: compiled code, and which
    ways to compute are fastest. Trackers are called as in a run.
    """
    if math.isnan(seconds):  # FloatRange accepts it, since it compares with no bound
        raise click.BadParameter("nan is not a number of seconds.", param_hint="'--seconds'")
    experiments = [(experiment, overrides), *([(vs, ())] if vs else [])]
    if vs and nanogpt is not None:
        raise KitError("--vs compares two experiments, --nanogpt an experiment with nanoGPT; choose one")
    loaded = [load_experiment(path, changes, trust_code) for path, changes in experiments]  # before any is timed
    if nanogpt is not None:
        from nanogpt_kit.cli.bench_nanogpt import bench_beside_nanogpt

        bench_beside_nanogpt(loaded[0], (experiment, overrides, trust_code), nanogpt, texts, rounds, seconds, as_json)
        return
    if texts is not None:
        if vs:
            raise KitError("--vs compares training, --sample times generation; choose one")
        bench_generation(loaded[0], texts, rounds, seconds, as_json)
        return
    from nanogpt_kit.bench.rounds import median_interval, paired_ratios, time_alternating
    from nanogpt_kit.core.experiment import Experiment

    loaders = [functools.partial(Experiment.load, path, changes, trust_code) for path, changes in experiments]
    timings = time_alternating(loaders, rounds, seconds)
    ratios = paired_ratios(timings[0].rounds, timings[-1].rounds) if vs else []
    if as_json:
        report: dict[str, Any] = {"experiment": json_of_timing(timings[0])}
        if vs:
            report["vs"] = json_of_timing(timings[1])
            interval = median_interval(ratios)
            report["ratio"] = {"median": statistics.median(ratios), "interval": interval, "rounds": ratios}
        print_json(report)
        return
    for (path, changes), timing in zip(experiments, timings, strict=True):
        print_lines(" ".join([path, *changes]))
        show_timing(timing)
    if vs:
        low, high = median_interval(ratios)
        print_lines(
            f"the first has {statistics.median(ratios):.3f} times the tokens/s of the second "
            f"({low:.3f} to {high:.3f}, {rounds_text(rounds)} each)"
        )


def bench_generation(experiment: Experiment, texts: int, rounds: int, seconds: float, as_json: bool) -> None:
    from nanogpt_kit.bench.generation import TimedGenerator
    from nanogpt_kit.bench.rounds import median_interval
    from nanogpt_kit.data.prepare import prepare
    from nanogpt_kit.nn.uninitialized import check_model_parts
    from nanogpt_kit.train.precision import choose_device

    check_model_parts(experiment)
    check_tokens(experiment)
    device = choose_device(experiment.train.device)
    generator = TimedGenerator(experiment, prepare(experiment).encoder, device, texts, experiment.sampler)
    timing = generator.timing([generator.time_round(seconds) for _ in range(rounds)])
    low, high = median_interval(timing.rates)
    if as_json:
        print_json({"sample": json_of_generation(timing)})
        return
    batch = f"batches of {texts} texts" if texts > 1 else "one text"
    print_lines(f"  {batch} of {timing.tokens} tokens, {timing.precision}")
    rate = f"{statistics.median(timing.rates):,.1f} tokens/s ({low:,.1f} to {high:,.1f}"
    print_lines(f"  {rate}, {rounds_text(rounds)})")
    print_lines(f"  {read_rate_text(timing)}; memory copies {timing.copy_bytes_per_second / 1e9:,.1f} GB/s, both ways")
