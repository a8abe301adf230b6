"""The norm of gradients, and their clipping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.nn.sharded import clip_gradients


def with_gradients(factor: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    found = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 5), (7,), (2,))]
    for parameter in found[:2]:  # the last one has none
        parameter.grad = factor * torch.randn(parameter.shape, generator=generator)
    return found


def gradients_of(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@pytest.mark.parametrize(("factor", "max_norm"), [(1.0, 0.7), (1.0, 1e4), (1e-3, 0.5), (math.inf, 1.0), (1.0, 0.0)])
def test_gradients_are_clipped_as_torch_does_and_those_below_the_limit_are_left_alone(
    factor: float, max_norm: float
) -> None:
    ours, theirs = with_gradients(factor), with_gradients(factor)
    versions = [gradient._version for gradient in gradients_of(ours)]
    norm = clip_gradients(ours, max_norm)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm or math.inf)
    torch.testing.assert_close(norm, expected, rtol=0, atol=0, equal_nan=True)
    for one, other in zip(gradients_of(ours), gradients_of(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    was_multiplied = [gradient._version for gradient in gradients_of(ours)] != versions
    assert was_multiplied == (max_norm > 0 and not norm < max_norm)
