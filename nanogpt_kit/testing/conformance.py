"""The suites that components with a module share: it can be saved, compiled and called by two threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import MLP, Attention, LayerContext, Loss, Mixer, Norm, Position
from nanogpt_kit.core.part_options import PartOption
from nanogpt_kit.nn.concurrent_calls import hazard_of_calls
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.remedy import assert_same, check_gradients, errors_as_failures
from nanogpt_kit.train.model_options import modules_of

B, T = 2, 5

with warnings.catch_warnings():  # where no configuration of pytest has the marker, as beside a component file
    warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
    by_backend = pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
ignore_torch_warnings = pytest.mark.filterwarnings(  # about its own code, when it traces flex or imports inductor
    "ignore:.*should not be instantiated:DeprecationWarning", "ignore:.*torch.jit.script_method:DeprecationWarning"
)
by_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def standard_normal(*shape: int, seed: int) -> Tensor:
    """Numbers from N(0, 1), the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def perturb_weights(module: nn.Module, scale: float, seed: int) -> None:
    """Changes every weight: gains of one and biases of zero would hide mistakes."""
    for index, parameter in enumerate(module.parameters()):
        parameter.add_(standard_normal(*parameter.shape, seed=1000 * seed + index).to(parameter), alpha=scale)


def trainable_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def value_and_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor] = ()
) -> list[Tensor]:
    """The value of a function, and the gradients of the sum of its squares; zeros where there is none."""
    value = function(*inputs)
    leaves = [leaf for leaf in (*inputs, *weights) if leaf.requires_grad]
    if not leaves:
        return [value]
    gradients = torch.autograd.grad(value.float().square().sum(), leaves, materialize_grads=True)
    return [value.detach(), *gradients]


class Conformance(ComponentConformance):
    """For components of any kind that build a module."""

    device: ClassVar[str] = "cpu"  # where the module is built and called
    compiles: ClassVar[bool] = True  # test torch.compile; False saves time where another setting has the same code
    inductor: ClassVar[bool] = True  # whether torch's inductor can compile it there; aot_eager always must
    threads: ClassVar[bool] = True  # whether two threads may call a module at once, so that runs may split a batch

    def build(self, seed: int = 0) -> nn.Module:
        """A fresh module in eval mode, with random weights."""
        raise NotImplementedError

    def outputs(self, module: nn.Module) -> Tensor:
        """The outputs for fixed inputs, without gradients."""
        raise NotImplementedError

    def compile_or_skip(self, function: Callable[..., Any], backend: str) -> Callable[..., Any]:
        """Compiles a function as one graph, which must be possible; skips the test if `compiles` is False."""
        if not self.compiles or (backend == "inductor" and not self.inductor):
            pytest.skip(f"{type(self).__name__}: compiles or inductor is False")
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend=backend)
        setting = "compiles" if backend == "aot_eager" else "inductor"
        claim = (
            f"torch.compile cannot take it as one graph ({backend}): use tensor operations in place of .item() and "
            f"`if` on values of tensors; or set {setting} = False here, and train with train.compile = 'off'"
        )

        def call(*inputs: Any) -> Any:
            with errors_as_failures(claim):
                return compiled(*inputs)

        return call

    def test_modules_share_no_weights(self) -> None:
        one, other = self.build(), self.build()
        shared = {id(weight) for weight in one.parameters()} & {id(weight) for weight in other.parameters()}
        assert not shared, (
            f"{len(shared)} parameters are shared by two modules of one component: build must make new ones"
        )

    def test_weights_survive_being_saved(self, tmp_path: Path) -> None:
        saved, loaded = self.build(seed=1), self.build(seed=2)
        with errors_as_failures(
            "its weights cannot be saved and loaded: hold them as parameters or buffers, each once"
        ):
            save_model(saved, str(tmp_path / "model.safetensors"))
            load_model(loaded, tmp_path / "model.safetensors")
        claim = "saved and loaded it computes something else: register fixed tensors with register_buffer"
        assert_same(self.outputs(loaded), self.outputs(saved), claim, equal_nan=True)

    def test_eval_mode_is_deterministic(self) -> None:
        module = self.build()
        torch.manual_seed(1)
        before = self.outputs(module)
        torch.manual_seed(2)
        claim = "two passes in eval mode differ: draw random numbers only if self.training, and keep no state"
        assert_same(self.outputs(module), before, claim, equal_nan=True)

    def concurrent_calls(self, module: nn.Module) -> list[Callable[[], list[Tensor]]]:
        """Two calls of the module, which two threads make concurrently."""
        return [lambda: [self.outputs(module)]] * 2

    def in_training(self) -> nn.Module:
        """A module in training mode, without dropout."""
        return self.build().train()

    def test_two_threads_may_call_it_at_once(self) -> None:
        """Runs on a CPU use the same check to decide whether they may split a batch among threads."""
        if not self.threads or self.device != "cpu":
            pytest.skip(f"{type(self).__name__} does not promise it: threads = False, or another device")
        module = self.in_training()
        found = hazard_of_calls(module, self.concurrent_calls(module))
        remedy = "keep such state out of the module, or set threads = False here: runs then split no batch with it"
        assert found is None, f"two threads must not call it at once, since {found}; {remedy}"


