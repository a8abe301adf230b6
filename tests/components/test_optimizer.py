"""Optimizers, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.components.optimizer.adamw import AdamW

SHAPES = {"matrix": (7, 5), "embedding": (11, 5), "head": (13, 5), "vector": (5,)}
OPTIONS = {"lr": 3e-3, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.3}


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return {role: nn.Parameter(torch.randn(shape, generator=generator)) for role, shape in SHAPES.items()}


def groups(of: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": [p], "names": [role], "role": role, "lr_multiplier": 1.0} for role, p in of.items()]


def take_steps(optimizer: torch.optim.Optimizer, of: dict[str, nn.Parameter], gradients: list[list[Tensor]]) -> None:
    for step in gradients:
        for parameter, gradient in zip(of.values(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def test_adamw_is_torchs_with_decay_on_all_but_vectors() -> None:
    ours, theirs = parameters(), parameters()
    decayed = [parameter for parameter in theirs.values() if parameter.ndim >= 2]
    spared = [parameter for parameter in theirs.values() if parameter.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed}, {"params": spared, "weight_decay": 0.0}], **OPTIONS, fused=False, foreach=False
    )
    generator = torch.Generator().manual_seed(2)
    gradients = [[torch.randn(shape, generator=generator) for shape in SHAPES.values()] for _ in range(20)]
    take_steps(AdamW(**OPTIONS).build(groups(ours)), ours, gradients)
    take_steps(reference, theirs, gradients)
    for role in SHAPES:
        torch.testing.assert_close(ours[role], theirs[role], rtol=1e-6, atol=1e-7)


def test_adamw_without_gradient_shrinks_matrices_and_spares_vectors() -> None:
    ours, before = parameters(), parameters()
    take_steps(AdamW(**OPTIONS).build(groups(ours)), ours, [[torch.zeros_like(p) for p in ours.values()]])
    for role, parameter in ours.items():
        factor = 1.0 if role == "vector" else 1 - OPTIONS["lr"] * OPTIONS["weight_decay"]
        torch.testing.assert_close(parameter, before[role] * factor)


def test_adamw_keeps_what_the_loop_reads_of_a_group() -> None:
    built = AdamW(**OPTIONS).build([{**group, "lr_multiplier": 0.5} for group in groups(parameters())])
    assert [group["role"] for group in built.param_groups] == list(SHAPES)
    assert {group["lr"] for group in built.param_groups} == {3e-3}  # its own peak; the loop applies the multiplier
    assert {group["lr_multiplier"] for group in built.param_groups} == {0.5}


def test_adamw_does_not_change_the_groups_it_is_given() -> None:
    given = groups(parameters())
    AdamW().build(given)
    assert [set(group) for group in given] == [{"params", "names", "role", "lr_multiplier"}] * len(SHAPES)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"betas": (0.9, 1.0)}, {"eps": -1.0}, {"weight_decay": -0.1}])
def test_adamw_refuses_options_out_of_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdamW(**wrong)
