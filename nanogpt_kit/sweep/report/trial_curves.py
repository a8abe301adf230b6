"""The curves of a sweep's trials, in the colours of their branches. Needs plotly."""

from __future__ import annotations

import plotly.graph_objects as go  # type: ignore[import-untyped]

from nanogpt_kit.report.plots import FAINT, LOST, OPEN, PLAIN, add_lines, empty_figure, evenly_spaced, hide_outliers
from nanogpt_kit.sweep.report.axes import set_token_axis
from nanogpt_kit.sweep.report.series import best_color, series_of
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

MAX_CURVE_POINTS = 20_000  # of all curves together
MAX_CURVES = 120  # more of them hide each other
OUTCOMES = {  # colour where there are no branches, and dash where their colours distinguish them
    "no result": (LOST, "dashdot"),
    "pruned": (FAINT, "dot"),
    "running": (OPEN, "dash"),
    "complete": (PLAIN, "solid"),
}


def draw_trial_curves(summary: SweepSummary) -> go.Figure:
    """The metric of every trial at each of its evaluations."""
    figure = empty_figure(440, "tokens", summary.options.metric)
    best = summary.best()
    most = max_curve_points(summary)
    with_curves = [trial for trial in summary.trials if trial.reports and trial != best]
    trials = evenly_spaced(with_curves, MAX_CURVES)
    for outcome, (color, dash) in OUTCOMES.items():
        for series in series_of(summary, [trial for trial in trials if curve_outcome(trial) == outcome]):
            name = f"{series.name}, {outcome}" if series.name else outcome
            line = {"color": color, "width": 1.3}
            if series.name:
                line = {"color": series.color, "dash": dash, "width": 1.3}
            paths = [evenly_spaced(trial.reports, most) for trial in series.trials]
            add_lines(figure, paths, name, line, [trial.index for trial in series.trials], 0.6)
    if best is not None and best.reports:
        line = {"color": best_color(summary, best), "width": 3}
        add_lines(figure, [evenly_spaced(best.reports, most)], f"best, trial {best.index}", line, [best.index])
    # The first evaluations are high in every run, and trials hardly differ in them
    late = [value for trial in summary.trials for _, value in trial.reports[len(trial.reports) // 4 :]]
    hide_outliers(figure, late, summary.sign)
    set_token_axis(figure, max((tokens for trial in summary.trials for tokens, _ in trial.reports), default=1))
    return figure


def curve_outcome(trial: TrialSummary) -> str:
    """A key of OUTCOMES."""
    if trial.has_no_result:
        return "no result"
    return "pruned" if trial.is_pruned else "complete" if trial.state == "complete" else "running"


def max_curve_points(summary: SweepSummary) -> int:
    """The number of points drawn of each curve."""
    return max(8, MAX_CURVE_POINTS // max(1, min(MAX_CURVES, len(summary.trials))))
