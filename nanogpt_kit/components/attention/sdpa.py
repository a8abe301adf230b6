"""Scaled dot-product attention through torch's fused kernels, or written out where that is faster.

Source: Vaswani et al. 2017, arXiv:1706.03762; kernels: Dao et al. 2022, arXiv:2205.14135; windows: Child et al. 2019,
arXiv:1904.10509.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanogpt_kit.api import Attention, Field, KitError, LayerContext, RunContext, View
from nanogpt_kit.components.attention.causal_blocks import BLOCK, attend_in_blocks, timed_attention
from nanogpt_kit.components.attention.fused import attend_fused

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
# Tokens up to which bf16 attention is computed in blocks by rule on a CPU; longer contexts were not measured
MAX_TOKENS_IN_BLOCKS = 1024


class SDPA(Attention):
    computed_function = "softmax"
    schedulable = ("window",)
    window: int | None = Field(
        None, ge=1, description="positions that a query attends to, its own included; omitted: all"
    )
    backend: Literal["auto", "flash", "efficient", "cudnn", "math"] = Field(
        "auto",
        description="kernel of plain causal attention; math: written out; auto: measured on a CPU, else torch chooses",
    )

    def refusal_reason(self, ctx: RunContext) -> str | None:
        if ctx.device != "cuda" and self.backend in ("efficient", "cudnn"):
            return f"backend = {self.backend!r} requires cuda, and the device is {ctx.device}; use auto or math"
        return None

    def explain_choices(self, ctx: RunContext) -> str | None:
        if self.backend != "auto":
            return None
        if ctx.device == "cpu" and computed_in_blocks(ctx, ctx.precision == "bf16", ctx.block_size):
            return f"math kernel in blocks of {BLOCK} queries for plain causal attention, otherwise torch chooses"
        return "torch chooses the kernel"

    def candidates(self, ctx: RunContext) -> Mapping[str, Mapping[str, Callable[[], Callable[[], object]]]]:
        if self.backend != "auto" or ctx.device != "cpu" or ctx.block_size > MAX_TOKENS_IN_BLOCKS:
            return {}
        is_bf16 = ctx.precision == "bf16"
        order = sorted(("fused", "blocks"), reverse=not is_bf16)
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        timed = {name: partial(timed_attention, name, dtype, ctx.block_size) for name in order}
        return {task_name(is_bf16, ctx.block_size): timed}

    def build(self, ctx: LayerContext) -> nn.Module:
        return FusedAttention(self, ctx)


def task_name(is_bf16: bool, tokens: int) -> str:
    return f"attention {'bf16' if is_bf16 else 'fp32'} {tokens} tokens"


def computed_in_blocks(ctx: RunContext | LayerContext, is_bf16: bool, tokens: int) -> bool:
    """Whether plain causal attention over `tokens` is written out on a CPU; else torch's fused kernel computes it."""
    rule = "blocks" if is_bf16 and tokens <= MAX_TOKENS_IN_BLOCKS else "fused"
    return ctx.machine.choice(task_name(is_bf16, tokens), rule, ("blocks", "fused")) == "blocks"


class FusedAttention(nn.Module):
    def __init__(self, options: SDPA, ctx: LayerContext) -> None:
        super().__init__()
        self.options = options
        self.window = options.window
        self.backend = options.backend
        self.drop = nn.Dropout(ctx.dropout)
        kinds = {torch.bfloat16: True, torch.float32: False}
        self.in_blocks = {dtype: computed_in_blocks(ctx, is_bf16, ctx.block_size) for dtype, is_bf16 in kinds.items()}

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        fits = self.window is None or k.size(2) <= self.window  # no key is too far away
        plain = view.causal_square and view.slopes is None
        dropout, on_cpu = self.drop.p if self.training else 0.0, q.device.type == "cpu"
        in_blocks = self.backend == "math" or (self.backend == "auto" and on_cpu and self.in_blocks.get(q.dtype, False))
        if (plain and in_blocks) or (dropout and on_cpu):  # there fused kernels draw other masks
            window = None if fits and view.causal_square else self.window
            return attend_in_blocks(q, k, v, view, window, self.drop)
        if self.backend == "auto" or not (plain and fits):  # few fused kernels take masks, so torch chooses one
            return attend_fused(q, k, v, view, self.window, dropout)
        try:
            with sdpa_kernel(KERNELS[self.backend]):
                return F.scaled_dot_product_attention(
                    q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=k.size(1) != q.size(1)
                )
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            raise KitError(
                f"sdpa: backend {self.backend!r} has no kernel for these heads, type or dropout here; use auto"
            ) from None
