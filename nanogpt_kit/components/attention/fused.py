"""Softmax attention for any view, by the fused kernel that torch chooses.

`sdpa` uses it where no kernel is set, and `flex` where a kernel compiled for the mask would not pay.

Read in torch's sources, not run on a GPU: at compute capability 9.0 and 10.0 torch prefers cuDNN's kernel, which makes
a plan for each new shape. Users of PyTorch report 40 to 400 ms a plan (its pull requests 155958 and 191576).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanogpt_kit.api import View

KERNELS_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attend_fused(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None, dropout: float = 0.0) -> Tensor:
    """(B, H, T, D) of queries (B, H, T, D) and keys and values (B, Hkv, S, D)."""
    fits = window is None or k.size(2) <= window  # no key is too far away
    needs_mask = view.slopes is not None or not fits or not (view.unmasked or view.causal_square)
    groups = q.size(1) // k.size(1)
    if groups > 1 and q.device.type == "cuda" and (needs_mask or q.dtype == torch.float32):
        # The kernel that takes masks, and fp32, may have no grouped heads; the fallback keeps all scores in fp32
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        groups = 1
    with kernels_for(q, k):
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=fused_mask(view, window, q.dtype) if needs_mask else None,
            dropout_p=dropout,
            is_causal=not needs_mask and not view.unmasked,
            enable_gqa=groups > 1,
        )


def kernels_for(q: Tensor, k: Tensor) -> AbstractContextManager[None]:
    """While entered, torch chooses among the kernels that suit these shapes.

    Without gradients lengths change from call to call, as those of a cache and of prompts do.
    """
    changes = q.size(2) != k.size(2) or not torch.is_grad_enabled()
    return sdpa_kernel(KERNELS_WITHOUT_PLANS) if changes and q.device.type == "cuda" else nullcontext()


def fused_mask(view: View, window: int | None, dtype: torch.dtype) -> Tensor:
    """(1 or B, 1, T, S) bool; with slopes (1 or B, H, T, S) to be added to the scores."""
    mask = view.mask(window)
    if view.slopes is None:
        return mask

    def make() -> Tensor:
        return view.penalty().masked_fill(~mask, float("-inf")).to(dtype)

    added: Tensor = view.cached(("sdpa", window, dtype), make)
    return added
