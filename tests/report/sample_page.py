"""A page with a part of every kind, as reports have them."""

from __future__ import annotations

import math
import random

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.report.curves import band_over, thin
from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.page import Page
from nanogpt_kit.report.plots import (
    EARLY_TO_LATE,
    add_band,
    add_dots,
    add_lines,
    bar_chart,
    empty_figure,
    plotly_label,
    series_color,
    series_dash,
    series_symbol,
)

ARMS = ("model.mlp=gelu", "model.mlp=swiglu", "model.mlp=relu2", "model.attention=sdpa,n_kv_head=2")
PARAMETERS = (
    "optimizer.lr@optimizer.use=adamw",
    "optimizer.lr@optimizer.use=muon",
    "optimizer.weight_decay@optimizer.use=adamw",
    "model.attention.n_kv_head_of_the_first_layer",
    "model.attention.n_kv_head_of_the_last_layer",
    "1",
    "1.0",
    "<b>bold</b>",
)
CAUSE = "out of memory: 12.1 GB more were wanted, of 23.6 GB"
SAMPLES = [
    (
        "model.mlp=gelu, seed 1",
        "ROMEO:\n  What light is this?\tIt is the <b>east</b> & Juliet\x1b[31m.\n\n\nJULIET:\n" + "Ay me! " * 30,
    ),
    ("model.mlp=swiglu, seed 1", "ROMEO:\nI would not for the world they saw thee here.\n" + "unbroken" * 40),
    ("model.mlp=relu2, seed 1", "\u202eNo.\n    Indented by four.\n" + "My bounty is as boundless as the sea. " * 12),
]


def sample_page(points: int = 400, has_parallel: bool = True) -> Page:
    page = Page("model.mlp: gelu against swiglu and relu2")
    page.verdict("model.mlp=swiglu: val/loss is lower by 0.021 (95% interval 0.012 to 0.030; 5 seeds).", "better")
    page.verdict("model.mlp=relu2: val/loss is higher by 0.034 (95% interval 0.008 to 0.060; 5 seeds).", "worse")
    page.verdict("model.attention=sdpa,n_kv_head=2: 0.004 lower (-0.011 to 0.019); about 22 seeds decide.", "undecided")
    page.lead("val/loss, lower is better. 4 arms, 5 seeds each, 50 million tokens a run.")
    page.note("Written 2026-01-02 03:04 UTC.")
    page.warning("The arm model.mlp=relu2 has 3% more parameters than the others: 12,345,678 against 11,986,000.")
    page.block(
        "Curves", "A line is the mean of five seeds; the band reaches from the lowest to the highest.", curves(points)
    )
    page.block("Seeds", "A dot is one seed.", seeds_figure())
    page.block("Parameters", "The importance of each parameter.", importances())
    page.block(
        "Each parameter separately", "A dot is a trial; the star is the best.", figures=[slices(at) for at in range(4)]
    )
    page.section("Arms")
    page.note("The base is the first row.")
    rows = [
        [
            name,
            5,
            2.9731 - 0.021 * at,
            0.0042 + at / 1000,
            0.021 * at,
            -0.0093 * at,
            1.5e7 + at,
            "not measured" * (at == 2),
        ]
        for at, name in enumerate(ARMS)
    ]
    page.table(["arm", "seeds", "val/loss", "sd", "difference", "low", "tokens.per.second", "remark"], rows, marked=1)
    if has_parallel:  # it needs WebGL, which takes seconds without a GPU
        page.block("All parameters together", "A line is a trial.", parallel(), min_width=110 * 7)
    page.section("Trials")
    page.table(
        ["state", "val/loss", *PARAMETERS, "model.norm", "train.grad_clip", "tokens", "seconds", "run", "cause"],
        [trial_cells(at) for at in range(4)],
    )
    page.section("Samples")
    page.texts(SAMPLES)
    page.section("Provenance")
    page.mapping([("version", "0.2.0"), ("commit", "0123456789abcdef" * 3), ("device", "cpu, 2 threads"), ("seeds", 5)])
    page.command("nanogpt-kit compare quickstart model.mlp=swiglu model.mlp=relu2 --seeds 5")
    return page


def trial_cells(at: int) -> list[object]:
    values = [10.0**-at * (key + 1) for key in range(len(PARAMETERS))]
    cost = [123_456_789, 312.4 + at]
    return ["complete", 3.1 + at / 7, *values, "rmsnorm", 0.25, *cost, f"trial-{at:04d}-s7", CAUSE]


def curves(points: int) -> go.Figure:
    dice = random.Random(1)
    figure = empty_figure(420, "step", "val/loss")
    for at, (name, label) in enumerate(short_labels(ARMS).items()):
        runs = []
        for _ in range(5):
            shift = dice.gauss(0, 0.02)
            ys = [3 - 0.02 * at + shift + 6 / (1 + step / 20) + dice.gauss(0, 0.02) for step in range(points)]
            runs.append((list(range(points)), ys))
        if at == 2:
            runs[0][1][points // 2 : points // 2 + 20] = [math.nan] * 20
        band = band_over(runs)
        color = series_color(at)
        add_band(figure, band.xs, band.low, band.high, color, name)
        xs, ys = thin(band.xs, band.mean, 500)
        line = {"color": color, "width": 2, "dash": series_dash(at)}
        add_lines(figure, [list(zip(xs, ys, strict=True))], label, line)
        figure.data[-1].update(legendgroup=name)
    figure.update_yaxes(range=[2.8, 4])
    return figure


def seeds_figure() -> go.Figure:
    dice = random.Random(2)
    figure = empty_figure(300, "val/loss", "")
    for at, label in enumerate(short_labels([f"run {index} of the long name" for index in range(10)]).values()):
        points = [(2.9 + dice.gauss(0, 0.02) + at / 100, float(at)) for _ in range(5)]
        marker = {"color": series_color(at), "symbol": series_symbol(at), "size": 8}
        add_dots(figure, points, range(5), label, marker, "seed")
    figure.update_yaxes(tickvals=list(range(10)), autorange="reversed")
    return figure


def importances() -> go.Figure:
    values = {name: 0.4 / (1 + at) for at, name in enumerate(PARAMETERS)}
    return bar_chart(values, [f"{value:.2f}" for value in values.values()], "importance")


def parallel() -> go.Figure:
    dice = random.Random(5)
    figure = empty_figure(420, "", "")
    labels = short_labels(PARAMETERS[:6]).values()
    axes = [{"label": plotly_label(label), "values": [dice.random() for _ in range(20)]} for label in labels]
    line = {"color": [dice.random() for _ in range(20)], "colorscale": EARLY_TO_LATE}
    figure.add_parcoords(line=line, dimensions=axes, labelangle=-18, labelfont={"size": 12}, tickfont={"size": 12})
    figure.update_layout(margin={"l": 70, "r": 60, "t": 100, "b": 24})
    return figure


def slices(at: int) -> go.Figure:
    dice = random.Random(at)
    name = list(short_labels(PARAMETERS).values())[at]
    figure = empty_figure(270, name, "val/loss")
    figure.update_layout(showlegend=False)
    add_dots(figure, [(dice.random(), 3 + dice.random()) for _ in range(20)], range(20), "complete", {"size": 7})
    return figure
