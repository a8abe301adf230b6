"""Scaled dot-product attention through torch's fused kernels, or written out where that is faster.

Source: Vaswani et al. 2017, arXiv:1706.03762; kernels: Dao et al. 2022, arXiv:2205.14135; windows: Child et al. 2019,
arXiv:1904.10509.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanogpt_kit.api import Attention, Field, KitError, LayerContext, RunContext, View

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
# Queries that are computed together where attention is written out, with the keys up to the last of them: of the square
# that the mask of causal attention halves, 5 of 8 parts at 256 tokens.
BLOCK = 128
# Tokens up to which bf16 attention is computed in blocks by rule on a CPU; longer contexts were not measured. On an AMD
# EPYC (Zen 4), uncompiled, forward and backward pass in blocks and by the fused kernel, whose backward pass is slow in
# bf16: 0.9 and 3.6 ms (6 windows of 64 tokens, 4 heads of 32), 11.2 and 24.0 (4 windows of 256, 6 heads of 64), 75 and
# 100 (a window of 1024, 12 heads). Blocks of 64 take 15.6 ms at 256 tokens, of 256 70 at 1024. In fp32 the fused
# kernel is faster: 21.2 and 24.7 ms at 256 tokens.
MAX_TOKENS_IN_BLOCKS = 1024
TIMED_QUERIES = 1024  # in a measurement of a few ms, or those of one window that is longer
TIMED_HEADS, TIMED_HEAD_DIM = 6, 64  # GPT-2's heads are 64 wide


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


def timed_attention(name: str, dtype: torch.dtype, tokens: int) -> Callable[[], object]:
    """A forward and backward pass, as one thread computes it."""
    shape = (max(1, TIMED_QUERIES // tokens), TIMED_HEADS, tokens, TIMED_HEAD_DIM)
    q, k, v = (torch.ones(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    view = View.causal(torch.arange(tokens)[None])

    def call() -> object:
        if name == "blocks":
            y = attend_in_blocks(q, k, v, view, None, nn.Identity())
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.autograd.grad(y, (q, k, v), y.detach())

    return call


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
        causal = view.causal_square and view.slopes is None
        dropout = self.drop.p if self.training else 0.0
        auto = self.backend == "auto" and q.device.type == "cpu" and self.in_blocks.get(q.dtype, False)
        if causal and (auto or self.backend == "math"):
            return attend_in_blocks(q, k, v, view, None if fits else self.window, self.drop)
        plain = causal and fits
        if dropout and q.device.type == "cpu":  # the fused kernel would draw masks of its own
            return attend(q, k, v, view, self.window, self.drop)
        grouped = k.size(1) != q.size(1)
        unmasked = view.unmasked and view.slopes is None and fits
        if unmasked:  # as for a single new token after a cache
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, enable_gqa=grouped)
        if not plain:  # few fused kernels take masks, so torch chooses one
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=self.mask(view, q), dropout_p=dropout, enable_gqa=grouped
            )
        if self.backend == "auto":
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=None, dropout_p=dropout, is_causal=True, enable_gqa=grouped
            )
        try:
            with sdpa_kernel(KERNELS[self.backend]):
                return F.scaled_dot_product_attention(
                    q, k, v, attn_mask=None, dropout_p=dropout, is_causal=True, enable_gqa=grouped
                )
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            raise KitError(
                f"sdpa: backend {self.backend!r} has no kernel for these heads, type or dropout here; use auto"
            ) from None

    def mask(self, view: View, q: Tensor) -> Tensor:
        """(1 or B, 1, T, S) bool; with slopes (1 or B, H, T, S) to be added to the scores."""
        mask = view.mask(self.window)
        if view.slopes is None:
            return mask

        def make() -> Tensor:
            return view.penalty().masked_fill(~mask, float("-inf")).to(q.dtype)

        added: Tensor = view.cached(("sdpa", self.window, q.dtype), make)
        return added


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None, drop: nn.Module) -> Tensor:
    """Causal attention written out; each block of queries leaves out the keys after it, and those before its window."""
    groups = q.size(1) // k.size(1)
    k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x.contiguous() for x in (k, v))  # (B, H, T, D)
    q = (q * (1 / math.sqrt(q.size(-1)))).contiguous()

    def make() -> Tensor:
        mask = view.mask(window)
        return torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))

    # Unlike a mask, it has no backward pass
    added: Tensor = view.cached(("added", window, q.dtype), make)  # (1, 1, T, T)
    rows = []
    for start in range(0, q.size(2), BLOCK):
        end = min(start + BLOCK, q.size(2))
        first = 0 if window is None else max(0, start - window + 1)
        scores = q[:, :, start:end] @ k[:, :, first:end].mT + added[:, :, start:end, first:end]
        weights = drop(scores.softmax(dim=-1))  # computed in fp32, and rounded to bf16, in which it is multiplied
        rows.append(weights.to(v.dtype) @ v[:, :, first:end])
    return torch.cat(rows, dim=2)  # (B, H, T, D)


def attend(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None, drop: nn.Dropout) -> Tensor:
    """Attention written out. torch's math kernel computes bf16 in fp32."""
    groups = q.size(1) // k.size(1)
    k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))  # (B, H, S, D)
    scores = (q * (1 / math.sqrt(q.size(-1)))) @ k.mT  # (B, H, T, S)
    scores = scores.float() if view.slopes is None else scores.float() + view.penalty()
    mask = view.mask(window)
    weights: Tensor = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    if not view.causal_square:
        weights = weights.masked_fill(~mask, 0.0)  # a query without a key would be NaN
    y: Tensor = drop(weights).to(v.dtype) @ v  # (B, H, T, D)
    return y
