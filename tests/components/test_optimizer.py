"""Optimizers, against torch's own and against what was published."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.components.optimizer.adamw import AdamW
from nanogpt_kit.components.optimizer.muon import Muon
from nanogpt_kit.components.optimizer.sgd import SGD
from nanogpt_kit.core.registry import OURS, Registry
from nanogpt_kit.testing.optimizer import SHAPES, OptimizerConformance

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


def drawn_gradients() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(shape, generator=generator) for shape in SHAPES.values()] for _ in range(20)]


def test_adamw_is_torchs_with_decay_on_all_but_vectors() -> None:
    ours, theirs = parameters(), parameters()
    decayed = [parameter for parameter in theirs.values() if parameter.ndim >= 2]
    spared = [parameter for parameter in theirs.values() if parameter.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed}, {"params": spared, "weight_decay": 0.0}], **OPTIONS, fused=False, foreach=False
    )
    gradients = drawn_gradients()
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


class TestAdamW(OptimizerConformance):
    component = AdamW(lr=3e-3)


class TestSGD(OptimizerConformance):
    component = SGD(lr=0.02)


class TestSGDPlain(OptimizerConformance):
    component = SGD(lr=0.02, momentum=0.0, nesterov=True, weight_decay=0.1)


class TestMuon(OptimizerConformance):
    component = Muon(lr=3e-3)


class TestMuonWithSGD(OptimizerConformance):
    component = Muon(lr=3e-3, adjust="original", nesterov=False, others=SGD(lr=0.02))


def test_every_built_in_passes_the_suite() -> None:
    tested = {type(case.component) for case in OptimizerConformance.__subclasses__() if case.__module__ == __name__}
    assert {entry.load() for entry in Registry.installed().of_kind("optimizer") if entry.distribution == OURS} <= tested


def test_sgd_is_torchs_with_decay_on_all_but_vectors() -> None:
    options = {"lr": 0.03, "momentum": 0.8, "nesterov": True}
    ours, theirs = parameters(), parameters()
    decayed = [parameter for parameter in theirs.values() if parameter.ndim >= 2]
    spared = [parameter for parameter in theirs.values() if parameter.ndim < 2]
    reference = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.3}, {"params": spared}], **options, foreach=False
    )
    gradients = drawn_gradients()
    take_steps(SGD(**options, weight_decay=0.3).build(groups(ours)), ours, gradients)
    take_steps(reference, theirs, gradients)
    for role in SHAPES:
        torch.testing.assert_close(ours[role], theirs[role], rtol=1e-6, atol=1e-7)


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Newton-Schulz with Jordan's coefficients, on singular values: each goes through the quintic, in fp64."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ torch.diag(values) @ v


def test_muon_is_the_published_update_and_adamw_for_the_rest() -> None:
    lr, momentum, decay = 0.02, 0.9, 0.3
    ours, theirs = parameters(), parameters()
    built = Muon(lr=lr, momentum=momentum, weight_decay=decay, others=AdamW(**OPTIONS)).build(groups(ours))
    reference = AdamW(**OPTIONS).build([group for group in groups(theirs) if group["role"] != "matrix"])
    gradients = drawn_gradients()[:4]
    take_steps(built, ours, gradients)
    expected, buffer = parameters()["matrix"].detach().double(), torch.zeros(SHAPES["matrix"], dtype=torch.float64)
    for step in gradients:
        gradient = step[0].double()  # of the matrix, which is the first
        buffer = momentum * buffer + (1 - momentum) * gradient
        update = orthogonal((1 - momentum) * gradient + momentum * buffer, steps=5)
        expected = expected * (1 - lr * decay) - lr * 0.2 * max(update.shape) ** 0.5 * update
        for parameter, other in zip(list(theirs.values())[1:], step[1:], strict=True):
            parameter.grad = other.clone()
        reference.step()
    torch.testing.assert_close(ours["matrix"].double(), expected, rtol=0, atol=lr * 0.2)  # its iterations are in bf16
    moved = (parameters()["matrix"].double() - expected).norm()
    assert (ours["matrix"].double() - expected).norm() < 0.05 * moved
    for role in ("embedding", "head", "vector"):
        torch.testing.assert_close(ours[role], theirs[role], rtol=1e-6, atol=1e-7)


def test_muon_leaves_what_is_no_matrix_of_two_dimensions_to_the_other() -> None:
    kernel = nn.Parameter(torch.randn(4, 3, 2))
    built = Muon().build([{"params": [kernel], "role": "matrix", "lr_multiplier": 1.0}])
    assert [type(part) for part in built.parts] == [torch.optim.AdamW]
