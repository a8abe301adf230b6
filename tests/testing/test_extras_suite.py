"""The suites of parts that return (y, extra): each mistake is seen, and the failure names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor, nn

from nanogpt_kit.api import MLP, LayerContext
from nanogpt_kit.testing.mlp import MLPConformance


class Penalized(nn.Linear):
    """The extra is a function of the module, its result and whether that is all of the batch."""

    def __init__(self, ctx: LayerContext, extra: Callable[..., Any]) -> None:
        super().__init__(ctx.n_embd, ctx.n_embd)
        self.extra, self.passes = extra, 0
        self.drop = nn.Dropout(ctx.dropout)

    def forward(self, x: Tensor) -> Any:
        y = self.drop(super().forward(x))
        return (y, self.extra(self, y)) if self.training else y


class PenalizedMLP(MLP):
    _extra: Callable[..., Any] = PrivateAttr()

    def build(self, ctx: LayerContext) -> nn.Module:
        return Penalized(ctx, self._extra)


def suite_of(extra: Callable[..., Any], *batch_statistics: str) -> Any:
    component = PenalizedMLP()
    component._extra = extra
    attributes = {"component": component, "batch_statistics": batch_statistics}
    return type("Suite", (MLPConformance,), attributes)()


def size(module: Any, y: Tensor) -> Tensor:
    return y.float().square().sum()


def per_token(module: Any, y: Tensor) -> Tensor:
    return y.float().square().sum(-1)


def rounded(module: Any, y: Tensor) -> Tensor:
    return size(module, y).bfloat16()


def mean(module: Any, y: Tensor) -> Tensor:
    return size(module, y) / y[..., 0].numel()


def spread(module: Any, y: Tensor) -> Tensor:
    """A batch statistic: a product of means."""
    return y.float().mean((0, 1)).square().sum() * y[..., 0].numel()


def counting(module: Any, y: Tensor) -> Tensor:
    module.passes += 1
    return module.passes * size(module, y)


def other_when_compiled(module: Any, y: Tensor) -> Tensor:
    return 2 * size(module, y) if torch.compiler.is_compiling() else size(module, y)


SUM, SCALAR = "test_extras_of_rows_add_up_and_so_do_their_gradients", "test_extras_are_scalars_in_fp32"
WEIGHTED, STATELESS = "test_batch_statistics_are_weighted_by_the_tokens", "test_extras_depend_on_the_tokens_alone"
COMPILED = "test_compiled_in_training_it_gives_the_same_extras"
BROKEN: list[tuple[Any, tuple[str, ...], str, tuple[Any, ...], str]] = [
    (
        per_token,
        (),
        SCALAR,
        (torch.float32,),
        "the extra 'mlp' of mlp is a tensor of shape (2, 5) in float32; it",
    ),
    (
        rounded,
        (),
        SCALAR,
        (torch.bfloat16,),
        "a tensor of shape () in bfloat16; it should be the sum over the tokens",
    ),
    (mean, (), SUM, (), "the extra 'mlp' of two rows is not the sum of theirs: return a sum over the tokens"),
    (spread, (), SUM, (), "a batch statistic is named in batch_statistics of this suite"),
    (mean, ("mlp",), WEIGHTED, (), "is not twice as large: multiply it by the number of tokens"),
    (size, ("balance",), WEIGHTED, (), "batch_statistics names balance, which the module does not return in training"),
    (counting, (), STATELESS, (), "the extra 'mlp' of the same tokens changes: a module must not remember"),
    (counting, (), "test_two_threads_may_call_it_at_once", (), "its forward pass changes"),
    (other_when_compiled, (), COMPILED, ("aot_eager",), "'mlp'"),
]


@pytest.mark.parametrize(("extra", "statistics", "test", "arguments", "words"), BROKEN)
def test_a_broken_extra_is_caught(
    extra: Callable[..., Any], statistics: tuple[str, ...], test: str, arguments: tuple[Any, ...], words: str
) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)) as found:
        getattr(suite_of(extra, *statistics), test)(*arguments)
    assert words in str(found.value)


@pytest.mark.parametrize(("extra", "statistics"), [(size, ()), (spread, ("mlp",))])
def test_a_sound_extra_passes(extra: Callable[..., Any], statistics: tuple[str, ...]) -> None:
    suite = suite_of(extra, *statistics)
    for test in (SUM, WEIGHTED, STATELESS, "test_two_threads_may_call_it_at_once", "test_gradients_pass_gradcheck"):
        getattr(suite, test)()
    for dtype in (torch.float32, torch.bfloat16):
        getattr(suite, SCALAR)(dtype)
    getattr(suite, COMPILED)("aot_eager")
