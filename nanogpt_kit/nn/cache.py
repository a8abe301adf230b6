"""Keys and values of the tokens so far, so that each new token costs one column and not a whole square."""

from __future__ import annotations

import torch
from torch import Tensor

from nanogpt_kit.nn.view import View


class KVCache:
    """Room for `capacity` tokens; each layer's tensors are allocated when it first writes.

    A model's forward pass asks for the `view` of its new tokens, then each layer calls `extend` with their keys and
    values, and at the end `advance` counts them. Keys are stored as attention sees them, rotated already.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0  # tokens in it
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # each (B, Hkv, capacity, D)

    def view(self, T: int, device: torch.device, slopes: Tensor | None = None) -> View:
        """Of T new tokens onto themselves and all before them."""
        end = self.length + T
        assert end <= self.capacity, f"{end} tokens do not fit a cache of {self.capacity}"
        positions = torch.arange(end, device=device)[None]  # (1, S)
        return View(positions[:, self.length :], positions, causal_square=self.length == 0, slopes=slopes)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values (B, Hkv, T, D) into their places; returns all so far, each (B, Hkv, S, D)."""
        if layer not in self.layers:
            shape = (*k.shape[:2], self.capacity, k.size(3))
            self.layers[layer] = (k.new_empty(shape), v.new_empty(shape))
        keys, values = self.layers[layer]
        end = self.length + k.size(2)
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, T: int) -> None:
        self.length += T
