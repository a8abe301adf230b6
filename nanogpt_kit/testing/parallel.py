"""The suite for parallels: each rank computes what the model would alone, and its gradients are those of all ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.core.kinds import Parallel
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.sharded import full_tensor, reshard
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.ranks import RankError, run_on_ranks
from nanogpt_kit.testing.remedy import assert_same

V, C, T = 11, 6, 5
MICRO_STEPS, WINDOWS = 2, 3  # windows of each micro-step and rank
MAX_NORM = 0.01
TOLERANCE = 1e-6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(C, 2 * C), nn.Linear(2 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.down(F.gelu(self.up(x)))  # (B, T, C)
        return x + changed


class SmallModel(nn.Module):
    """Blocks in a list, as `ParallelModel.blocks` finds them; an auxiliary loss in training; segments are used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.wte = nn.Embedding(V, C)
        self.h = nn.ModuleList(Block() for _ in range(2))
        self.lm_head = nn.Linear(C, V, bias=False)

    def forward(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor | TrainingLoss:
        x = self.wte(ids)  # (B, T, C)
        if segments is not None:
            x = x * (1 + segments[..., None])
        for block in self.h:
            x = block(x)
        loss = F.cross_entropy(self.lm_head(x).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
        if segments is None:
            return loss
        extra = x.square().sum()
        return TrainingLoss(loss + extra, loss.detach(), {"size": extra.detach()})


@dataclass(frozen=True)
class Computed:
    """What one rank has computed: of all micro-steps, with the full tensors."""

    losses: list[Tensor]
    objectives: list[Tensor]  # given segments
    extras: list[dict[str, Tensor]]
    gradients: dict[str, Tensor]
    norm: Tensor
    unclipped: Tensor  # the norm by clip(0)
    clipped: dict[str, Tensor]
    before: dict[str, Tensor]  # the weights
    after: dict[str, Tensor]  # one update later


def windows(rank: int, micro_step: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids, targets and segments of a rank; some targets do not count."""
    generator = torch.Generator().manual_seed(100 * rank + micro_step)
    ids, targets = torch.randint(0, V, (2, WINDOWS, T), generator=generator)
    targets[:, rank] = -1
    return ids, targets, (torch.arange(T) > 2).long().expand(WINDOWS, T)


class ParallelConformance(ComponentConformance):
    """Subclass it with `component = MyParallel(...)`."""

    component: ClassVar[Parallel]
    processes: ClassVar[int] = 2  # in which it is tested, on CPUs

    @property
    def ctx(self) -> RunContext:
        splits = ("train", "val")
        return RunContext(device="cpu", precision="fp32", world_size=self.processes, splits=splits, block_size=T)

    def on_ranks(self) -> list[Computed]:
        """What each rank computes with the component; fails where one raises."""
        if self.processes > 1 and not hasattr(os, "fork"):
            pytest.skip("several processes are forked, which this system cannot")
        found = computed_on_ranks(self.component, self.ctx)
        if isinstance(found, RankError):
            remedy = "all ranks must call the same collectives in the same order; wrap returns an api.ParallelModel"
            raise AssertionError(f"it cannot train a small model: {remedy}. {found}")
        return found

    def test_it_accepts_its_processes_or_gives_a_reason(self) -> None:
        reason = self.component.refusal_reason(self.ctx)
        remedy = "set `processes` here to a number that it accepts"
        assert reason is None, f"it refuses {self.processes} processes on a CPU ({reason}): {remedy}"

    def test_each_rank_gets_the_loss_of_its_own_windows(self) -> None:
        for rank, computed in enumerate(self.on_ranks()):
            for micro_step, loss in enumerate(computed.losses):
                ids, targets, _ = windows(rank, micro_step)
                claim = f"rank {rank} gets another loss than the model alone: return the sum over its own windows"
                assert_same(loss, SmallModel()(ids, targets), claim, rtol=1e-5)

    def test_it_passes_on_segments_and_auxiliary_losses(self) -> None:
        for rank, computed in enumerate(self.on_ranks()):
            for micro_step, objective in enumerate(computed.objectives):
                expected = SmallModel()(*windows(rank, micro_step))
                claim = f"rank {rank} gets another objective given segments: pass all arguments on to the model"
                assert_same(objective, expected.objective, claim, rtol=1e-5)
                found = computed.extras[micro_step]
                assert found.keys() == expected.extras.keys(), (
                    f"the auxiliary losses {sorted(expected.extras)} arrive as {sorted(found)}: return what the model "
                    "returns, which may be an api.TrainingLoss"
                )

    def test_gradients_are_summed_over_ranks_and_micro_steps(self) -> None:
        """Not averaged: the loss was divided by the tokens of all ranks before."""
        expected = gradients_of_all(self.processes)
        for rank, computed in enumerate(self.on_ranks()):
            for name, gradient in computed.gradients.items():
                ratio = float(gradient.norm() / expected[name].norm())
                claim = (
                    f"rank {rank} has another gradient of {name}, {ratio:.3g} times as large: sum gradients over the "
                    "processes, do not average them, and reduce them in the last micro-step only"
                )
                assert_same(gradient, expected[name], claim, rtol=1e-4, atol=TOLERANCE)

    def test_the_norm_is_that_of_all_gradients(self) -> None:
        expected = torch.stack([gradient.norm() for gradient in gradients_of_all(self.processes).values()]).norm()
        for rank, computed in enumerate(self.on_ranks()):
            for found, argument in ((computed.norm, MAX_NORM), (computed.unclipped, 0)):
                claim = f"clip({argument}) on rank {rank} returns another norm than that of the whole gradient"
                assert_same(found, expected, f"{claim}: reduce it over all shards", rtol=1e-4)

    def test_the_clipped_gradient_is_a_smaller_one(self) -> None:
        """`clip(0)` changes nothing; what is larger than the limit shrinks, and none grows or changes its sign."""
        for rank, computed in enumerate(self.on_ranks()):
            norm = torch.stack([gradient.norm() for gradient in computed.clipped.values()]).norm()
            assert norm < computed.norm, (
                f"clip({MAX_NORM}) on rank {rank} leaves a gradient of norm {computed.norm:.4f}: clip in place"
            )
            for name, clipped in computed.clipped.items():
                gradient = computed.gradients[name]
                is_smaller = (clipped.abs() <= gradient.abs() * (1 + 1e-5)) & (clipped * gradient >= 0)
                assert is_smaller.all(), f"clip makes some of {name}'s gradient larger: only scale it down"

    def test_weights_keep_their_names_and_values(self) -> None:
        """Checkpoints and callbacks read them from the model."""
        expected = SmallModel().state_dict()
        for rank, computed in enumerate(self.on_ranks()):
            assert computed.before.keys() == expected.keys(), (
                f"the model's weights have other names after wrap, {sorted(computed.before)[:2]}: change the model in "
                "place, or wrap it without replacing its modules"
            )
            for name, weight in computed.before.items():
                assert_same(
                    weight, expected[name], f"wrap changes {name} on rank {rank}: leave the weights as they are"
                )

    def test_an_update_is_the_same_on_all_ranks(self) -> None:
        first, *others = self.on_ranks()
        moved = any(not torch.equal(first.after[name], first.before[name]) for name in first.after)
        assert moved, "an update of the model's parameters changes nothing: the optimizer must see those with gradients"
        for rank, other in enumerate(others, start=1):
            for name, weight in first.after.items():
                claim = f"after an update {name} differs between ranks 0 and {rank}: reduce every gradient"
                assert_same(other.after[name], weight, claim)


@cache
def computed_on_ranks(component: Parallel, ctx: RunContext) -> list[Computed] | RankError:
    """Computed once for all tests of a suite."""
    try:
        return run_on_ranks(ctx.world_size, lambda rank: compute(component, ctx, rank))
    except RankError as error:
        return error


def compute(component: Parallel, ctx: RunContext, rank: int) -> Computed:
    """The objectives given segments; then the gradients of two micro-steps, clipping and an update."""
    model = SmallModel()
    parallel = component.wrap(model, ctx)
    with torch.no_grad():
        objectives = [TrainingLoss.of(parallel(*windows(rank, micro_step))) for micro_step in range(MICRO_STEPS)]
    reshard(model)  # as after an evaluation
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    losses: list[Tensor] = []
    for micro_step in range(MICRO_STEPS):
        ids, targets, _ = windows(rank, micro_step)
        with parallel.sync(last=micro_step == MICRO_STEPS - 1):
            loss = TrainingLoss.of(parallel(ids, targets)).objective
            loss.backward()
        losses.append(loss.detach().clone())
    gradients = {name: full(parameter.grad) for name, parameter in model.named_parameters()}
    before = {name: full(value) for name, value in model.state_dict().items()}
    unclipped = full(parallel.clip(0))
    norm = full(parallel.clip(MAX_NORM))
    clipped = {name: full(parameter.grad) for name, parameter in model.named_parameters()}
    optimizer.step()
    after = {name: full(value) for name, value in model.state_dict().items()}
    extras = [{name: full(value) for name, value in one.extras.items()} for one in objectives]
    whole = [one.objective.detach().clone() for one in objectives]
    return Computed(losses, whole, extras, gradients, norm, unclipped, clipped, before, after)


def full(tensor: Any) -> Tensor:
    """A copy of the full tensor."""
    assert tensor is not None, "a parameter has no gradient after backward"
    return full_tensor(tensor).detach().clone()


def gradients_of_all(processes: int) -> dict[str, Tensor]:
    """The gradient of the sum over all ranks and micro-steps, of the model alone."""
    model = SmallModel()
    for rank in range(processes):
        for micro_step in range(MICRO_STEPS):
            ids, targets, _ = windows(rank, micro_step)
            model(ids, targets).backward()
    return {name: full(parameter.grad) for name, parameter in model.named_parameters()}
