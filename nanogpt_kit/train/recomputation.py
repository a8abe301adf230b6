"""Activation checkpointing: each block keeps only its input, and computes its activations again when they are needed.

Source: Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from nanogpt_kit.nn.hashed_dropout import HashedDropout
from nanogpt_kit.nn.parts import transformer_blocks
from nanogpt_kit.nn.training_pass import with_repeatable_calls

# Compiled backward passes compute again in another order, so they take the keys from the forward pass
KEEP_DROPOUT_KEYS = partial(create_selective_checkpoint_contexts, [torch.ops.nanogpt_kit.dropout_keys.default])


def checkpoint_activations(model: nn.Module) -> None:
    """Makes each block keep only its input, and compute the other activations again in the backward pass."""
    for block in transformer_blocks(model):
        drops = any(isinstance(part, HashedDropout) and part.p for part in block.modules())
        block.forward = with_recomputation(block.forward, drops)


def with_recomputation(forward: Callable[..., Any], drops: bool = False) -> Callable[..., Any]:
    """`drops`: it calls HashedDropouts."""

    def in_training(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if not drops:
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        if torch.compiler.is_compiling():
            return checkpoint(forward, *args, use_reentrant=False, context_fn=KEEP_DROPOUT_KEYS, **kwargs)
        return checkpoint(with_repeatable_calls(forward), *args, use_reentrant=False, **kwargs)

    in_training.recomputes = True  # type: ignore[attr-defined]  # read by decoding, which needs no gradients
    return in_training
