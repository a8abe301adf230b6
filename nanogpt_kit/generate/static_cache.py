"""Decoding with steps that are all alike, so that they can be compiled, and replayed as a CUDA graph.

A KVCache grows: each step has other shapes than the one before. Here attention always gets all columns, those that hold
nothing at negative positions, and what changes from step to step lies on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nanogpt_kit.nn.cache import KVCache, write_rows
from nanogpt_kit.nn.view import View

MIN_CAPACITY = 64  # columns; their number is a power of two, so that texts of many lengths share a compiled step


class StaticCache(nn.Module):
    """A KVCache for one new token of each row at a time. Its tensors are buffers, which stay where they are."""

    number: Tensor  # (1,) of the token that comes next
    starts: Tensor  # (B, 1) the number of each row's first token
    columns: Tensor  # (1, S)

    def __init__(self, cache: KVCache, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.rolling = cache.rolling
        self.newest_only = True
        self.step: Callable[[Tensor], Tensor] | None = None  # what was compiled for it
        keys = next(iter(cache.layers.values()))[0]
        self.register_buffer("number", torch.zeros(1, dtype=torch.int64, device=keys.device))
        self.register_buffer("begins", torch.zeros(len(keys), 1, dtype=torch.int64, device=keys.device))
        self.register_buffer("columns", torch.arange(capacity, device=keys.device)[None])
        for layer, (k, v) in cache.layers.items():
            for name, tensor in (("k", k), ("v", v)):
                self.register_buffer(f"{name}{layer}", tensor.new_zeros(*tensor.shape[:2], capacity, tensor.size(3)))
        self.take(cache)

    def take(self, cache: KVCache) -> None:
        """Holds what another cache of the same rows does."""
        self.number.fill_(cache.length)
        self.starts.copy_(torch.tensor(cache.starts or [0] * len(self.starts))[:, None])
        held = min(cache.length, cache.capacity)
        for layer, tensors in cache.layers.items():
            for mine, theirs in zip(self.of(layer), tensors, strict=True):
                mine[:, :, :held] = theirs[:, :, :held]

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"k{layer}"), getattr(self, f"v{layer}")

    def visible_length(self, T: int) -> int:
        return 0  # the decoder sees to it that there is room

    def view(self, T: int, device: torch.device, slopes: Tensor | None = None) -> View:
        assert T == 1, f"one token at a time, got {T}"
        numbers = self.number - (self.number - self.columns) % self.capacity  # (1, S) the newest of each column
        return View(self.number - self.starts, numbers - self.starts, causal_square=False, slopes=slopes)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.of(layer)
        column = self.number % self.capacity
        keys.index_copy_(2, column, k)
        values.index_copy_(2, column, v)
        return keys, values

    def advance(self, T: int) -> None:
        pass  # `move` does, outside of what is compiled

    def move(self) -> None:
        self.number += 1

    def replace_rows(self, rows: Sequence[int], texts: KVCache) -> None:
        """As KVCache.begin_again."""
        first = int(self.number) - texts.length
        self.starts[torch.tensor(rows, device=self.starts.device)] = first
        for layer in texts.layers:
            write_rows(texts, layer, self.of(layer), rows, first)


def static_capacity(tokens: int, block_size: int) -> int:
    return min(block_size, max(MIN_CAPACITY, 1 << (tokens - 1).bit_length()))
