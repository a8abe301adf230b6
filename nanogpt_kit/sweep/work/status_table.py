"""The tables of a sweep's results, and how values are written in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import printable
from nanogpt_kit.sweep.space.parameters import format_value
from nanogpt_kit.sweep.study.branches import Branch
from nanogpt_kit.sweep.study.confirmation import direction_sign
from nanogpt_kit.sweep.study.summary import ENDED, SweepSummary, TrialSummary
from nanogpt_kit.sweep.work.fitted_table import NARROW, columns_with_text, fitted_table, joined_cells
from nanogpt_kit.sweep.work.seed_text import sd_of

DROPPED_FIRST = ("tokens", "time", "n")  # columns, where there is little space
WRAPPED = ("values", "reason")


def trials_table(summary: SweepSummary, width: int = 200) -> Table:
    """All trials, the best first, each followed by its fresh seeds, if it has any.

    Where `width` columns cannot hold every word, less important columns are left out.
    """
    sign = direction_sign(summary.options.direction)

    def sort_key(trial: TrialSummary) -> tuple[bool, float]:
        return trial.state != "complete", float("inf") if trial.value is None else sign * trial.value

    rows = [cells for trial in sorted(summary.trials, key=sort_key) for cells in rows_of(trial, summary)]
    if width < NARROW:
        rows = [joined_cells(row, "values", "reason") for row in rows]
    names = ("trial", "state", "value", "sd", "n", "tokens", "time", "values", "reason")
    headers = {name: name for name in names} | {"value": summary.options.metric}
    columns = columns_with_text(headers, rows, ("sd", "n", "reason"))
    return fitted_table(columns, rows, width, DROPPED_FIRST, WRAPPED)


def rows_of(trial: TrialSummary, summary: SweepSummary) -> Iterator[dict[str, str]]:
    """The texts of a trial by their columns, and those of its fresh seeds."""
    yield {
        "trial": str(trial.index),
        "state": trial.state,
        "value": "" if trial.value is None else f"{trial.value:.4f}",
        **spread_cells(trial.values),
        "tokens": f"{trial.tokens:,}",
        "time": format_duration(trial.seconds),
        "values": format_config(trial.config),
        "reason": printable(trial.reason) if trial.state in ("failed", "pruned") else "",
    }
    for confirmed in summary.confirmed:
        if confirmed.index == trial.index:
            empty = dict.fromkeys(("tokens", "time", "values", "reason"), "")
            spread = spread_cells(confirmed.values)
            yield {**empty, "trial": str(trial.index), "state": "confirmed", "value": f"{confirmed.mean:.4f}", **spread}


def spread_cells(values: Sequence[float]) -> dict[str, str]:
    sd = sd_of(values)
    return {"sd": "" if sd is None else f"{sd:.4f}", "n": str(len(values)) if values else ""}


# Branches


def branches_table(summary: SweepSummary, width: int = 200) -> Table:
    """The best trial of each branch, with the trials that the branch had."""
    rows = [branch_cells(branch, summary) for branch in summary.branches]
    names = ("branch", "trials", "complete", "best", "value", "fresh", "sd", "n")
    headers = {name: name for name in names} | {"value": summary.options.metric}
    columns = columns_with_text(headers, rows, ("fresh", "sd", "n"))
    return fitted_table(columns, rows, width, ("complete", "n"), ("branch",))


def branch_cells(branch: Branch, summary: SweepSummary) -> dict[str, str]:
    """Its name, ended trials and best trial by the search, with the mean of that trial's fresh seeds.

    The spread is that of the fresh seeds; where no trial has any, of the seeds of the search.
    """
    trials, best = summary.trials_of(branch), summary.best_of(branch)
    fresh = next((one for one in summary.confirmed if best is not None and one.index == best.index), None)
    searched = () if best is None or summary.confirmed else best.values
    return {
        "branch": printable(branch.label),
        "trials": str(sum(trial.state in ENDED for trial in trials)),
        "complete": str(sum(trial.state == "complete" for trial in trials)),
        "best": "" if best is None else str(best.index),
        "value": "" if best is None or best.value is None else f"{best.value:.4f}",
        "fresh": f"{fresh.mean:.4f}" if fresh else "",
        **spread_cells(fresh.values if fresh else searched),
    }


# Values


def format_config(config: Mapping[str, Any]) -> str:
    """optimizer.lr=0.0003  model.norm=rmsnorm."""
    texts = {key: f"{value:.4g}" if isinstance(value, float) else format_value(value) for key, value in config.items()}
    return printable("  ".join(f"{key}={text}" for key, text in texts.items()))
