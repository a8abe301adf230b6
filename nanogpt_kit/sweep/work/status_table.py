"""The table of `sweep status`, and how values are written in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.core.errors import printable
from nanogpt_kit.sweep.space.parameters import format_value
from nanogpt_kit.sweep.study.confirmation import direction_sign
from nanogpt_kit.sweep.study.summary import SweepSummary, TrialSummary


def trials_table(summary: SweepSummary) -> Table:
    """All trials, the best first."""
    sign = direction_sign(summary.options.direction)

    def sort_key(trial: TrialSummary) -> tuple[bool, float]:
        return trial.state != "complete", float("inf") if trial.value is None else sign * trial.value

    table = plain_table("trial", "state", summary.options.metric, "tokens", "time", "values", "reason")
    for trial in sorted(summary.trials, key=sort_key):
        value = "" if trial.value is None else f"{trial.value:.4f}"
        reason = trial.reason if trial.state in ("failed", "pruned") else ""
        values, duration = Text(format_config(trial.config)), format_duration(trial.seconds)
        table.add_row(
            str(trial.index), trial.state, value, f"{trial.tokens:,}", duration, values, Text(printable(reason))
        )
    return table


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
