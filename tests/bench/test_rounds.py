"""Two experiments timed by turns, and what may be said of their ratio."""

from __future__ import annotations

import random

import pytest

from nanogpt_kit.bench.rounds import median_interval, time_alternating
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment


def test_the_interval_holds_the_true_median_as_often_as_it_promises() -> None:
    draw = random.Random(1)
    for count in (6, 9, 15):
        contained = 0
        for _ in range(2000):
            low, high = median_interval([draw.lognormvariate(0, 1) for _ in range(count)])  # its median is 1
            contained += low <= 1 <= high
        assert contained / 2000 > 0.94
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([float(n) for n in range(9)]) == (1.0, 7.0)


def broken() -> Experiment:
    raise KitError("a mistake")


def test_a_mistake_in_a_worker_process_is_raised_in_its_parent() -> None:
    with pytest.raises(KitError, match="a mistake"):
        time_alternating([broken], rounds=1, seconds=0.1)
