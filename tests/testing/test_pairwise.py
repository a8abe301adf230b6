"""Cases chosen from a product hold every pair of values that the product holds."""

from __future__ import annotations

import itertools

from tests.pairwise import covering, pairs, pairwise_cases


def test_chosen_cases_hold_every_pair_and_are_few() -> None:
    cases = list(itertools.product("abc", range(4), (True, False), "xyz"))
    chosen = covering(cases)
    assert set().union(*map(pairs, chosen)) == set().union(*map(pairs, cases))
    assert len(chosen) <= 2 * 4 * 3
    assert covering(cases) == chosen


def test_by_default_these_run_and_under_slow_all() -> None:
    found = pairwise_cases("ab", range(3), "xy", allowed=lambda a, b, c: (a, c) != ("a", "x"))
    assert [parameters.values for parameters in found] == [
        case for case in itertools.product("ab", range(3), "xy") if (case[0], case[2]) != ("a", "x")
    ]
    assert 0 < sum(not parameters.marks for parameters in found) < len(found)
