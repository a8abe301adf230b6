"""The figures of a comparison's report in their sections, with notes on how to read them. Needs plotly."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.comparison.numbers import joined_names, value_decimals
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.report.arm_labels import ranked_arms
from nanogpt_kit.comparison.report.arm_runs import ArmRun
from nanogpt_kit.comparison.report.figures import ArmRow, JudgedRow, draw_differences, draw_values
from nanogpt_kit.comparison.report.tables import seed_differences, table_decimals
from nanogpt_kit.comparison.sentences import capitalized, effect_name, ranked_results
from nanogpt_kit.comparison.text import arm_values, better_text
from nanogpt_kit.report.labels import short_labels
from nanogpt_kit.report.metric_curves import TRAIN_LOSS, CurveGroup, MetricCurve, read_curves
from nanogpt_kit.report.page import Page
from nanogpt_kit.report.plots import series_color
from nanogpt_kit.report.run_curves import draw_curves
from nanogpt_kit.report.run_groups import yardstick_of
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.index import read_run

EFFECT_MARKS = "The diamond is the mean over seeds, full where the verdict is better or worse; the bar is its interval."
MOST_ROWS = 31  # of a figure that fits a printed page
MOST_CURVES = 10  # arms: the bands of more hide each other
MOST_RUNS = 200  # that have curves, each of them a line

Runs = dict[int, dict[int, dict[str, MetricCurve]]]  # curves by arm, seed and metric


def add_difference_figure(page: Page, comparison: Comparison, names: Sequence[str]) -> None:
    ranked = ranked_results(comparison)
    rows = [
        JudgedRow(names[result.arm], result, seed_differences(comparison, result), series_color(result.arm))
        for result in ranked[:MOST_ROWS]
    ]
    note = (
        f"A dot is the difference from {names[0]} with one seed; the diamond is their mean, full where the verdict is "
        f"better or worse; the bar is its interval, and the dashed line no difference. "
        f"{capitalized(better_text(comparison))}.{omission(len(ranked), MOST_ROWS)}"
    )
    figure = draw_differences(rows, value_decimals(comparison), axis_title(comparison, "difference in "))
    page.block("Differences by seed", note, figure)


def add_effect_figure(page: Page, comparison: Comparison, note: str) -> None:
    """The section of the effects of a factorial."""
    effects = comparison.effects[:MOST_ROWS]
    labels = short_labels([effect_name(effect) for effect in effects])
    rows = [JudgedRow(labels[effect_name(effect)], effect) for effect in effects]
    figure = draw_differences(rows, value_decimals(comparison), axis_title(comparison, "effect on "))
    page.block("Effects", f"{note} {EFFECT_MARKS}" + omission(len(comparison.effects), MOST_ROWS, "effects"), figure)


def add_value_figure(page: Page, comparison: Comparison, names: Sequence[str], title: str) -> None:
    arms = ranked_arms(comparison)
    rows = [ArmRow.of(names[arm], arm_values(comparison, arm), arm) for arm in arms[:MOST_ROWS]]
    note = "A dot is the value of one run, and the bar is their mean."
    if len(arms) > 1:
        note = (
            "A dot is the value of one run; a line joins the runs of one seed, and the bar is the mean of an arm. The "
            f"base, {names[0]}, is at the top.{omission(len(arms), MOST_ROWS, 'arms')}"
        )
    page.block(title, note, draw_values(rows, table_decimals(comparison), axis_title(comparison)))


def add_curves(page: Page, comparison: Comparison, names: Sequence[str], found: Sequence[ArmRun]) -> None:
    """The metric that decides, and the training loss, over training; nothing where no run has curves.

    The training loss of arms that are trained on other tokens does not compare: it is in separate figures.
    """
    ranked = ranked_arms(comparison)
    runs: Runs = {arm: {} for arm in ranked[:MOST_CURVES]}
    most = MOST_RUNS // len(runs)
    for one in found:
        of_arm = runs.get(one.measurement.arm)
        if one.folder is not None and of_arm is not None and len(of_arm) < most:
            of_arm[one.measurement.seed] = read_curves(one.folder.metrics, {comparison.metric, TRAIN_LOSS})
    note = "Lines are means over seeds, bands reach from the lowest run to the highest, faint lines are runs."
    if any(len(of_arm) == most for of_arm in runs.values()):
        note += f" Of each arm at most {most} runs are drawn."
    note += omission(len(ranked), MOST_CURVES, "arms")
    data = {one.measurement.arm: yardstick_of(read_run(one.folder), TRAIN_LOSS) for one in found if one.folder}
    for metric in dict.fromkeys([comparison.metric, TRAIN_LOSS]):
        sets: dict[str, list[CurveGroup]] = {}
        for group in curve_groups(runs, names, metric):
            sets.setdefault("" if metric == comparison.metric else data[group.place], []).append(group)
        for groups in sets.values():
            title = f"Curves of {one_line(metric)}"
            if len(sets) > 1:
                title += f": {joined_names(group.name for group in groups)}"
            page.block(title, note, draw_curves(groups, one_line(metric)))


def curve_groups(runs: Runs, names: Sequence[str], metric: str) -> list[CurveGroup]:
    """The arms that have a curve of the metric, in the colours that they have in the figure of values."""
    groups = []
    for arm, by_seed in runs.items():
        curves = {f"seed {seed}": of_run[metric] for seed, of_run in by_seed.items() if metric in of_run}
        if curves:
            groups.append(CurveGroup(names[arm], curves, arm))
    return groups


def axis_title(comparison: Comparison, what: str = "") -> list[str]:
    """Two lines."""
    return [f"{what}{one_line(comparison.metric)}", f"({better_text(comparison)})"]


def omission(count: int, most: int, what: str = "contenders") -> str:
    """What a figure leaves out; empty where it shows all."""
    return f" The first {most} of {count} {what} are drawn, in the order of the tables." if count > most else ""
