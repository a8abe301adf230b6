"""The Polar Express against the paper: the polynomials are the best ones, and singular values end close to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from nanogpt_kit_optimizers.polar_express import COEFFICIENTS, OPTIMAL, SAFETY, polar_factor
from torch import Tensor

LOWEST = 1e-3  # singular value of the range that the coefficients are made for
CUSHION = 0.02407327424182761


def best_quintic(low: float, high: float) -> tuple[float, float, float]:
    """The odd polynomial of degree 5 with the least distance to 1 on [low, high], by Remez' exchange of points."""
    inner = np.array([(3 * low + high) / 4, (low + 3 * high) / 4])
    for _ in range(60):
        points = np.array([low, *inner, high])
        columns = [points, points**3, points**5, np.array([1.0, -1.0, 1.0, -1.0])]
        a, b, c, _ = np.linalg.solve(np.stack(columns, axis=1), np.ones(4))
        inner = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))  # where the polynomial is extreme
    return a, b, c


def test_each_polynomial_is_the_best_for_the_range_that_those_before_leave() -> None:
    """The first three are made for a range that ends at a fortieth of its upper bound, and then multiplied so that the
    whole range is mapped around 1: the paper's cushion, which keeps them from being too steep."""
    low, high = LOWEST, 1.0
    for a, b, c in OPTIMAL[:6]:
        found = np.array(best_quintic(max(low, CUSHION * high), high))
        if low < CUSHION * high:
            found *= 2 / (value(found, low) + value(found, high))
        np.testing.assert_allclose((a, b, c), found, rtol=1e-9)
        low, high = value((a, b, c), low), 2 - value((a, b, c), low)


def value(coefficients: Sequence[float], x: float) -> float:
    a, b, c = coefficients
    return a * x + b * x**3 + c * x**5


def with_singular_values(values: Tensor, rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    u, v = (torch.linalg.qr(torch.randn(n, len(values), generator=generator).double())[0] for n in (rows, columns))
    return u @ torch.diag(values) @ v.mT


def singular_values(matrix: Tensor, iterations: int) -> Tensor:
    return torch.linalg.svdvals(polar_factor(matrix[None], iterations)[0].double())


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0, 900.0])
@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40)])
@pytest.mark.parametrize("iterations", [6, 7, 8, 11])
def test_singular_values_end_within_a_hundredth_of_1(iterations: int, shape: tuple[int, int], condition: float) -> None:
    """Down to a thousandth of the norm of the matrix: beyond, the published coefficients have no guarantee."""
    values = torch.logspace(0, -np.log10(condition), 24, dtype=torch.float64)
    values[1:] /= 20 if condition == 1.0 else 1  # else all are a fifth of the norm
    values = values.clamp_min(1.05 * LOWEST * values.norm())
    after = singular_values(with_singular_values(values, *shape), iterations)
    assert 0.99 < after.min() <= after.max() < 1.01


def test_five_iterations_end_where_the_paper_says() -> None:
    values = torch.logspace(-3, 0, 300, dtype=torch.float64)[:24]
    values = torch.cat([values, torch.tensor([1.0])])
    after = singular_values(with_singular_values(values, 30, 25), 5)
    assert 0.83 < after.min() < 0.87
    assert 1.05 < after.max() < 1.13


def test_smaller_singular_values_grow_and_keep_below_1() -> None:
    values = torch.tensor([1.0, 1e-5], dtype=torch.float64)
    after = singular_values(with_singular_values(values, 6, 5), 6)
    assert 0.01 < after[1] < 0.05


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_it_is_the_orthogonal_factor_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2)).double()
    u, _, v = torch.linalg.svd(stack, full_matrices=False)
    torch.testing.assert_close(polar_factor(stack, 9), u @ v, rtol=0, atol=1e-6)


def test_in_bf16_singular_values_are_within_two_hundredths_of_1() -> None:
    stack = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(3))
    after = torch.linalg.svdvals(polar_factor(stack, 6).float())
    assert 0.98 < after.min() <= after.max() < 1.02


def test_a_matrix_of_zeros_remains_one() -> None:
    assert torch.equal(polar_factor(torch.zeros(2, 3, 4), 5).float(), torch.zeros(2, 3, 4))


def test_all_but_the_last_polynomial_are_widened_by_the_safety_factor() -> None:
    for (a, b, c), (x, y, z) in zip(OPTIMAL[:-1], COEFFICIENTS[:-1], strict=True):
        assert (x, y, z) == pytest.approx((a / SAFETY, b / SAFETY**3, c / SAFETY**5))
    assert COEFFICIENTS[-1] == (1.875, -1.25, 0.375)
