"""Activation checkpointing: blocks keep their inputs only, and compute the other activations again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from nanogpt_kit.nn.parts import transformer_blocks


def checkpoint_activations(model: nn.Module) -> None:
    """Makes each block keep only its input, and compute the other activations again in the backward pass.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    for block in transformer_blocks(model):
        block.forward = with_recomputation(block.forward)


def with_recomputation(forward: Callable[..., Any]) -> Callable[..., Any]:
    def in_training(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    in_training.recomputes = True  # type: ignore[attr-defined]  # read by decoding, which needs no gradients
    return in_training
