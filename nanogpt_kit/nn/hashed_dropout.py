"""Dropout whose masks are a hash, so that they are the same however the windows of a batch are divided.

Whether an element is dropped depends on the seed, the step, the layer, which of the layer's calls in the pass it is,
the window's index in the batch of all ranks, and the element's index in the window. So masks do not depend on threads,
micro-batches and processes, need no state in checkpoints, and may be computed again in a backward pass.

Models are built with `nn.Dropout`; `hash_dropouts` changes those of a model that a run trains.

Source: Srivastava et al. 2014, "Dropout" (JMLR 15).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nanogpt_kit.nn.dropout_masks import drop_threshold, kept_scale, numpy_mask, torch_mask
from nanogpt_kit.nn.training_pass import TrainingPass


class HashedDropout(nn.Dropout):
    """`nn.Dropout` outside the training passes of a run. `layer` is a tensor, so that compiled code is shared by layers
    that differ in nothing else."""

    layer: Tensor  # () int64: the hash of its name

    def forward(self, input: Tensor) -> Tensor:
        threshold = drop_threshold(self.p)
        if not self.training or not threshold:
            return input
        if not input.dim():
            return super().forward(input)
        if torch.compiler.is_compiling():
            keys = torch.ops.nanogpt_kit.dropout_keys(torch.empty(0, device="cpu"), self.layer, input.size(0))
            if input.device.type == "cpu":
                mask = torch.ops.nanogpt_kit.dropout_mask(keys, input.shape, threshold)
            else:
                mask = torch_mask(keys.to(input.device, non_blocking=True), input, threshold)
            return input * mask * kept_scale(threshold)  # type: ignore[no-any-return]
        current = TrainingPass.current()
        if current is None:
            return super().forward(input)
        keys = torch.from_numpy(current.next_keys(int(self.layer), input.size(0)).view(np.int32))
        if input.device.type == "cpu":
            mask = dropout_mask(keys, input.shape, threshold)
        else:
            mask = torch_mask(keys.to(input.device, non_blocking=True), input, threshold)
        if self.inplace:
            return input.mul_(mask).mul_(kept_scale(threshold))
        return (input * mask).mul_(kept_scale(threshold))


def hash_dropouts(model: nn.Module) -> None:
    """Makes each `nn.Dropout` of a model a HashedDropout, in place: whoever refers to it keeps it, with its hooks."""
    for name, module in model.named_modules():
        if type(module) is nn.Dropout:
            module.__class__ = HashedDropout
            digest = hashlib.sha256(name.encode()).digest()
            module.layer = torch.tensor(int.from_bytes(digest[:8], "little", signed=True), device="cpu")


def dropout_keys(distinct: Tensor, layer: Tensor, rows: int) -> Tensor:
    """(rows, 2) int32, on the CPU: keys for the next call of a layer in this thread's pass; random ones outside."""
    current = TrainingPass.current()
    if current is None:
        return torch.empty((rows, 2), dtype=torch.int32).random_(-(1 << 31), 1 << 31)
    return torch.from_numpy(current.next_keys(int(layer), rows).view(np.int32))


def dropout_mask(keys: Tensor, size: Sequence[int], threshold: int) -> Tensor:
    """uint8 of this size on the CPU; see `numpy_mask`."""
    return torch.from_numpy(numpy_mask(keys.numpy().view(np.uint32), math.prod(size[1:]), threshold)).view(size)


# Compiled code calls these and does not look into them. `distinct` is a tensor that is new in each call, since the
# compiler merges calls of equal arguments
torch.library.define("nanogpt_kit::dropout_keys", "(Tensor distinct, Tensor layer, SymInt rows) -> Tensor")
torch.library.impl("nanogpt_kit::dropout_keys", "cpu", dropout_keys)
torch.library.register_fake(
    "nanogpt_kit::dropout_keys", lambda distinct, layer, rows: layer.new_empty((rows, 2), dtype=torch.int32)
)
torch.library.define("nanogpt_kit::dropout_mask", "(Tensor keys, SymInt[] size, int threshold) -> Tensor")
torch.library.impl("nanogpt_kit::dropout_mask", "cpu", dropout_mask)
torch.library.register_fake(
    "nanogpt_kit::dropout_mask", lambda keys, size, threshold: keys.new_empty(size, dtype=torch.uint8)
)
