"""The page of several runs, grouped by configuration. It claims no verdict: `compare` gives one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from nanogpt_kit.report.metric_curves import MAX_PANELS, TRAIN_LOSS, CurveGroup, first_panels, window_width
from nanogpt_kit.report.page import NO_FIGURES, Page, has_figures, utc_time
from nanogpt_kit.report.run_groups import (
    SeedGroup,
    comparable_sets,
    group_runs,
    main_metric,
    mean_and_sd,
    mixed_warnings,
    seed_text,
)
from nanogpt_kit.report.run_results import ReportedRun
from nanogpt_kit.report.run_sections import add_differences, add_provenance, add_samples
from nanogpt_kit.runs.description import value_text
from nanogpt_kit.runs.ranking import BITS_PER_BYTE, LOSS
from nanogpt_kit.runs.secrets import hide_in_text

MAX_NAMED = 4  # groups in a sentence
MAX_LINES = 20  # groups in a figure
MAX_SEEDS = 12  # columns of a table
MAX_RUNS = 40  # in the table of their origins


def runs_of_groups_page(runs: Sequence[ReportedRun], compare_command: Callable[[str], str]) -> Page:
    groups = group_runs(runs)
    metric = main_metric(groups)
    names = {run.row.experiment for run in runs}
    page = Page(f"{len(runs)} runs of {next(iter(names)) if len(names) == 1 else f'{len(names)} experiments'}")
    page.lead(lead_text(groups, metric))
    for text in [*comparability_warnings(groups), *left_out_warnings(groups), *mixed_warnings(groups)]:
        page.warning(text)
    add_results(page, groups, metric)
    if len(groups) > 1:
        is_comparable = len(comparable_sets(groups, metric)) == 1
        add_way_to_a_verdict(page, compare_command(metric) if is_comparable else "")
    page.note(f"Written {utc_time(time.time())}.")
    if not has_figures():
        page.note(NO_FIGURES)
    else:
        add_figures(page, groups, metric)
    if len(groups) > 1:
        add_differences(page, {group.name: group.representative for group in groups})
    add_samples(page, {group.name: group.representative for group in groups})
    add_runs(page, groups)
    first = [run.row for run in runs[:MAX_RUNS]]
    add_provenance(page, {row.reference: row for row in first})
    if len(runs) > len(first):
        page.note(f"The first {MAX_RUNS} of {len(runs):,} runs.")
    return page


def lead_text(groups: Sequence[SeedGroup], metric: str) -> str:
    """One group: its mean and spread. Several: what they are; their values are in the table."""
    if len(groups) > 1:
        return " ".join(
            [f"{len(groups)} configurations, each over the seeds of its runs.", *group_results(groups, metric)]
        )
    values = groups[0].final_values(metric)
    mean, sd = mean_and_sd(values.values())
    if mean is None:
        return f"One configuration. No finished run of it has {metric}."
    spread = f", standard deviation {sd:.4f}" if sd is not None else ""
    runs = "seed" if len(values) == 1 else "seeds"
    return f"{metric} {mean:.4f}{', the mean' if sd is not None else ''} over {len(values)} {runs}{spread}."


def group_results(groups: Sequence[SeedGroup], metric: str) -> list[str]:
    """One sentence with the mean of each group, where they compare and are few."""
    means = {group.name: group.final_values(metric) for group in groups}
    if len(groups) > MAX_NAMED or len(comparable_sets(groups, metric)) != 1 or not all(means.values()):
        return []
    texts = [f"{name} {mean_and_sd(found.values())[0]:.4f} (n = {len(found)})" for name, found in means.items()]
    return [f"{metric}: {', '.join(texts)}."]


def comparability_warnings(groups: Sequence[SeedGroup]) -> list[str]:
    """Where values of val/loss do not compare, and what compares instead."""
    if len(comparable_sets(groups, LOSS)) < 2:
        return []
    bits = comparable_sets(groups, BITS_PER_BYTE)
    instead = ""
    if len(bits) == 1 and len(bits[0]) == len(groups):
        instead = f" {BITS_PER_BYTE}, which depends on no tokenizer, compares between them."
    why = "their tokens, their text or their evaluators differ, and a loss is in nats per token"
    return [f"{LOSS} does not compare between these groups: {why}. Each figure shows groups that compare.{instead}"]


def left_out_warnings(groups: Sequence[SeedGroup]) -> list[str]:
    """Groups with seeds that have no result: the mean of the others may flatter them."""
    sentences = []
    for group in groups:
        states = Counter(run.row.state for run in group.by_seed.values() if run.row.state != "finished")
        if states:
            text = ", ".join(f"{count} {state}" for state, count in states.items())
            runs = f"{states.total()} of {len(group.by_seed)} seeds"
            sentences.append(f"The mean of {group.name} leaves out {runs}, whose runs are not finished: {text}.")
    return sentences


def add_results(page: Page, groups: Sequence[SeedGroup], metric: str) -> None:
    """Mean, standard deviation and the value of each seed, at the last evaluation of each finished run."""
    page.section("Results")
    page.note(f"{metric} at the last evaluation of each finished run, never a best value. n: seeds; sd: over seeds.")
    values = {group.name: group.final_values(metric) for group in groups}
    seeds = sorted({seed for found in values.values() for seed in found if seed is not None})
    has_columns = len(seeds) <= MAX_SEEDS and all(None not in found for found in values.values())
    columns = [seed_text(seed) for seed in seeds] if has_columns else ["values by seed"]
    rows = []
    for group in groups:
        found = values[group.name]
        by_seed = ", ".join(f"{seed_text(seed)}: {value_text(value)}" for seed, value in found.items())
        cells = [cell(found.get(seed)) for seed in seeds] if has_columns else [by_seed]
        rows.append([group.name, len(found), *map(cell, mean_and_sd(found.values())), *cells])
    numbers = range(1, 4 + len(columns)) if has_columns else range(1, 4)
    page.table(["configuration", "n", "mean", "sd", *columns], rows, numbers=numbers)
    repeated = sum(len(group.runs) - len(group.by_seed) for group in groups)
    if repeated:
        what = "Another run has" if repeated == 1 else f"{repeated} other runs have"
        page.note(f"{what} the seed of one that is counted here; see the table of runs.")


def cell(value: float | None) -> str | None:
    return None if value is None else value_text(value)


def add_way_to_a_verdict(page: Page, command: str) -> None:
    if command:
        page.note("Whether a difference is more than chance, this page does not say. This command judges it by seeds:")
        page.command(command)
    else:
        page.note(
            "Whether a difference is more than chance, this page does not say. `nanogpt-kit compare` judges "
            "configurations that were measured alike and share at least two seeds; with --seeds it trains what is "
            "missing."
        )


def add_figures(page: Page, groups: Sequence[SeedGroup], metric: str) -> None:
    """The main metric, the other evaluations, the training loss, then small figures."""
    from nanogpt_kit.report.run_curves import draw_curves

    metrics = dict.fromkeys(name for group in groups for run in group.runs for name in run.curves)
    evaluated = [name for name in metrics if any(is_evaluated(group, name) for group in groups)]
    large = dict.fromkeys(name for name in (metric, LOSS, *evaluated, TRAIN_LOSS) if name in metrics)
    for name in large:
        sets = comparable_sets(groups, name)
        for some in sets:
            title = name if len(sets) == 1 else f"{name}: {', '.join(group.name for group in some)}"
            page.block(title, curve_note(some, name), draw_curves(curve_groups(groups, some, name), name))
    small = first_panels(name for name in metrics if name not in large)
    panels = [(name, [group for group in groups if group.has(name)]) for name in small[:MAX_PANELS]]
    page.block(
        "Training",
        "Colours as above.",
        figures=[draw_curves(curve_groups(groups, some, name), name, 230, has_legend=False) for name, some in panels],
    )


def curve_groups(groups: Sequence[SeedGroup], some: Sequence[SeedGroup], metric: str) -> list[CurveGroup]:
    """The curves of `some` of the groups, in the colours that they have in every figure."""
    return [group.curves(metric, groups.index(group)) for group in some[:MAX_LINES]]


def is_evaluated(group: SeedGroup, metric: str) -> bool:
    return any(metric in run.curves and run.curves[metric].is_evaluated for run in group.runs)


def curve_note(groups: Sequence[SeedGroup], metric: str) -> str:
    notes = []
    if any(len(group.by_seed) > 1 for group in groups):
        notes.append(
            "Lines are means over seeds, bands reach from the lowest run to the highest, faint lines are runs."
        )
    width = window_width([curve for group in groups for curve in group.curves(metric, 0).curves.values()])
    if width > 1:
        notes.append(
            f"Line and band are means over {width:,} steps; the faint lines keep each run's lowest and highest values."
        )
    if len(groups) > MAX_LINES:
        notes.append(f"The first {MAX_LINES} of {len(groups)} groups.")
    return " ".join(notes)


def add_runs(page: Page, groups: Sequence[SeedGroup]) -> None:
    page.section("Runs")
    metrics = [name for name in (LOSS, BITS_PER_BYTE) if any(group.has(name) for group in groups)]
    rows: list[list[object]] = []
    for group in groups:
        for run in group.runs:
            row, last = run.row, [run.last(name) for name in metrics]
            values = [one[1] if one and one[1] == one[1] else None for one in last]
            costs = [row.tokens or None, round(row.seconds, 1) or None, hide_in_text(row.note) or None]
            seed = None if row.seed is None else str(row.seed)  # not 1,337
            rows.append([row.reference, group.name, seed, row.state, row.step, *map(cell, values), *costs])
    columns = ["run", "configuration", "seed", "state", "step", *metrics, "tokens", "seconds", "note"]
    page.table(columns, rows, numbers=(2, *range(5, 5 + len(metrics))))
