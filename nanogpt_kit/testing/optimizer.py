"""The suite for optimizers: they descend, update every role, keep groups apart, resume bit for bit, and ignore frozen
parameters.
"""

from __future__ import annotations

import copy
import io
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.evaluation_weights import evaluation_weights, set_trained_weights
from nanogpt_kit.core.kinds import Optimizer, ParameterShape, Role
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.conformance import standard_normal
from nanogpt_kit.testing.remedy import errors_as_failures

SHAPES = {"matrix": (7, 5), "embedding": (11, 5), "head": (13, 5), "vector": (5,)}
ROWS = {"matrix_fused": (6, 4, 4)}  # of a matrix that is several in one, as that of queries, keys and values is
STEPS = 6


class OptimizerConformance(ComponentConformance):
    """Subclass it with `component = MyOptimizer(...)`, with a learning rate that trains a small model."""

    component: ClassVar[Optimizer]
    device: ClassVar[str] = "cpu"  # of the parameters

    def parameters(self) -> dict[str, nn.Parameter]:
        """One of each role, a second matrix, and one that is several in one."""
        shapes = {**SHAPES, "matrix_2": (5, 7), **{name: (sum(rows), 5) for name, rows in ROWS.items()}}
        return {
            name: nn.Parameter(standard_normal(*shape, seed=number).to(self.device))
            for number, (name, shape) in enumerate(shapes.items())
        }

    def groups(self, parameters: dict[str, nn.Parameter], total_steps: int = 10 * STEPS) -> list[dict[str, Any]]:
        """The groups as the training loop passes them: the second matrix is in one of the experiment's groups."""
        groups = []
        for role, group in [*((role, None) for role in SHAPES), ("matrix", 0)]:
            names = [name for name in parameters if name.split("_")[0] == role and (name == "matrix_2") == (group == 0)]
            names = [name for name in names if parameters[name].requires_grad]
            if names:
                of_names = {
                    "params": [parameters[name] for name in names],
                    "names": names,
                    "rows": [ROWS.get(name) for name in names],
                }
                keys = {"role": role, "lr_multiplier": 0.5, "group": group, "total_steps": total_steps}
                groups.append({**of_names, **keys})
        return groups

    def build_optimizer(
        self, parameters: dict[str, nn.Parameter], total_steps: int = 10 * STEPS
    ) -> torch.optim.Optimizer:
        return self.component.build(self.groups(parameters, total_steps))

    def loss(self, parameters: dict[str, nn.Parameter], step: int) -> Tensor:
        """The distance to targets that change a little from step to step."""
        return torch.stack(
            [
                (p - 0.1 * standard_normal(*p.shape, seed=100 + 7 * step + number).to(p)).square().sum()
                for number, p in enumerate(parameters.values())
                if p.requires_grad
            ]
        ).sum()

    def take_steps(
        self, optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], first: int, last: int
    ) -> None:
        for step in range(first, last):
            optimizer.zero_grad(set_to_none=True)
            self.loss(parameters, step).backward()
            optimizer.step()

    def test_it_descends(self) -> None:
        parameters = self.parameters()
        before = self.loss(parameters, 0).item()
        self.take_steps(self.build_optimizer(parameters), parameters, 0, 10 * STEPS)
        after = self.loss(parameters, 0).item()
        remedy = "set an `lr` here that trains a small model, or check the sign of the update"
        what = f"after {10 * STEPS} steps the loss went from {before:.4f} to {after:.4f}"
        assert after < before, f"{what}: {remedy}"

    def test_every_role_moves_and_is_in_one_group(self) -> None:
        parameters = self.parameters()
        before = {name: p.detach().clone() for name, p in parameters.items()}
        optimizer = self.build_optimizer(parameters)
        in_groups = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(in_groups) == sorted(map(id, parameters.values())), (
            "a parameter is in no group, or in several: pass on every group that build is given"
        )
        self.take_steps(optimizer, parameters, 0, 2)  # some measure the first gradient and do not follow it
        for name, parameter in parameters.items():
            moved = not torch.equal(parameter, before[name])
            assert moved, f"{name} was not updated: update every group, also where the role needs another rule"

    def test_groups_keep_the_keys_that_the_loop_reads(self) -> None:
        parameters = self.parameters()
        given = self.groups(parameters)
        kept = copy.deepcopy(given)
        optimizer = self.component.build(given)
        assert [set(group) for group in given] == [set(group) for group in kept], (
            "build changed the groups it was given: copy them"
        )
        for group in optimizer.param_groups:
            remedy = "keep the keys of the groups that build is given, and set `lr` for each"
            assert group.get("lr", 0) > 0, f"a group has the learning rate {group.get('lr')}: {remedy}"
            names = {id(parameter): name for name, parameter in parameters.items()}
            held = [names[id(parameter)] for parameter in group["params"]]
            assert len({name.split("_")[0] for name in held}) == 1, f"{', '.join(held)} are in one group: {remedy}"
            expected: dict[str, Any] = {"names": held, "rows": [ROWS.get(name) for name in held], "lr_multiplier": 0.5}
            expected |= {"role": held[0].split("_")[0], "group": 0 if held == ["matrix_2"] else None}
            expected["total_steps"] = 10 * STEPS
            split = "; split it with self.part_of_group" if group.get("names") != held else ""
            for key, value in expected.items():
                found = group.get(key)
                assert found == value, f"the group of {', '.join(held)} has {key} = {found!r}: {remedy}{split}"

    def test_each_group_has_its_own_learning_rate(self) -> None:
        parameters = self.parameters()
        optimizer = self.build_optimizer(parameters)
        before = {name: p.detach().clone() for name, p in parameters.items()}
        for group in optimizer.param_groups:
            if group["group"] == 0:
                group["lr"] = 0.0
        self.take_steps(optimizer, parameters, 0, 2)
        unmoved = [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])]
        remedy = "use the lr of the parameter's own group, and keep groups apart that build is given apart"
        assert unmoved == ["matrix_2"], f"with lr = 0 for matrix_2 alone, {unmoved} did not change: {remedy}"

    def test_the_length_of_the_run_matters_only_where_it_is_said_to(self) -> None:
        if self.component.uses_total_steps:
            pytest.skip(f"{type(self.component).__name__} uses total_steps")
        short, long = self.parameters(), self.parameters()
        self.take_steps(self.build_optimizer(short, STEPS), short, 0, STEPS)
        self.take_steps(self.build_optimizer(long, 1000 * STEPS), long, 0, STEPS)
        for name, parameter in short.items():
            assert torch.equal(parameter, long[name]), (
                f"{name} depends on total_steps: set uses_total_steps = True, so that no run is extended that would "
                "have had other updates"
            )

    def test_the_learning_rate_is_the_loops(self) -> None:
        """The loop sets it before every step."""
        parameters = self.parameters()
        optimizer = self.build_optimizer(parameters)
        self.take_steps(optimizer, parameters, 0, 1)
        before = {name: p.detach().clone() for name, p in parameters.items()}
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self.take_steps(optimizer, parameters, 1, 2)
        for name, parameter in parameters.items():
            assert torch.equal(parameter, before[name]), f"{name} changed with lr = 0: use group['lr']"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
    def test_resumed_it_continues_bit_for_bit(self, dtype: torch.dtype) -> None:
        whole = {name: nn.Parameter(p.detach().to(dtype)) for name, p in self.parameters().items()}
        first = self.build_optimizer(whole)
        self.take_steps(first, whole, 0, STEPS)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        resumed = {name: nn.Parameter(p.detach().clone()) for name, p in whole.items()}
        second = self.build_optimizer(resumed)
        claim = "its state cannot be loaded: hold tensors and plain values only, as checkpoints load with weights_only"
        with errors_as_failures(claim):
            second.load_state_dict(torch.load(file, weights_only=True))
        self.take_steps(first, whole, STEPS, 2 * STEPS)
        self.take_steps(second, resumed, STEPS, 2 * STEPS)
        for name, parameter in whole.items():
            assert torch.equal(resumed[name], parameter), (
                f"{name} differs after a resume: keep all state in optimizer.state"
            )

    def test_evaluations_and_checkpoints_leave_the_training_as_it_is(self) -> None:
        """Of an optimizer with other weights for evaluation, which are those of a checkpoint, and which it restores."""
        whole, saved = self.parameters(), self.parameters()
        first, second = self.build_optimizer(whole), self.build_optimizer(saved)
        for optimizer, parameters in ((first, whole), (second, saved)):
            set_trained_weights(optimizer)
            self.take_steps(optimizer, parameters, 0, STEPS)
        with evaluation_weights(second):
            file = io.BytesIO()
            torch.save(second.state_dict(), file)
            resumed = {name: nn.Parameter(p.detach().clone()) for name, p in saved.items()}
        file.seek(0)
        third = self.build_optimizer(resumed)
        set_trained_weights(third)
        third.load_state_dict(torch.load(file, weights_only=True))
        set_trained_weights(third)
        for optimizer, parameters in ((first, whole), (second, saved), (third, resumed)):
            self.take_steps(optimizer, parameters, STEPS, 2 * STEPS)
        for name, parameter in whole.items():
            remedy = "keep what `eval` replaces in optimizer.state, and let `train` restore it bit for bit"
            assert torch.equal(saved[name], parameter), f"an evaluation changes {name}: {remedy}"
            assert torch.equal(resumed[name], parameter), f"{name} differs after a resume: {remedy}"

    def test_frozen_parameters_have_no_state(self) -> None:
        parameters = self.parameters()
        frozen = parameters["matrix_2"].requires_grad_(False)
        before = frozen.clone()
        optimizer = self.build_optimizer(parameters)
        self.take_steps(optimizer, parameters, 0, STEPS)
        remedy = "make state when a parameter is first updated, and skip those without a gradient"
        assert frozen not in optimizer.state, f"a parameter that is not trained has state: {remedy}"
        assert torch.equal(frozen, before), f"a parameter that is not trained was updated: {remedy}"

    def test_a_parameter_without_a_gradient_is_left_alone(self) -> None:
        """For example of an expert that got no token."""
        parameters = self.parameters()
        optimizer = self.build_optimizer(parameters)
        self.loss(parameters, 0).backward()
        idle = parameters["matrix_2"]
        idle.grad, before = None, idle.detach().clone()
        optimizer.step()
        assert torch.equal(idle, before), "a parameter without a gradient was updated: skip those whose grad is None"

    @pytest.mark.parametrize(
        ("role", "fan_out", "fan_in", "rows"),
        [
            *((role, *fans, None) for role in ("matrix", "head") for fans in ((24, 24), (24, 6), (6, 24))),
            ("matrix", 24, 24, (12, 6, 6)),
            ("matrix", 18, 6, (6, 6, 6)),
        ],
    )
    def test_a_step_grows_with_the_shape_as_step_norm_says(
        self, role: Role, fan_out: int, fan_in: int, rows: tuple[int, ...] | None
    ) -> None:
        """For gradients of rank one and of any size, as those of wide layers nearly are."""
        shapes = [matrix_shape(role, 12, 6), matrix_shape(role, fan_out, fan_in, rows)]
        small, large = (self.component.step_norm(shape) for shape in shapes)
        if small is None or large is None:
            pytest.skip(f"{type(self.component).__name__} has no step_norm, so no init scales its learning rates")
        steps = [self.norm_of_a_step(shape, size) for shape in shapes for size in (1.0, 100.0)]
        assert steps[1] == pytest.approx(steps[0], rel=0.05), (
            "the size of a step depends on the size of the gradient: step_norm must return None"
        )
        assert steps[2] / steps[0] == pytest.approx(large / small, rel=0.05), (
            "step_norm must be in proportion to the spectral norm of a step"
        )

    def norm_of_a_step(self, shape: ParameterShape, size: float) -> float:
        """The spectral norm of the first step of a matrix of zeros, so that it does not decay."""
        parameter = nn.Parameter(torch.zeros(shape.shape, device=self.device))
        left, right = (standard_normal(count, seed=count).sign() for count in shape.shape)
        keys = {"role": shape.role, "lr_multiplier": 1.0, "group": None, "total_steps": STEPS}
        optimizer = self.component.build([{"params": [parameter], "names": [shape.name], "rows": [shape.rows], **keys}])
        parameter.grad = (size * torch.outer(left, right)).to(parameter)
        optimizer.step()
        return float(torch.linalg.matrix_norm(parameter.detach(), ord=2))


def matrix_shape(role: Role, fan_out: int, fan_in: int, rows: tuple[int, ...] | None = None) -> ParameterShape:
    return ParameterShape(
        name="weight",
        role=role,
        shape=(fan_out, fan_in),
        layer=None,
        fan_in=fan_in,
        fan_out=fan_out,
        rows=rows,
        base_fan_in=fan_in,
        base_fan_out=fan_out,
    )
