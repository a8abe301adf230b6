"""The suites that components with a module share: it can be saved, compiled and called by two threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from nanogpt_kit.core.kinds import MLP, Attention, LayerContext, Loss, Norm, Position
from nanogpt_kit.nn.concurrent_calls import hazard_of_calls
from nanogpt_kit.nn.training_loss import take_extra
from nanogpt_kit.testing.component import ComponentConformance

B, T = 2, 5

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
        return torch.compile(function, fullgraph=True, backend=backend)

    def test_modules_share_no_weights(self) -> None:
        one, other = self.build(), self.build()
        shared = {id(weight) for weight in one.parameters()} & {id(weight) for weight in other.parameters()}
        assert not shared, (
            f"{len(shared)} parameters are shared by two modules of one component: build must make new ones"
        )

    def test_weights_survive_being_saved(self, tmp_path: Path) -> None:
        saved, loaded = self.build(seed=1), self.build(seed=2)
        save_model(saved, str(tmp_path / "model.safetensors"))
        load_model(loaded, tmp_path / "model.safetensors")
        torch.testing.assert_close(self.outputs(loaded), self.outputs(saved), rtol=0, atol=0)

    def test_eval_mode_is_deterministic(self) -> None:
        module = self.build()
        torch.manual_seed(1)
        before = self.outputs(module)
        torch.manual_seed(2)
        torch.testing.assert_close(self.outputs(module), before, rtol=0, atol=0)

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

    component: ClassVar[Attention | Position | Norm | MLP | Loss]
    context: ClassVar[LayerContext] = LayerContext(
        n_embd=24, n_head=6, n_kv_head=3, head_dim=4, n_layer=7, block_size=13, dropout=0.0, bias=True
    )
    differentiable: ClassVar[bool] = True  # on this device; False skips all that needs a backward pass
    fast_gradcheck: ClassVar[bool] = False  # along random directions, which is faster but misses small errors
    # Step of finite differences: small, since it must not cross a kink; larger in suites of components that usually
    # compute in fp32, whatever their input.
    gradcheck_step: ClassVar[float] = 1e-6

    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs of the module, in fp32 and without gradients."""
        raise NotImplementedError

    def apply(self, module: Any, *inputs: Tensor) -> Tensor:
        """Everything the module computes from `inputs`, as one tensor."""
        raise NotImplementedError

    def build(self, seed: int = 0, **changes: Any) -> nn.Module:
        """A module for the suite's context with some `changes`."""
        torch.manual_seed(seed)
        module = self.component.build(replace(self.context, **changes))
        perturb_weights(module, 0.3, seed)
        if not self.differentiable:
            module.requires_grad_(False)
        return module.to(self.device).eval()

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

    def test_gradients_pass_gradcheck(self) -> None:
        """The gradients of the inputs and of the weights."""
        self.skip_without_gradients()
        module, step = self.build().double(), self.gradcheck_step
        leaves, weights = self.leaves(*(x.double() for x in self.inputs())), trainable_parameters(module)
        fast = self.fast_gradcheck
        torch.autograd.gradcheck(partial(self.apply, module), leaves, eps=step, atol=max(1e-5, step), fast_mode=fast)
        if weights:  # gradcheck changes them in place
            torch.autograd.gradcheck(lambda *_: self.apply(module, *leaves), weights, eps=step, fast_mode=True)

    @by_dtype
    @pytest.mark.parametrize("scale", [1e4, 0.0])
    def test_extreme_features_stay_finite(self, scale: float, dtype: torch.dtype) -> None:
        module = self.build().to(dtype)
        inputs = self.leaves(*(scale * x.to(dtype) for x in self.inputs()))
        for found in value_and_gradients(partial(self.apply, module), inputs, trainable_parameters(module)):
            assert found.isfinite().all(), f"{(~found.isfinite()).sum()} of {found.numel()} values are not finite"

    @by_backend
    @ignore_torch_warnings
    def test_compiled_it_computes_the_same(self, backend: str) -> None:
        module = self.build()
        function, weights = partial(self.apply, module), trainable_parameters(module)
        eager = value_and_gradients(function, self.leaves(*self.inputs()), weights)
        other = value_and_gradients(self.compile_or_skip(function, backend), self.leaves(*self.inputs()), weights)
        for expected, found in zip(eager, other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class FeatureConformance(PartConformance):
    """For norms and MLPs: modules from (B, T, C) to (B, T, C) that compute each position by itself.

    A module may return (y, extra) in training; see `api.take_extra`.
    """

    component: ClassVar[Norm | MLP]

    def inputs(self) -> tuple[Tensor, ...]:
        return (standard_normal(B, T, self.context.n_embd, seed=3).to(self.device),)

    def apply(self, module: nn.Module, *inputs: Tensor) -> Tensor:
        return take_extra({}, self.component.kind, module(*inputs))

    @by_dtype
    def test_shape_and_dtype_are_kept(self, dtype: torch.dtype) -> None:
        (x,) = self.inputs()
        expected = self.outputs(self.build())
        out = self.apply(self.build().to(dtype), x.to(dtype))
        assert out.shape == x.shape
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected, rtol=0, atol=float(0.02 * expected.abs().max()))

    def test_positions_are_independent(self) -> None:
        (x,) = self.inputs()
        module = self.build()
        before = self.apply(module, x)
        for position in range(T):
            changed = x.clone()
            changed[0, position] = standard_normal(self.context.n_embd, seed=4)
            moved = (self.apply(module, changed) != before).any(dim=-1)  # (B, T)
            assert moved.nonzero().tolist() == [[0, position]]

    def test_without_dropout_training_mode_computes_the_same(self) -> None:
        (x,) = self.inputs()
        module = self.build()
        expected = self.apply(module, x)
        torch.testing.assert_close(self.apply(module.train(), x), expected, rtol=0, atol=0)
