"""Parameters of a test over a product of axes: by default few cases in which any two values meet, all under `slow`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

Case = tuple[Any, ...]


def pairwise_cases(*axes: Sequence[Any], allowed: Callable[..., bool] = lambda *case: True) -> list[Any]:
    """The whole product of `axes`, less what is not `allowed`; cases that add no new pair of values are slow."""
    cases = [case for case in itertools.product(*axes) if allowed(*case)]
    chosen = covering(cases)
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.slow) for case in cases]


def covering(cases: Sequence[Case]) -> list[Case]:
    """Some of the cases in which all pairs of values occur that occur in any: greedily, the same every time."""
    of_case = [pairs(case) for case in cases]
    missing = set().union(*of_case)
    chosen = []
    while missing:
        best = max(range(len(cases)), key=lambda index: len(of_case[index] & missing))
        chosen.append(cases[best])
        missing -= of_case[best]
    return chosen


def pairs(case: Case) -> set[Any]:
    return set(itertools.combinations([(axis, repr(value)) for axis, value in enumerate(case)], 2))
