"""A linear layer for each group of consecutive rows, as one operation.

To torch's compiler it is a single operation, so the sizes of the groups, which depend on the data, break no graph. On a
GPU they are copied to the host, once for each call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Defined so, and not with torch's custom_op, whose first call imports the compiler: seconds, and hundreds of MiB
FORWARD, BACKWARD = "nanogpt_kit_moe::grouped_linear", "nanogpt_kit_moe::grouped_linear_backward"
torch.library.define(FORWARD, "(Tensor x, Tensor weight, Tensor? bias, Tensor ends) -> Tensor")
torch.library.define(
    BACKWARD, "(Tensor gradient, Tensor x, Tensor weight, Tensor ends, bool has_bias) -> (Tensor, Tensor, Tensor)"
)


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    """Rows (M, K), a weight (E, N, K) and a bias (E, N) for each group, to (M, N). `ends` (E,) are the groups' ends."""
    if x.is_meta:  # in plain operations of the same size, so that FLOPs are counted
        return torch.nn.functional.linear(x, weight[0], None if bias is None else bias[0])
    result: Tensor = torch.ops.nanogpt_kit_moe.grouped_linear(x, weight, bias, ends)
    return result


def groups_of(*tensors: Tensor, ends: Tensor) -> Any:
    """The index and the rows of each group that has some."""
    first = 0
    for index, last in enumerate(ends.tolist()):
        if last > first:
            yield index, *(tensor[first:last] for tensor in tensors)
        first = last


@torch.library.impl(FORWARD, "CompositeExplicitAutograd")
def product(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    y = x.new_empty(len(x), weight.size(1))
    for index, rows, result in groups_of(x, y, ends=ends):
        if bias is None:
            torch.mm(rows, weight[index].T, out=result)
        else:
            torch.addmm(bias[index], rows, weight[index].T, out=result)
    return y


def product_shape(x: Tensor, weight: Tensor, bias: Tensor | None, ends: Tensor) -> Tensor:
    return x.new_empty(x.size(0), weight.size(1))


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def product_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, ends: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    of_x, of_weight = torch.empty_like(x), torch.zeros_like(weight)
    of_bias = weight.new_zeros(weight.shape[:2] if has_bias else (0,))
    for index, of_y, rows, result in groups_of(gradient, x, of_x, ends=ends):
        torch.mm(of_y, weight[index], out=result)
        torch.mm(of_y.T, rows, out=of_weight[index])
        if has_bias:
            torch.sum(of_y, 0, out=of_bias[index])
    return of_x, of_weight, of_bias


def gradient_shapes(
    gradient: Tensor, x: Tensor, weight: Tensor, ends: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(weight.shape[:2] if has_bias else (0,))


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ends = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, ends)


def backward_of_product(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, ends = ctx.saved_tensors
    given = gradient, x, weight, ends, ctx.has_bias
    of_x, of_weight, of_bias = torch.ops.nanogpt_kit_moe.grouped_linear_backward(*given)
    return of_x, of_weight, of_bias if ctx.has_bias else None, None


torch.library.register_fake(FORWARD, product_shape)
torch.library.register_fake(BACKWARD, gradient_shapes)
torch.library.register_autograd(FORWARD, backward_of_product, setup_context=save_inputs)
