"""Scaled dot-product attention through torch's fused kernels.

Source: Vaswani et al. 2017, arXiv:1706.03762; kernels: Dao et al. 2022, arXiv:2205.14135; windows: Child et al. 2019,
arXiv:1904.10509.
"""

from __future__ import annotations

import math
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
# Tokens up to which bf16 attention is written out on a CPU. A training step on two cores of an AMD EPYC, with the fused
# kernel and written out: 34.7 and 23.0 ms at 64 tokens, 364 and 318 ms at 256 (6 layers, 384 wide), 534 and 524 ms at
# 256 (GPT-2 124M), since the backward pass of the fused one is slow there: 20.1 of 39.5 ms at 64 tokens, 3.9 in fp32.
MAX_WRITTEN_OUT = 256


class SDPA(Attention):
    computed_function = "softmax"
    schedulable = ("window",)
    window: int | None = Field(
        None, ge=1, description="positions that a query attends to, its own included; omitted: all"
    )
    backend: Literal["auto", "flash", "efficient", "cudnn", "math"] = Field(
        "auto",
        description="kernel of plain causal attention; auto: math for short bf16 contexts on a CPU, else torch chooses",
    )

    def refusal_reason(self, ctx: RunContext) -> str | None:
        if ctx.device != "cuda" and self.backend in ("efficient", "cudnn"):
            return f"backend = {self.backend!r} requires cuda, and the device is {ctx.device}; use auto or math"
        return None

    def explain_choices(self, ctx: RunContext) -> str | None:
        if self.backend != "auto":
            return None
        if is_written_out(ctx.device, ctx.precision == "bf16", ctx.block_size):
            why = f"faster in {ctx.precision} on a CPU up to {MAX_WRITTEN_OUT} tokens"
            return f"math kernel for plain causal attention ({why}), otherwise torch chooses"
        return "torch chooses the kernel"

    def build(self, ctx: LayerContext) -> nn.Module:
        return FusedAttention(self, ctx.dropout)


def is_written_out(device: str, is_bf16: bool, tokens: int) -> bool:
    return device == "cpu" and is_bf16 and tokens <= MAX_WRITTEN_OUT


class FusedAttention(nn.Module):
    def __init__(self, options: SDPA, dropout: float) -> None:
        super().__init__()
        self.options = options
        self.window = options.window
        self.backend = options.backend
        self.drop = nn.Dropout(dropout)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
        fits = self.window is None or k.size(2) <= self.window  # no key is too far away
        plain = view.causal_square and view.slopes is None and fits
        dropout = self.drop.p if self.training else 0.0
        auto = self.backend == "auto" and is_written_out(q.device.type, q.dtype == torch.bfloat16, q.size(2))
        if plain and (auto or self.backend == "math"):
            return attend(q, k, v, view, None, self.drop)
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
    return drop(weights).to(v.dtype) @ v  # (B, H, T, D)
