"""The tables of the report of a comparison, with the numbers as the console has them."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.comparison.noise_text import noise_decimals, noise_of
from nanogpt_kit.comparison.numbers import decimal_text, level_text, value_decimals
from nanogpt_kit.comparison.record import Comparison, Measurement, Result
from nanogpt_kit.comparison.report.arm_labels import distinct_labels, ranked_arms
from nanogpt_kit.comparison.sentences import interval_text
from nanogpt_kit.comparison.text import (
    MORE_SEEDS,
    arm_values,
    cost_texts,
    mean_and_sd,
    state_text,
    verdict_cell,
)
from nanogpt_kit.report.page import Page
from nanogpt_kit.runs.description import one_line

ARMS_BESIDE = 7  # columns of a table of values: more do not fit a printed page
JUDGED = ("difference", "sd of differences", "interval", "level", "wins", "verdict")


def add_summary(page: Page, comparison: Comparison, names: Sequence[str]) -> None:
    """Mean and standard deviation of each arm, and its difference from the base."""
    decimals = table_decimals(comparison)
    judged = {result.arm: result for result in comparison.results}
    rows = []
    for arm in ranked_arms(comparison):
        values = list(arm_values(comparison, arm).values())
        mean_sd = [decimal_text(number, decimals) for number in mean_and_sd(values)]
        cells = judged_cells(judged.get(arm), decimals) if judged else []
        rows.append([f"{names[arm]} (base)" if arm == 0 else names[arm], *mean_sd, str(len(values)), *cells])
    columns = ["arm", "mean", "sd", "runs", *(JUDGED if judged else ())]
    if any(result.more_seeds is not None for result in comparison.results):
        page.note(f"{MORE_SEEDS}.")
    page.table(columns, rows, numbers=range(1, len(columns) - bool(judged)))


def table_decimals(comparison: Comparison) -> int:
    """Those of the sentences above the tables."""
    return noise_decimals(noise_of(comparison)) if comparison.kind == "noise" else value_decimals(comparison)


def judged_cells(result: Result | None, decimals: int) -> list[str]:
    if result is None:
        return [""] * len(JUDGED)
    return [
        decimal_text(result.difference, decimals, sign=True),
        decimal_text(result.difference_sd, decimals),
        interval_text(result, decimals),
        level_text(result.level) if result.low is not None else "",
        f"{result.wins}/{len(result.seeds)}",
        verdict_cell(result),
    ]


def add_values(page: Page, comparison: Comparison, names: Sequence[str]) -> None:
    """Each value by seed; of a single contender with its differences. Many arms are in several tables."""
    decimals = table_decimals(comparison)
    seeds = sorted({one.seed for one in comparison.measurements})
    states = {(one.arm, one.seed): state_text(one) for one in comparison.measurements}
    differences = seed_differences(comparison, comparison.results[0]) if len(comparison.results) == 1 else {}
    arms = ranked_arms(comparison)
    for first in range(0, len(arms), ARMS_BESIDE):
        block = arms[first : first + ARMS_BESIDE]
        values = [arm_values(comparison, arm) for arm in block]
        rows = [
            [
                str(seed),
                *(
                    decimal_text(of_arm[seed], decimals) if seed in of_arm else states.get((arm, seed), "")
                    for arm, of_arm in zip(block, values, strict=True)
                ),
                *([decimal_text(differences.get(seed), decimals, sign=True)] if differences else []),
            ]
            for seed in seeds
        ]
        columns = ["seed", *(names[arm] for arm in block), *(["difference"] if differences else [])]
        page.table(columns, rows, numbers=range(len(columns)))


def seed_differences(comparison: Comparison, result: Result) -> dict[int, float]:
    """Contender minus base for each pair, by seed."""
    base, contender = arm_values(comparison, 0), arm_values(comparison, result.arm)
    return {seed: contender[seed] - base[seed] for seed in result.seeds if seed in base and seed in contender}


def add_costs(page: Page, comparison: Comparison, names: Sequence[str]) -> None:
    """What each arm costs, with ratios to the base."""
    costs = cost_texts(comparison)
    if not costs:
        return
    page.section("Costs")
    page.note("Of finished runs: the median speed, seconds spent in steps on average, and the largest memory.")
    columns = ["arm", *(name for cost in costs for name in (cost, ""))]
    rows = [[names[arm], *(text for cells in costs.values() for text in cells[arm])] for arm in ranked_arms(comparison)]
    page.table(columns, rows, numbers=range(1, len(columns)))


def add_changes(page: Page, comparison: Comparison, names: Sequence[str]) -> None:
    """In what the configuration of each contender differs from the base's."""
    labels = distinct_labels(comparison)
    rows: list[list[object]] = []
    for arm in ranked_arms(comparison)[1:]:
        name = names[arm] if names[arm] == labels[arm] else f"{names[arm]}: {labels[arm]}"
        changes = comparison.arms[arm].changes
        if not changes:
            rows.append([name, "no option differs", None, None])
        for key, (before, after) in changes.items():
            rows.append([name, one_line(key), *(one_line(value or "unset") for value in (before, after))])
            name = ""
    if rows:
        page.section("Changes")
        page.table(["arm", "option", f"in the base, {names[0]}", "in the arm"], rows)


def add_failures(page: Page, comparison: Comparison, names: Sequence[str]) -> None:
    """The runs without a value, with their reasons."""
    failed = [one for one in comparison.measurements if one.value is None]
    if failed:
        page.section("Runs without a value")
        rows = [[names[one.arm], str(one.seed), state_text(one), one_line(one.reason)] for one in failed]
        page.table(["arm", "seed", "state", "reason"], rows, numbers=[1])


def add_runs(page: Page, comparison: Comparison, names: Sequence[str], problems: Sequence[str]) -> None:
    """Every run with its folder; `problems` say of each what is missing of it."""
    page.section("Runs")
    columns = ["arm", "seed", "state", "steps", "tokens", "seconds", "trained", "folder", "not found"]
    rows = [run_cells(names, one, problem) for one, problem in zip(comparison.measurements, problems, strict=True)]
    if not any(problems):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    page.table(columns, rows)


def run_cells(names: Sequence[str], one: Measurement, problem: str) -> list[object]:
    cost = [one.steps, one.tokens, round(one.seconds, 1)]
    trained = "before" if one.is_reused else "for this"
    return [names[one.arm], str(one.seed), one.state, *cost, trained, one_line(one.run), problem]
