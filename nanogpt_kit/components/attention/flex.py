"""FlexAttention: a kernel compiled for the mask, which skips the blocks that nobody sees.

Source: Dong et al. 2024, arXiv:2412.05496; torch.nn.attention.flex_attention.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from nanogpt_kit.api import Attention, Field, KitError, LayerContext, RunContext, View


class Flex(Attention):
    computes = "softmax"
    window: int | None = Field(None, ge=1, description="how many positions a query sees, its own included; else all")

    def refuses(self, ctx: RunContext) -> str | None:
        if ctx.device == "cuda":
            return None
        return f'flex has no backward pass on {ctx.device}; attention = "sdpa" trains with the same windows and masks'

    def build(self, ctx: LayerContext) -> nn.Module:
        if ctx.dropout:
            raise KitError(f'flex has no dropout, and model.dropout is {ctx.dropout}; take 0.0 or attention = "sdpa"')
        return BlockSparseAttention(self.window)


class BlockSparseAttention(nn.Module):
    def __init__(self, window: int | None) -> None:
        super().__init__()
        self.window = window

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        grouped = k.size(1) != q.size(1)
        if q.is_meta:  # only shapes and counts of FLOPs are wanted, and flex has none of them
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
        blocks = view.once(("flex", self.window), lambda: block_mask(view, self.window, q, k))
        y: Tensor = attend(q, k, v, score_mod=penalty(view), block_mask=blocks, enable_gqa=grouped)  # (B, H, T, D)
        return y


def block_mask(view: View, window: int | None, q: Tensor, k: Tensor) -> Any:
    """Which blocks of keys each block of queries sees."""
    mask = view.mask(window).expand(q.size(0), 1, -1, -1)

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return mask[b, 0, i, j]

    return create_block_mask(seen, q.size(0), None, q.size(2), k.size(2), device=str(q.device))


def penalty(view: View) -> Callable[..., Tensor] | None:
    """ALiBi, as a change of each score."""
    if view.slopes is None:
        return None
    slopes = view.slopes.float()
    queries, keys = view.query_positions, view.key_positions
    rows, columns = queries.size(0) > 1, keys.size(0) > 1  # else the same positions for all of the batch

    def change(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        distance = keys[b if columns else 0, j] - queries[b if rows else 0, i]
        return score + slopes[h] * distance

    return change


def attend(*args: Any, **kwargs: Any) -> Any:
    """Compiled where it is fast, within a compiled model or alone; else written out, which is right and slow."""
    if torch.compiler.is_compiling():
        return flex_attention(*args, **kwargs)
    if args[0].is_cuda:
        return compiled()(*args, **kwargs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(*args, **kwargs)


@functools.cache
def compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)
