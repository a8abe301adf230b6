"""The table of `sweep status`, and how values are written in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import printable
from nanogpt_kit.sweep.space.parameters import format_value
from nanogpt_kit.sweep.study.confirmation import direction_sign
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary

DROPPED_FIRST = ("tokens", "time")  # columns, where there is little space


def trials_table(summary: SweepSummary, width: int = 200) -> Table:
    """All trials, the best first. Where `width` columns cannot hold every word, less important columns are left out."""
    sign = direction_sign(summary.options.direction)

    def sort_key(trial: TrialSummary) -> tuple[bool, float]:
        return trial.state != "complete", float("inf") if trial.value is None else sign * trial.value

    rows = [cells_of(trial, summary.options.metric) for trial in sorted(summary.trials, key=sort_key)]
    reasons = ["reason"] if any(row["reason"] for row in rows) else []
    names = ["trial", "state", summary.options.metric, "tokens", "time", "values", *reasons]
    for dropped in DROPPED_FIRST:
        if sum(2 + min_width(name, [row[name] for row in rows]) for name in names) <= width:
            break
        names.remove(dropped)
    table = plain_table(*names)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names))
    return table


def cells_of(trial: TrialSummary, metric: str) -> dict[str, str]:
    """The texts of a trial by their columns."""
    return {
        "trial": str(trial.index),
        "state": trial.state,
        metric: "" if trial.value is None else f"{trial.value:.4f}",
        "tokens": f"{trial.tokens:,}",
        "time": format_duration(trial.seconds),
        "values": format_config(trial.config),
        "reason": printable(trial.reason) if trial.state in ("failed", "pruned") else "",
    }


def min_width(name: str, texts: Sequence[str]) -> int:
    """The columns that a column of the table needs: only values and reasons may be wrapped."""
    if name in ("values", "reason"):
        texts = [word for text in texts for word in text.split()]
    return max(map(len, [name, *texts]))


def plain_table(*columns: str) -> Table:
    """A table without lines. Users' text is added as rich Text: a str would be searched for markup and emoji names."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(Text(name))
    return table


def format_config(config: Mapping[str, Any]) -> str:
    """optimizer.lr=0.0003  model.norm=rmsnorm."""
    texts = {key: f"{value:.4g}" if isinstance(value, float) else format_value(value) for key, value in config.items()}
    return printable("  ".join(f"{key}={text}" for key, text in texts.items()))
