"""FlexAttention: a kernel compiled for the mask, which skips blocks that are masked entirely. Trains on CUDA only.

Evaluation and decoding use the fused kernels of `sdpa`, with the same masks: the kernel would be compiled for each
length again, and after eight of them torch would compute it unfused.

Source: Dong et al. 2024, arXiv:2412.05496; torch.nn.attention.flex_attention.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from nanogpt_kit.api import Attention, Field, KitError, LayerContext, RunContext, View
from nanogpt_kit.components.attention.fused import attend_fused


class Flex(Attention):
    computed_function = "softmax"
    schedulable = ("window",)
    window: int | None = Field(
        None, ge=1, description="positions that a query attends to, its own included; omitted: all"
    )

    def refusal_reason(self, ctx: RunContext) -> str | None:
        if ctx.device == "cuda":
            return None
        return (
            f'flex has no backward pass on {ctx.device}; use attention = "sdpa", which has the same windows and masks'
        )

    def build(self, ctx: LayerContext) -> nn.Module:
        if ctx.dropout:
            raise KitError(
                f'flex has no dropout, and model.dropout is {ctx.dropout}; set it to 0.0, or use attention = "sdpa"'
            )
        return BlockSparseAttention(self)


class BlockSparseAttention(nn.Module):
    def __init__(self, options: Flex) -> None:
        super().__init__()
        self.options = options
        self.window = options.window

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        # The meta device counts FLOPs, and flex has no meta kernels
        if q.is_meta or q.size(2) != k.size(2) or not torch.is_grad_enabled():
            return attend_fused(q, k, v, view, self.window)
        grouped = k.size(1) != q.size(1)
        blocks = view.cached(("flex", self.window), lambda: block_mask(view, self.window, q, k))
        y: Tensor = attend(q, k, v, score_mod=penalty(view), block_mask=blocks, enable_gqa=grouped)  # (B, H, T, D)
        return y


def block_mask(view: View, window: int | None, q: Tensor, k: Tensor) -> Any:
    """Which blocks of keys each block of queries attends to."""
    mask = view.mask(window)[:, 0].expand(q.size(0), -1, -1)  # an index that is a number would be sent to the device

    def attends(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return mask[b, i, j]

    return create_block_mask(attends, q.size(0), None, q.size(2), k.size(2), device=str(q.device))


def penalty(view: View) -> Callable[..., Tensor] | None:
    """ALiBi as a function of each score."""
    if view.slopes is None:
        return None
    slopes = view.slopes.float()
    query_at, key_at = position_at(view.query_positions), position_at(view.key_positions)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + slopes[h] * (key_at(b, j) - query_at(b, i))

    return score_mod


def position_at(positions: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The position at an index of a row of positions (1 or B, T), which are the same in all rows where there is one."""
    of_all_rows = positions[0] if positions.size(0) == 1 else None  # by a number: flex would send it to the device
    return lambda row, index: positions[row, index] if of_all_rows is None else of_all_rows[index]


def attend(*args: Any, **kwargs: Any) -> Any:
    """flex_attention, compiled on CUDA; elsewhere torch's unfused version, which is correct but slow."""
    if torch.compiler.is_compiling():
        return flex_attention(*args, **kwargs)
    if args[0].is_cuda:
        return compiled_flex()(*args, **kwargs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(*args, **kwargs)


@functools.cache
def compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)
