"""The source of each window: after every window, each source has its proportion to within one window."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.data.quota import NEAR_WINDOWS, QuotaSequence, whole_weights

AWKWARD = (0.137, 0.2913, 0.0002, 0.31, 0.2615)  # their sum is 1, and 10,000 of it are whole windows


def counts_by_hand(sources: np.ndarray, n_sources: int) -> list[list[int]]:
    """The windows of each source after each window, by counting one after the other."""
    counts, after = [0] * n_sources, []
    for source in sources.tolist():
        counts[source] += 1
        after.append(list(counts))
    return after


def test_three_to_one_is_exact_after_every_window() -> None:
    sequence = QuotaSequence(whole_weights([3.0, 1.0]))
    for n, (of_first, of_second) in enumerate(counts_by_hand(sequence.of_windows(0, 40), 2), start=1):
        assert abs(of_first - 3 * n / 4) < 1
        assert abs(of_second - n / 4) < 1
        if n % 4 == 0:
            assert (of_first, of_second) == (3 * n // 4, n // 4)


def test_awkward_weights_are_within_one_window_after_every_window() -> None:
    sequence = QuotaSequence(whole_weights(AWKWARD))
    proportions = [Fraction(str(weight)) for weight in AWKWARD]
    for n, counts in enumerate(counts_by_hand(sequence.of_windows(0, 12_000), 5), start=1):
        assert max(abs(count - n * fraction) for count, fraction in zip(counts, proportions, strict=True)) < 1, n


@given(weights=st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any), first=st.integers(0, 400))
def test_windows_from_any_index_on_are_those_of_the_whole_sequence(weights: list[int], first: int) -> None:
    sequence = QuotaSequence(whole_weights(weights))
    whole = sequence.of_windows(0, first + 50)
    assert np.array_equal(sequence.of_windows(first, 50), whole[first:])
    for n, counts in enumerate(counts_by_hand(whole, len(weights)), start=1):
        assert [sequence.windows_before(source, n) for source in range(len(weights))] == counts
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - Fraction(n * weight, sum(weights))) < 1
    assert [sequence.windows_before(source, 0) for source in range(len(weights))] == [0] * len(weights)


def test_a_window_late_in_a_long_run_is_found_without_those_before_it() -> None:
    sequence = QuotaSequence((3, 1))
    assert sequence.windows_before(0, 4 * 10**15 + 3) == 3 * 10**15 + 3
    assert sequence.of_windows(4 * 10**15, 4).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([3.0, 1.0], (3, 1)),
        ([0.7, 0.2, 0.1], (7, 2, 1)),
        ([0.1, 0.1], (1, 1)),
        ([0.0, 2.5], (0, 1)),
        ([12, Fraction(7, 2)], (24, 7)),
    ],
)
def test_weights_are_taken_as_they_are_written_in_decimals(weights: list[float], whole: tuple[int, ...]) -> None:
    assert whole_weights(weights) == whole


@given(st.lists(st.floats(0, 1e9) | st.sampled_from([0.0, 1.0, 1e-9, 1 / 3, 5e8]), min_size=1, max_size=7).filter(any))
def test_weights_of_many_digits_are_within_one_window_after_every_window(weights: list[float]) -> None:
    exact = [Fraction(str(weight)) for weight in weights]
    sources = QuotaSequence(whole_weights(weights)).of_windows(0, 60)
    for n, counts in enumerate(counts_by_hand(sources, len(weights)), start=1):
        for count, weight in zip(counts, exact, strict=True):
            assert abs(count - n * weight / sum(exact)) < 1


def test_weights_of_many_digits_do_not_drift_in_a_long_run() -> None:
    weights = whole_weights([1.234567, 2.345678, 0.0000001])
    sequence, n = QuotaSequence(weights), NEAR_WINDOWS + 1234
    counts = np.bincount(sequence.of_windows(0, n), minlength=3)
    for source, (count, weight) in enumerate(zip(counts.tolist(), weights, strict=True)):
        assert abs(count - Fraction(n * weight, sum(weights))) < 1
        assert 0 <= sequence.most_windows(source, n) - count <= 1
    later = QuotaSequence(weights)  # as in a resumed run
    assert [later.windows_before(source, n) for source in range(3)] == counts.tolist()
    assert np.array_equal(later.of_windows(n, 100), sequence.of_windows(n, 100))
