"""The ledger as rows of texts: one for each contender of each comparison."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from nanogpt_kit.comparison.numbers import decimal_text, level_text, value_decimals
from nanogpt_kit.comparison.record import Comparison, Result
from nanogpt_kit.comparison.sentences import interval_text, label_of
from nanogpt_kit.core.duration import format_duration
from nanogpt_kit.runs.description import one_line


class LedgerRow(NamedTuple):
    """Of one contender; the fields are the names of columns, of which a narrow terminal shows the first ones."""

    date: str  # of the last look, in local time
    base: str
    change: str
    verdict: str
    difference: str
    interval: str
    seeds: str  # count of pairs
    time: str  # trained for the whole comparison
    kind: str
    metric: str
    level: str  # of the interval


def ledger_rows(comparisons: Iterable[Comparison], verdicts: Collection[str] = ()) -> Iterator[LedgerRow]:
    """Rows in the order of the comparisons; only those with one of the verdicts, where some are given."""
    for comparison in comparisons:
        for result in comparison.results:
            if not verdicts or result.verdict in verdicts:
                yield contender_row(comparison, result)
        if not comparison.results and not verdicts:
            yield noise_row(comparison)


def contender_row(comparison: Comparison, result: Result) -> LedgerRow:
    decimals = value_decimals(comparison)
    return noise_row(comparison)._replace(
        change=change_text(comparison, result.arm),
        seeds=str(len(result.seeds)),
        difference=decimal_text(result.difference, decimals, sign=True),
        interval=interval_text(result, decimals),
        level=level_text(result.level) if result.low is not None else "",
        verdict=result.verdict,
    )


def noise_row(comparison: Comparison) -> LedgerRow:
    """Of a comparison without verdicts."""
    return LedgerRow(
        date=time.strftime("%Y-%m-%d", time.localtime(comparison.time)),
        base=label_of(comparison, 0),
        change=change_text(comparison, 1) if len(comparison.arms) > 1 else "",
        verdict="",
        difference="",
        interval="",
        seeds=str(len({measurement.seed for measurement in comparison.measurements})),
        time=format_duration(comparison.seconds),
        kind=comparison.kind,
        metric=one_line(comparison.metric),
        level="",
    )


def change_text(comparison: Comparison, arm: int) -> str:
    """The label of a contender where that is its change, as "model.mlp=swiglu"; else with the changes behind it."""
    label, changes = label_of(comparison, arm), comparison.arms[arm].changes
    if "=" in label or not changes:
        return label
    texts = (f"{key} from {before or 'unset'} to {after or 'unset'}" for key, (before, after) in changes.items())
    return f"{label}: {one_line(', '.join(texts))}"
