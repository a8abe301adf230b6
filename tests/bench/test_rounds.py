"""Two experiments timed by turns, and what may be said of their ratio."""

from __future__ import annotations

import functools
import random
import statistics
from pathlib import Path

import pytest

from nanogpt_kit.bench.rounds import median_interval, paired_ratios, time_alternating
from nanogpt_kit.bench.training import PARTS
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


def test_a_wider_model_is_slower_and_its_parts_make_a_step(tiny: Path) -> None:
    wide = ["model.n_embd=96", "model.n_layer=3", "callback=[]"]
    loaders = [functools.partial(Experiment.load, tiny, overrides) for overrides in (["callback=[]"], wide)]
    small, large = time_alternating(loaders, rounds=3, seconds=0.2)
    assert statistics.median(paired_ratios(small, large)) > 1.3
    for timing in (small, large):
        step = timing.facts["step_tokens"] / timing.tokens_per_second
        assert tuple(timing.parts) == PARTS
        assert all(seconds >= 0 for seconds in timing.parts.values())
        assert 0.3 < sum(timing.parts.values()) / step < 3
        assert timing.parts["backward"] > timing.parts["data"]
        assert timing.mfu is not None
        assert 0 < timing.mfu < 1
    assert not list((tiny.parent / "runs").glob("*"))  # nothing stays


def broken() -> Experiment:
    raise KitError("a mistake")


def test_a_mistake_in_the_process_that_times_is_told_here() -> None:
    with pytest.raises(KitError, match="a mistake"):
        time_alternating([broken], rounds=1, seconds=0.1)
