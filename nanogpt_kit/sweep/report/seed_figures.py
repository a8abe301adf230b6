"""Figures of seeds: the values of confirmed trials, and differences from another trial. Needs plotly."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.comparison.numbers import spread_decimals
from nanogpt_kit.comparison.report import figures
from nanogpt_kit.report.labels import cut_middle
from nanogpt_kit.report.plots import PLAIN, empty_figure, plotly_label, round_for_plot, series_color
from nanogpt_kit.sweep.report.judgements import judged_pairs, paired_differences
from nanogpt_kit.sweep.report.markers import AIR
from nanogpt_kit.sweep.report.series import index_of_branch
from nanogpt_kit.sweep.space.parameters import format_value
from nanogpt_kit.sweep.study.summary import SweepSummary
from nanogpt_kit.sweep.study.verdict import SweepVerdict

ROW_PIXELS = 34
MAX_DRAWN = 30  # rows
BRANCH_CHARACTERS = 20  # of the values of a branch, after the index of the trial


def draw_confirmation(summary: SweepSummary) -> go.Figure:
    """Every fresh seed of every confirmed trial as a dot, and the mean of each."""
    labels = {trial.index: row_label(summary, trial.index) for trial in summary.confirmed[:MAX_DRAWN]}
    figure = row_figure(summary.options.metric, len(labels))
    for trial in summary.confirmed[:MAX_DRAWN]:
        color = trial_color(summary, trial.index)
        add_row(figure, labels[trial.index], trial.by_seed, color)
        add_mean(figure, labels[trial.index], trial.mean, color)
    add_air(figure)
    return figure


def draw_differences(summary: SweepSummary, verdict: SweepVerdict) -> go.Figure | None:
    """The judged differences, drawn as those of a comparison. None where there is none."""
    judged = [one for one in judged_pairs(verdict) if one.result.difference is not None][:MAX_DRAWN]
    if not judged:
        return None
    rows = [
        figures.JudgedRow(
            f"trial {one.trial.index} against trial {one.base}",
            one.result,
            paired_differences(summary, verdict, one.trial, one.base),
        )
        for one in judged
    ]
    decimals = spread_decimals([one.result.difference_sd for one in judged])
    return figures.draw_differences(rows, decimals, [f"difference in {summary.options.metric}", "(negative: lower)"])


def row_label(summary: SweepSummary, index: int) -> str:
    """Such as "trial 4 (muon)": with the values of its branch."""
    at = branch_of_trial(summary, index)
    if at is None:
        return f"trial {index}"
    values = ", ".join(map(format_value, summary.branches[at].params.values()))
    return plotly_label(f"trial {index} ({cut_middle(values, BRANCH_CHARACTERS)})")


def row_figure(title: str, rows: int) -> go.Figure:
    """A figure with one row for each trial, the first at the top."""
    figure = empty_figure(90 + ROW_PIXELS * max(1, rows), title, "")
    figure.update_yaxes(type="category", autorange="reversed", fixedrange=True)
    figure.update_layout(showlegend=False, margin={"t": 12})
    return figure


def add_row(figure: go.Figure, label: str, by_seed: Mapping[int, float], color: str) -> None:
    """Adds a dot for each seed."""
    figure.add_scatter(
        x=[round_for_plot(value) for value in by_seed.values()],
        y=[label] * len(by_seed),
        customdata=list(by_seed),
        mode="markers",
        marker={"color": color, "size": 8, "opacity": 0.65},
        hovertemplate="seed %{customdata}: %{x:.5~g}<extra></extra>",
    )


def add_mean(figure: go.Figure, label: str, mean: float, color: str) -> None:
    """Adds a tall mark at the mean of a row."""
    marker = {"color": color, "symbol": "line-ns", "size": 22, "line": {"color": color, "width": 3}}
    hover = "mean %{x:.5~g}<extra></extra>"
    figure.add_scatter(x=[round_for_plot(mean)], y=[label], mode="markers", marker=marker, hovertemplate=hover)


def add_air(figure: go.Figure) -> None:
    """Gives the horizontal axis a little more than the range of everything in the figure."""
    xs = [x for trace in figure.data for x in trace.x]
    low, high = min(xs), max(xs)
    air = AIR * (high - low) or max(1e-3 * abs(high), 1e-6)
    figure.update_xaxes(range=[low - air, high + air])


def trial_color(summary: SweepSummary, index: int) -> str:
    """The colour of the branch of a trial."""
    at = branch_of_trial(summary, index)
    return PLAIN if at is None else series_color(at)


def branch_of_trial(summary: SweepSummary, index: int) -> int | None:
    """The index of the branch of the trial `index`; None where there are no two branches."""
    trial = next((one for one in summary.trials if one.index == index), None)
    return index_of_branch(summary, trial) if trial is not None else None
