"""The suite for optimizers fails where an optimizer is broken: each break is seen by the test beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor

from nanogpt_kit.api import Optimizer, ParameterShape
from nanogpt_kit.testing.optimizer import OptimizerConformance
from tests.testing.remedies import assert_fails

Groups = list[dict[str, Any]]


class Momentum(torch.optim.Optimizer):
    """Sound, and what those below break."""

    def __init__(self, groups: Groups, lr: float = 0.05) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, group)

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["mean"] = state.get("mean", torch.zeros_like(parameter)).lerp(gradient, 0.5)
        parameter.sub_(state["mean"], alpha=group["lr"])


class Ascends(Momentum):
    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().update(parameter, -gradient, group)


class LeavesEmbeddings(Momentum):
    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if group["role"] != "embedding":
            super().update(parameter, gradient, group)


class HasItsOwnRate(Momentum):
    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().update(parameter, gradient, {"lr": 0.05})


class CountsElsewhere(Momentum):
    updates = 0

    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        self.updates += 1
        super().update(parameter, gradient * (1 + self.updates), group)


class Remembered:
    pass


class KeepsObjects(Momentum):
    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().update(parameter, gradient, group)
        self.state[parameter]["object"] = Remembered()


class DecaysWithoutGradient(Momentum):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(1 - 0.1 * group["lr"])


class HasOneRate(Momentum):
    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().update(parameter, gradient, self.param_groups[-1])


class WarmsUpUnsaid(Momentum):
    def update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        super().update(parameter, gradient / group["total_steps"], group)


class ForgetsTrainedWeights(Momentum):
    def eval(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.mul_(0.9)

    def train(self) -> None:
        pass


def without_names(groups: Groups) -> Momentum:
    """Splits groups, and leaves each part all names."""
    return Momentum([{**group, "params": [parameter]} for group in groups for parameter in group["params"]])


def without_vectors(groups: Groups) -> Momentum:
    return Momentum([group for group in groups if group["role"] != "vector"])


def without_roles(groups: Groups) -> Momentum:
    return Momentum([{"params": group["params"], "lr_multiplier": 0.5} for group in groups])


def changes_groups(groups: Groups) -> Momentum:
    for group in groups:
        group["momentum"] = 0.9
    return Momentum(groups)


EVALUATED = "test_evaluations_and_checkpoints_leave_the_training_as_it_is"
RESUMED, ROLES = "test_resumed_it_continues_bit_for_bit", "test_every_role_moves_and_is_in_one_group"
KEYS = "test_groups_keep_the_keys_that_the_loop_reads"
BROKEN: dict[Callable[[Groups], Momentum], list[tuple[Any, ...]]] = {
    Ascends: [("test_it_descends",)],
    without_vectors: [(ROLES,)],
    LeavesEmbeddings: [(ROLES,)],
    without_roles: [(KEYS,)],
    without_names: [(KEYS,)],
    changes_groups: [(KEYS,)],
    HasOneRate: [("test_each_group_has_its_own_learning_rate",)],
    WarmsUpUnsaid: [("test_the_length_of_the_run_matters_only_where_it_is_said_to",)],
    HasItsOwnRate: [("test_the_learning_rate_is_the_loops",)],
    CountsElsewhere: [(RESUMED, torch.float32)],
    KeepsObjects: [(RESUMED, torch.float32)],
    ForgetsTrainedWeights: [(EVALUATED,)],
    DecaysWithoutGradient: [("test_a_parameter_without_a_gradient_is_left_alone",)],
}


class WithStepNorm(Optimizer):
    """Whose steps have the size of the gradient, though it claims otherwise."""

    def step_norm(self, shape: ParameterShape) -> float:
        return 1.0

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        return Momentum(groups)


class OfFunction(Optimizer):
    _build: Callable[[Groups], Momentum] = PrivateAttr()

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        return self._build([dict(group) for group in groups] if self._build is not changes_groups else groups)


def suite_of(build: Callable[[Groups], Momentum]) -> Any:
    component = OfFunction()
    component._build = build
    return type("Suite", (OptimizerConformance,), {"component": component})()


@pytest.mark.parametrize("build", BROKEN)
def test_a_broken_optimizer_is_caught(build: Callable[[Groups], Momentum]) -> None:
    for test, *arguments in BROKEN[build]:
        assert_fails(suite_of(build), test, *arguments)
        getattr(suite_of(Momentum), test)(*arguments)


def test_a_part_of_a_group_keeps_the_names_and_the_rows_of_its_parameters() -> None:
    group = {"params": [torch.zeros(1), torch.ones(2)], "names": ["a", "b"], "rows": [None, (1, 1)], "role": "matrix"}
    part = Optimizer.part_of_group(group, [False, True])
    assert part == {"params": [group["params"][1]], "names": ["b"], "rows": [(1, 1)], "role": "matrix"}
    assert group["names"] == ["a", "b"]


def test_steps_that_grow_with_the_gradient_are_caught() -> None:
    suite = type("Suite", (OptimizerConformance,), {"component": WithStepNorm()})()
    assert_fails(suite, "test_a_step_grows_with_the_shape_as_step_norm_says", "matrix", 24, 6, None)
