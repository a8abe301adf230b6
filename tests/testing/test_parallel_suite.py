"""The suite for parallels fails where one is broken: each break is seen by the test beside it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanogpt_kit.api import Parallel, ParallelModel, RunContext, TrainingLoss
from nanogpt_kit.testing import ranks
from nanogpt_kit.testing.parallel import ParallelConformance
from tests.testing.remedies import assert_fails

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")


class Broken(Parallel):
    """Sums the gradients of two processes in the last micro-step, except in the way that `how` says."""

    how: str = "not"

    def refusal_reason(self, ctx: RunContext) -> str | None:
        return "it works on Sundays only" if self.how == "refuses" else None

    def wrap(self, model: nn.Module, ctx: RunContext) -> ParallelModel:
        if self.how == "starts at zero":
            with torch.no_grad():
                model.lm_head.weight.zero_()  # type: ignore[union-attr, operator]
        if self.how == "renames":
            model.blocks = model.h
            del model.h
            model.h = list(model.blocks)  # type: ignore[assignment, arg-type]
        return BrokenModel(model, self.how)


class BrokenModel(ParallelModel):
    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__(model)
        self.how = how

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Any:
        if self.how == "without segments":
            return super().__call__(ids, targets)
        if self.how == "first window":
            return super().__call__(ids[:1], targets[:1], segments)
        loss = super().__call__(ids, targets, segments)
        return TrainingLoss.of(loss).objective if self.how == "without extras" else loss

    def sync(self, last: bool) -> AbstractContextManager[None]:
        return Reduction(self) if last or self.how == "every micro-step" else nullcontext()

    def clip(self, max_norm: float) -> Tensor:
        if self.how == "waits" and dist.get_rank() == 0:
            dist.barrier()
        if self.how == "crashes":
            raise RuntimeError("no such collective")
        if self.how == "norm of one":
            super().clip(max_norm)
            return self.parameters[0].grad.norm()  # type: ignore[union-attr]
        if self.how == "never clips":
            return super().clip(0)
        norm = super().clip(max_norm)
        if self.how == "larger" and max_norm:
            self.parameters[0].grad.mul_(-1)  # type: ignore[union-attr]
        return norm


class Reduction(AbstractContextManager[None]):
    """On exit, the sum of all gradients over the processes."""

    def __init__(self, model: BrokenModel) -> None:
        self.model = model

    def __exit__(self, *error: object) -> None:
        for index, parameter in enumerate(self.model.parameters):
            if self.model.how == "one is forgotten" and index == 2:
                continue
            dist.all_reduce(parameter.grad)
            if self.model.how == "averages":
                parameter.grad.div_(dist.get_world_size())  # type: ignore[union-attr]


CAUGHT = {
    "refuses": "test_it_accepts_its_processes_or_gives_a_reason",
    "first window": "test_each_rank_gets_the_loss_of_its_own_windows",
    "without segments": "test_it_passes_on_segments_and_auxiliary_losses",
    "without extras": "test_it_passes_on_segments_and_auxiliary_losses",
    "averages": "test_gradients_are_summed_over_ranks_and_micro_steps",
    "every micro-step": "test_gradients_are_summed_over_ranks_and_micro_steps",
    "norm of one": "test_the_norm_is_that_of_all_gradients",
    "never clips": "test_the_clipped_gradient_is_a_smaller_one",
    "larger": "test_the_clipped_gradient_is_a_smaller_one",
    "renames": "test_weights_keep_their_names_and_values",
    "starts at zero": "test_weights_keep_their_names_and_values",
    "one is forgotten": "test_an_update_is_the_same_on_all_ranks",
    "crashes": "test_each_rank_gets_the_loss_of_its_own_windows",
    "waits": "test_each_rank_gets_the_loss_of_its_own_windows",
}


def suite(how: str) -> Any:
    return type("Suite", (ParallelConformance,), {"component": Broken(how=how)})()


@pytest.mark.parametrize("how", CAUGHT)
def test_a_broken_parallel_is_caught(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(suite("not"), CAUGHT[how])()
    if how == "waits":
        monkeypatch.setattr(ranks, "PATIENCE_SECONDS", 2.0)
    assert_fails(suite(how), CAUGHT[how])
