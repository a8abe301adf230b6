"""SOAP against the algorithm of its paper, written plainly in fp64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nanogpt_kit_optimizers.soap import SOAP
from torch import Tensor

from nanogpt_kit.testing.optimizer import OptimizerConformance
from nanogpt_kit.testing.ranks import run_on_ranks

LR, MEAN, SQUARE, DECAY = 0.01, 0.8, 0.95, 0.3
OPTIONS: dict[str, Any] = {"lr": LR, "betas": (MEAN, SQUARE), "weight_decay": DECAY}
STEPS = 14


class TestSOAP(OptimizerConformance):
    component = SOAP(lr=3e-3, basis_every_steps=2)


class TestSOAPOfWholeMatrices(OptimizerConformance):
    component = SOAP(lr=3e-3, split_rows=False, max_dim=6)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients_of(*shape: int) -> list[Tensor]:
    """Neither independent nor all alike, as those of a training."""
    return [draw(*shape, seed=1) + draw(*shape, seed=10 + step) for step in range(STEPS)]


def group_of(parameter: Tensor, rows: tuple[int, ...] | None = None, role: str = "matrix") -> dict[str, Any]:
    keys = {"role": role, "lr_multiplier": 1.0, "group": None, "total_steps": STEPS}
    return {"params": [parameter], "names": ["weight"], "rows": [rows], **keys}


def trained(
    options: SOAP, start: Tensor, gradients: list[Tensor], rows: tuple[int, ...] | None = None, role: str = "matrix"
) -> tuple[list[Tensor], dict[str, Any]]:
    """The parameter after each step, and the state after the first."""
    parameter = torch.nn.Parameter(start.clone())
    optimizer = options.build([group_of(parameter, rows, role)])
    seen, state = [], {}
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        seen.append(parameter.detach().clone())
        state = state or {name: value.clone() for name, value in optimizer.state[parameter].items() if name != "step"}
    return seen, state


def by_hand(start: Tensor, gradients: list[Tensor], left: Tensor, right: Tensor, every: int) -> list[Tensor]:
    """Algorithm 3 of the paper with the eigenvectors of algorithm 4, from given eigenvectors of the first step on.

    An identity in place of eigenvectors stays one. The mean is kept in the axes of the gradient. Bias correction, eps
    and the place of the weight decay as in the authors' code.
    """
    W, M, V = start, torch.zeros_like(start), torch.zeros_like(start)
    L, R = (1 - SQUARE) * gradients[0] @ gradients[0].T, (1 - SQUARE) * gradients[0].T @ gradients[0]
    is_left, is_right = not left.equal(torch.eye(len(left))), not right.equal(torch.eye(len(right)))
    seen = [W]
    for t, G in enumerate(gradients[1:], start=1):
        rotated = left.T @ G @ right
        M, V = MEAN * M + (1 - MEAN) * G, SQUARE * V + (1 - SQUARE) * rotated**2
        normalized = (left.T @ M @ right) / (V.sqrt() + 1e-8)
        W = W - LR * math.sqrt(1 - SQUARE**t) / (1 - MEAN**t) * left @ normalized @ right.T
        W = W - LR * DECAY * W
        L, R = SQUARE * L + (1 - SQUARE) * G @ G.T, SQUARE * R + (1 - SQUARE) * G.T @ G
        if t % every == 0:
            if is_left:
                order = torch.argsort((left.T @ L @ left).diagonal(), descending=True)
                left, V = torch.linalg.qr(L @ left[:, order]).Q, V[order]
            if is_right:
                order = torch.argsort((right.T @ R @ right).diagonal(), descending=True)
                right, V = torch.linalg.qr(R @ right[:, order]).Q, V[:, order]
        seen.append(W)
    return seen


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(("shape", "max_dim"), [((5, 5), 5), ((6, 4), 6), ((6, 4), 5), ((4, 6), 5)])
def test_updates_follow_the_algorithm_of_the_paper(shape: tuple[int, int], max_dim: int, every: int) -> None:
    """With both dimensions preconditioned, or the smaller one alone."""
    start, gradients = draw(*shape, seed=0), gradients_of(*shape)
    options = SOAP(**OPTIONS, max_dim=max_dim, basis_every_steps=every)
    found, state = trained(options, start, gradients)
    bases = []
    for axis, size in enumerate(shape):
        assert (f"basis_0_{axis}" in state) == (size <= max_dim)
        bases.append(state.get(f"basis_0_{axis}", torch.eye(size, dtype=torch.float64)))
    expected = by_hand(start, gradients, *bases, every)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert (found[-1] - start).abs().mean() > LR


def test_the_first_step_takes_the_eigenvectors_and_changes_no_weight() -> None:
    start, gradients = draw(6, 4, seed=0), gradients_of(6, 4)
    (found, *_), state = trained(SOAP(**OPTIONS), start, gradients)
    assert torch.equal(found, start)
    for axis, first in enumerate((gradients[0] @ gradients[0].T, gradients[0].T @ gradients[0])):
        basis = state[f"basis_0_{axis}"]
        eigenvalues = torch.linalg.eigvalsh(first).flip(0)  # the largest first
        torch.testing.assert_close(basis.T @ first @ basis, torch.diag(eigenvalues))
        torch.testing.assert_close(state[f"outer_0_{axis}"], (1 - SQUARE) * first)


def test_a_rotated_problem_has_rotated_updates() -> None:
    """Adam depends on the axes, SOAP does not."""
    left, right = (torch.linalg.qr(draw(5, 5, seed=seed)).Q for seed in (3, 4))
    start, gradients = draw(5, 5, seed=0), gradients_of(5, 5)
    plain, _ = trained(SOAP(**OPTIONS, basis_every_steps=2), start, gradients)
    turned = [left @ gradient @ right.T for gradient in gradients]
    rotated, _ = trained(SOAP(**OPTIONS, basis_every_steps=2), left @ start @ right.T, turned)
    torch.testing.assert_close(rotated[-1], left @ plain[-1] @ right.T, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("shape", "role"), [((7, 5), "head"), ((5,), "vector"), ((), "vector")])
def test_without_preconditioners_it_is_adamw_from_the_second_step(shape: tuple[int, ...], role: str) -> None:
    start, gradients = draw(*shape, seed=0), gradients_of(*shape)
    found, state = trained(SOAP(**OPTIONS, max_dim=4, eps=1e-30), start, gradients, role=role)
    assert set(state) == {"mean", "square"}
    parameter = torch.nn.Parameter(start.clone())
    decay = 0.0 if role == "vector" else DECAY
    reference = torch.optim.AdamW([parameter], lr=LR, betas=(MEAN, SQUARE), eps=1e-30, weight_decay=decay)
    for gradient in gradients[1:]:
        parameter.grad = gradient.clone()
        reference.step()
    # AdamW decays the weights before it adds the update, SOAP after: a difference of the decay of one update
    torch.testing.assert_close(found[-1], parameter.detach(), rtol=0, atol=STEPS * LR * LR * decay * 1.5)


def test_queries_keys_and_values_are_apart_unless_split_rows_is_false() -> None:
    rows = (6, 4, 4)
    start, gradients = draw(14, 5, seed=0), gradients_of(14, 5)
    (*_, together), _ = trained(SOAP(**OPTIONS), start, gradients, rows)
    pieces = [
        trained(SOAP(**OPTIONS), *one)[0][-1] for one in zip(start.split(rows), by_part(gradients, rows), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(pieces), rtol=1e-12, atol=1e-12)
    (*_, whole), _ = trained(SOAP(**OPTIONS, split_rows=False), start, gradients, rows)
    (*_, plain), _ = trained(SOAP(**OPTIONS), start, gradients)
    assert torch.equal(whole, plain)
    assert not torch.allclose(whole, together, atol=LR)


def by_part(gradients: list[Tensor], rows: tuple[int, ...]) -> list[list[Tensor]]:
    return [list(part) for part in zip(*(gradient.split(rows) for gradient in gradients), strict=True)]


def test_a_stack_of_matrices_has_a_preconditioner_for_each_dimension() -> None:
    _, state = trained(SOAP(**OPTIONS), draw(3, 4, 6, seed=0), gradients_of(3, 4, 6))
    assert [tuple(state[f"basis_0_{axis}"].shape) for axis in range(3)] == [(3, 3), (4, 4), (6, 6)]


@pytest.mark.parametrize("first", [math.nan, 0.0], ids=["NaN", "zero"])
def test_a_gradient_without_eigenvectors_raises_nothing(first: float) -> None:
    """A run reports numbers that are not finite itself; the first gradients of some inits are zero."""
    start, gradients = draw(5, 4, seed=0), gradients_of(5, 4)
    found, _ = trained(SOAP(**OPTIONS, basis_every_steps=2), start, [torch.full_like(start, first), *gradients])
    assert found[-1].isfinite().all() == (first == 0)


def sharded_steps(rank: int) -> list[Tensor]:
    """Square, wide and fused parameters over all ranks, with the state saved and loaded as a resumed run does."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))

    def shard(whole: Tensor) -> Tensor:
        return distribute_tensor(whole, mesh, [Shard(0)])

    shapes: dict[tuple[int, int], tuple[int, ...] | None] = {(5, 5): None, (3, 7): None, (14, 5): (6, 4, 4)}
    ends = []
    for shape, rows in shapes.items():
        parameter = torch.nn.Parameter(shard(draw(*shape, seed=0)))
        optimizer = SOAP(**OPTIONS, basis_every_steps=2).build([group_of(parameter, rows)])
        for step, gradient in enumerate(gradients_of(*shape)):
            parameter.grad = shard(gradient)
            optimizer.step()
            if step == STEPS // 2:
                state = optimizer.state_dict()
                for name, value in state["state"][0].items():  # a checkpoint shards all that has the parameter's shape
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state["state"][0][name] = value if hasattr(value, "device_mesh") else shard(value)
                optimizer.load_state_dict(state)
        ends += [
            parameter.detach().full_tensor(),
            trained(SOAP(**OPTIONS, basis_every_steps=2), draw(*shape, seed=0), gradients_of(*shape), rows)[0][-1],
        ]
    return ends


def test_sharded_over_two_processes_it_computes_the_same() -> None:
    for ends in run_on_ranks(2, sharded_steps):
        for sharded, whole in zip(ends[::2], ends[1::2], strict=True):
            torch.testing.assert_close(sharded, whole, rtol=1e-12, atol=1e-12)
