"""Metrics over seeds."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy import stats

from nanogpt_kit.comparison.seed_summary import SeedSummary, summarize_seeds


def test_the_interval_is_the_t_interval_of_the_mean() -> None:
    values = {7: 1.25, 8: 1.5, 9: 1.125, 10: 1.375}
    summary = SeedSummary("val/loss", values)
    given = list(values.values())
    error = statistics.stdev(given) / math.sqrt(4)
    expected = stats.t.interval(0.95, 3, loc=statistics.mean(given), scale=error)
    assert summary.interval == pytest.approx(expected)
    assert summary.record()["sd"] == pytest.approx(statistics.stdev(given))
    low, high = expected
    spread = f"mean 1.3125, standard deviation {statistics.stdev(given):.3g}"
    assert summary.text() == (
        f"val/loss: {spread}, 95% interval of the mean {low:.4f} to {high:.4f}\n"
        "  seeds 7, 8, 9, 10: 1.2500, 1.5000, 1.1250, 1.3750"
    )


def test_a_single_value_has_no_interval() -> None:
    summary = SeedSummary("val/loss", {3: 2.5})
    assert (summary.interval, summary.record()["sd"]) == (None, None)
    assert "2.5000 with seed 3" in summary.text()


def test_metrics_keep_their_order_and_a_value_that_is_not_finite_is_left_out() -> None:
    metrics = {1: {"val/loss": 2.0, "a/accuracy": None}, 2: {"val/loss": 3.0, "a/accuracy": 0.5}, 4: {}}
    loss, accuracy = summarize_seeds(metrics)
    assert (loss.metric, dict(loss.values)) == ("val/loss", {1: 2.0, 2: 3.0})
    assert (accuracy.metric, dict(accuracy.values)) == ("a/accuracy", {2: 0.5})
    assert summarize_seeds({1: {}, 2: {"x/y": math.nan}}) == []
