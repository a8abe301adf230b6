"""A linear layer for each group of rows: as an operation of torch, and one group after another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nanogpt_kit_moe.grouped import grouped_linear
from torch import Tensor


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


X, WEIGHT, BIAS = draw(9, 4, seed=1), draw(3, 5, 4, seed=2), draw(3, 5, seed=3)
ENDS = torch.tensor([2, 2, 9])  # the second group has no rows


@pytest.mark.parametrize("bias", [None, BIAS], ids=["plain", "bias"])
def test_each_group_has_its_weight(bias: Tensor | None) -> None:
    found = grouped_linear(X, WEIGHT, bias, ENDS)
    first, last = (None if bias is None else bias[index] for index in (0, 2))
    expected = torch.cat([F.linear(X[:2], WEIGHT[0], first), F.linear(X[2:], WEIGHT[2], last)])
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own checks
@pytest.mark.parametrize("bias", [None, BIAS], ids=["plain", "bias"])
def test_torch_finds_nothing_wrong_with_the_operation(bias: Tensor | None) -> None:
    """Its schema, its shapes without data, and its gradients, also when they are traced."""
    torch.library.opcheck(torch.ops.nanogpt_kit_moe.grouped_linear.default, (X, WEIGHT, bias, ENDS))
