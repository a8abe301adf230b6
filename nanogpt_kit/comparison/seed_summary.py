"""The metrics of one experiment over seeds: mean, standard deviation, and the interval of the mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanogpt_kit.comparison.intervals import ALPHA, Sample
from nanogpt_kit.comparison.numbers import decimal_text, spread_decimals
from nanogpt_kit.runs.metrics import is_finite_number


@dataclass(frozen=True)
class SeedSummary:
    """A metric at the end of runs that differ in their seed alone."""

    metric: str
    values: Mapping[int, float]  # by seed

    @property
    def sample(self) -> Sample:
        return Sample.of(list(self.values.values()))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% t interval of the mean; None for a single value."""
        return self.sample.interval() if len(self.values) > 1 else None

    def text(self) -> str:
        """Two lines for people; one for a single value."""
        (first, *others), sample = self.values, self.sample
        decimals = spread_decimals([sample.sd])
        mean = decimal_text(sample.mean, decimals)
        if not others or self.interval is None:
            return f"{self.metric}: {mean} with seed {first}; two finished runs give an interval"
        low, high = (decimal_text(end, decimals) for end in self.interval)
        spread = f"mean {mean}, standard deviation {sample.sd:.3g}"
        interval = f"{1 - ALPHA:.0%} interval of the mean {low} to {high}"
        values = ", ".join(decimal_text(value, decimals) for value in self.values.values())
        return f"{self.metric}: {spread}, {interval}\n  seeds {', '.join(map(str, self.values))}: {values}"

    def record(self) -> dict[str, Any]:
        """For programs; the keys are listed in docs/guide/agents.md."""
        sample = self.sample
        values = [{"seed": seed, "value": value} for seed, value in self.values.items()]
        return {"n": sample.n, "mean": sample.mean, "sd": sample.sd, "interval": self.interval, "values": values}


def summarize_seeds(metrics: Mapping[int, Mapping[str, Any]]) -> list[SeedSummary]:
    """A summary of each metric, in the order of the evaluators; `metrics` are those of each run, by its seed.

    A value that is not finite is left out.
    """
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    of_metric = {
        name: {seed: float(values[name]) for seed, values in metrics.items() if is_finite_number(values.get(name))}
        for name in names
    }
    return [SeedSummary(name, values) for name, values in of_metric.items() if values]
