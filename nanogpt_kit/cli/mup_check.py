"""`nanogpt-kit mup-check EXP`: whether features depend on the width of the model, before and in training."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.experiment import EXPERIMENT, OVERRIDES, TRUST, load_experiment
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.cli.report import check_output, write_page
from nanogpt_kit.cli.text_table import Column, table_lines
from nanogpt_kit.core.errors import FAILED, Fault, KitError, printable
from nanogpt_kit.core.overrides import COMMAND_LINE

if TYPE_CHECKING:
    from nanogpt_kit.bench.width_slopes import PlaceScaling, WidthScaling

WIDTHS = "64,128,256,512"
NAME = "mup-check.html"


def parse_widths(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """At least two widths, sorted."""
    words = [word for word in re.split(r"[,\s]+", value.strip("[] ,")) if word]
    fault = ""
    if wrong := [word for word in words if not re.fullmatch(r"[1-9][0-9]{0,6}", word)]:
        fault = f"{wrong[0]!r} is not a width; widths are whole numbers with commas between them, as in {WIDTHS}"
    elif repeated := sorted({int(word) for word in words if words.count(word) > 1}):
        fault = f"{repeated[0]} is in it more than once; name each width once"
    elif len(words) < 2:
        fault = f"a slope needs at least two widths, as in {WIDTHS}"
    if fault:
        raise KitError(Fault(fault, "--widths", COMMAND_LINE))
    return tuple(sorted(map(int, words)))


@click.command("mup-check")
@EXPERIMENT
@OVERRIDES
@click.option(
    "--widths",
    default=WIDTHS,
    show_default=True,
    callback=parse_widths,
    metavar="N,N,...",
    help="Values of model.n_embd, each a multiple of model.n_head.",
)
@click.option("--steps", type=click.IntRange(1, 1000), default=5, show_default=True, help="Steps of each training.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    help="Trainings of the largest width, of others up to 8 times as many; omitted: 3 from width 512 on, else more.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=NAME,
    show_default=True,
    metavar="FILE",
    callback=expand_path_argument,
    help="HTML file with the figures.",
)
@json_option()
@TRUST
@click.pass_context
def mup_check(
    ctx: click.Context,
    experiment: str,
    overrides: tuple[str, ...],
    widths: tuple[int, ...],
    steps: int,
    seeds: int | None,
    output: Path,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Check that training changes features of EXPERIMENT alike at all widths, so that one learning rate may fit all.

    Trains a model of each width for a few steps, measures the mean magnitude of features at each place of the network
    and of their change, and fits slopes of their logarithm over that of the width. Before the first step no slope may
    exceed 0.1; those of the change have to be within 0.1, but logits may change less in wider models.

    Prints a table, and the path of a page with figures. The exit code is 0 where all slopes are within, else 1.
    """
    loaded = load_experiment(experiment, overrides, trust_code)
    check_output(output)
    from nanogpt_kit.bench.width_scaling import default_seeds, measure_widths
    from nanogpt_kit.bench.width_slopes import headline_of
    from nanogpt_kit.report.page import NO_FIGURES, has_figures
    from nanogpt_kit.report.width_page import width_page

    seeds = seeds or default_seeds(widths[-1])
    scaling = measure_widths(loaded, widths, steps, seeds)
    words = [experiment, *overrides, f"--widths={','.join(map(str, widths))}", f"--steps={steps}", f"--seeds={seeds}"]
    write_page(output, width_page(scaling, shlex.join(["nanogpt-kit", "mup-check", *words])).html())
    if as_json:
        print_json(json_of_scaling(scaling, output))
    else:
        show_scaling(scaling)
        print_lines(headline_of(scaling))
        if not has_figures():
            print_lines(NO_FIGURES, err=True)
        click.echo(printable(str(output)))
    if not scaling.is_within:
        ctx.exit(FAILED)


def show_scaling(scaling: WidthScaling) -> None:
    from nanogpt_kit.bench.width_slopes import conditions_of

    print_lines(conditions_of(scaling))
    changes = [
        Column(f"{width}", [f"{place.changes[index][-1]:.3g}" for place in scaling.places])
        for index, width in enumerate(scaling.widths)
    ]
    columns = [
        Column("change at width", [place.name for place in scaling.places]),
        *changes,
        Column("slope", [slope_cell(place.change_slope) for place in scaling.places], rank=1),
        Column("at start", [slope_cell(place.start_slope) for place in scaling.places], rank=1),
        Column("verdict", [place.verdict for place in scaling.places], rank=2),
    ]
    for line in table_lines(columns, None)[0]:
        click.echo(line)


def slope_cell(slope: float | None) -> str:
    return "" if slope is None else f"{slope:+.2f}".replace("+nan", "nan")


def json_of_scaling(scaling: WidthScaling, output: Path) -> dict[str, Any]:
    from nanogpt_kit.bench.width_slopes import TOLERANCE, headline_of

    return {
        **asdict(scaling),
        "places": [json_of_place(place) for place in scaling.places],
        "tolerance": TOLERANCE,
        "is_within": scaling.is_within,
        "worst": scaling.worst.name,
        "headline": headline_of(scaling),
        "output": str(output),
    }


def json_of_place(place: PlaceScaling) -> dict[str, Any]:
    """`sizes` and `changes` have a list for each width, with a value before the first step and after each step."""
    return {
        "place": place.name,
        "verdict": place.verdict,
        "slope": place.change_slope,
        "slopes": place.change_slopes,
        "start_slope": place.start_slope,
        "sizes": place.sizes,
        "changes": place.changes,
    }