class PartConformance(Conformance):
    """For the parts of a network, which are built from a LayerContext."""

    component: ClassVar[Mixer | Attention | Position | Norm | MLP | Loss]
    context: ClassVar[LayerContext] = LayerContext(  # sizes that the part is built for
        n_embd=24, n_head=6, n_kv_head=3, head_dim=4, n_layer=7, block_size=13, dropout=0.0, bias=True
    )
    differentiable: ClassVar[bool] = True  # on this device; False skips all that needs a backward pass
    fast_gradcheck: ClassVar[bool] = False  # along random directions, which is faster but misses small errors
    # Small, since it must not cross a kink; larger in suites of components that usually compute in fp32.
    gradcheck_step: ClassVar[float] = 1e-6  # of finite differences; 1e-3 for a module that computes in fp32

    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs of the module, in fp32 and without gradients."""
        raise NotImplementedError

    def apply(self, module: Any, *inputs: Tensor) -> Tensor:
        """Everything the module computes from `inputs`, as one tensor."""
        raise NotImplementedError

    def build(self, seed: int = 0, **changes: Any) -> nn.Module:
        """A module for the suite's context with some `changes`."""
        torch.manual_seed(seed)
        module = self.build_part(replace(self.context, **changes))
        perturb_weights(module, 0.3, seed)
        if not self.differentiable:
            module.requires_grad_(False)
        return module.to(self.device).eval()

    def build_part(self, ctx: LayerContext) -> nn.Module:
        component: Any = self.component
        module: nn.Module = component.build(ctx)
        return module

    @torch.no_grad()
    def outputs(self, module: nn.Module) -> Tensor:
        return self.apply(module, *self.inputs())

    def concurrent_calls(self, module: nn.Module) -> list[Callable[[], list[Tensor]]]:
        batches = [self.leaves(*(scale * x for x in self.inputs())) for scale in (1.0, 0.5)]
        weights = trainable_parameters(module)
        return [partial(value_and_gradients, partial(self.apply, module), batch, weights) for batch in batches]

    def leaves(self, *inputs: Tensor) -> list[Tensor]:
        return [x.detach().clone().requires_grad_(self.differentiable) for x in inputs]

    def skip_without_gradients(self) -> None:
        if not self.differentiable:
            pytest.skip(f"{type(self.component).__name__} has no backward pass on {self.device}")

    def test_a_schedulable_option_may_change(self) -> None:
        """A schedule sets it while the model trains; the module then computes as one that was built with the value."""
        for name in self.component.schedulable:
            option = PartOption((self.component.kind, name), self.component)
            if option.base is None:
                continue
            module, other, value = self.build(), type(self)(), option.scaled(0.5)
            try:
                reading = modules_of(option, module)
            except KitError as error:
                raise AssertionError(f"{name} is in `schedulable`: {error}") from None
            for part in reading:
                setattr(part, name, value)
            other.component = self.component.model_copy(update={name: value})  # type: ignore[misc]
            claim = (
                f"with {name} set to {value} it computes something else than one that was built with it: read "
                f"self.{name} in each forward pass, and keep nothing that was computed from it"
            )
            assert_same(self.outputs(module), self.outputs(other.build()), claim, equal_nan=True)

    @torch.no_grad()
    def test_its_inputs_are_not_modified(self) -> None:
        inputs = self.inputs()
        before = [x.clone() for x in inputs]
        self.apply(self.build(), *inputs)
        changed = ", ".join(f"{index + 1}" for index, x in enumerate(inputs) if not x.equal(before[index]))
        assert not changed, (
            f"input {changed} was modified in place: make a new tensor, as x * 2 in place of x *= 2 or x.mul_(2)"
        )

    def test_gradients_pass_gradcheck(self) -> None:
        """The gradients of the inputs and of the weights."""
        self.skip_without_gradients()
        module, step = self.build().double(), self.gradcheck_step
        leaves, weights = self.leaves(*(x.double() for x in self.inputs())), trainable_parameters(module)
        check_gradients(partial(self.apply, module), leaves, step, fast=self.fast_gradcheck)
        if weights:  # gradcheck changes them in place
            names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
            check_gradients(lambda *_: self.apply(module, *leaves), weights, step, fast=True, names=names)

    @by_dtype
    @pytest.mark.parametrize("scale", [1e4, 0.0])
    def test_extreme_features_stay_finite(self, scale: float, dtype: torch.dtype) -> None:
        module = self.build().to(dtype)
        inputs = self.leaves(*(scale * x.to(dtype) for x in self.inputs()))
        for found in value_and_gradients(partial(self.apply, module), inputs, trainable_parameters(module)):
            what = f"{(~found.isfinite()).sum()} of {found.numel()} results and gradients are not finite"
            remedy = "add an eps before you divide or take a root, and compute sums of squares in fp32"
            assert found.isfinite().all(), f"features of size {scale:g}: {what}; {remedy}"

    @by_backend
    @ignore_torch_warnings
    def test_compiled_it_computes_the_same(self, backend: str) -> None:
        module = self.build()
        function, weights = partial(self.apply, module), trainable_parameters(module)
        eager = value_and_gradients(function, self.leaves(*self.inputs()), weights)
        other = value_and_gradients(self.compile_or_skip(function, backend), self.leaves(*self.inputs()), weights)
        for expected, found in zip(eager, other, strict=True):
            claim = "compiled it computes something else: let nothing depend on is_compiling() or on state of Python"
            assert_same(found, expected, claim, rtol=1e-4, atol=1e-5)
