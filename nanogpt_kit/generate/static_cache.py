"""A cache whose steps all have the same shapes, so that decoding can be compiled, and replayed as a CUDA graph.

A KVCache grows: the shapes of each step differ from those of the one before. Here attention always gets all columns,
empty ones at negative positions, and what changes from step to step, states included, is kept on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nanogpt_kit.nn.cache import KVCache, empty_columns, write_rows
from nanogpt_kit.nn.view import View

MIN_CAPACITY = 64  # columns


class StaticCache(nn.Module):
    """A KVCache for steps of one token. Its tensors are buffers, whose addresses in memory never change."""

    next_index: Tensor  # (1,) index of the next token
    starts: Tensor  # (B, 1) index of each row's first token
    columns: Tensor  # (1, S)

    def __init__(self, cache: KVCache, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.rolling = cache.rolling
        self.newest_only = True
        self.compiled_step: Callable[[Tensor], Tensor] | None = None  # compiled for this cache
        kept = next(cache.tensors())
        self.register_buffer("next_index", torch.zeros(1, dtype=torch.int64, device=kept.device))
        self.register_buffer("starts", torch.zeros(len(kept), 1, dtype=torch.int64, device=kept.device))
        self.register_buffer("columns", torch.arange(capacity, device=kept.device)[None])
        for layer, (k, v) in cache.layers.items():
            self.register_buffer(f"k{layer}", empty_columns(k, capacity))
            self.register_buffer(f"v{layer}", empty_columns(v, capacity))
        self.state_buffers = {key: f"state{index}" for index, key in enumerate(cache.states)}  # by layer and name
        for key, state in cache.states.items():
            self.register_buffer(self.state_buffers[key], torch.zeros_like(state))
        self.copy_from(cache)

    def copy_from(self, cache: KVCache) -> None:
        """Copies the tokens of another cache with the same rows."""
        self.next_index.fill_(cache.length)
        self.starts.copy_(torch.tensor(cache.starts or [0] * len(self.starts))[:, None])
        length = min(cache.length, cache.capacity)
        for layer, tensors in cache.layers.items():
            for target, source in zip(self.layer_tensors(layer), tensors, strict=True):
                target[:, :, :length] = source[:, :, :length]
        for (layer, name), state in cache.states.items():
            self.set_state(layer, state, name)

    def layer_tensors(self, layer: int) -> tuple[Tensor, Tensor]:
        return getattr(self, f"k{layer}"), getattr(self, f"v{layer}")

    def state_tensor(self, layer: int, name: str) -> Tensor:
        tensor: Tensor = getattr(self, self.state_buffers[layer, name])
        return tensor

    @contextmanager
    def preserved_states(self) -> Iterator[None]:
        """Restores all states afterwards: a step that is recorded is called several times, and changes them."""
        before = {name: getattr(self, name).clone() for name in self.state_buffers.values()}
        try:
            yield
        finally:
            for name, state in before.items():
                getattr(self, name).copy_(state)

    def visible_length(self, T: int) -> int:
        return 0  # so that the model accepts any length: the decoder ensures that the tokens fit

    def view(self, T: int, device: torch.device, slopes: Tensor | None = None) -> View:
        assert T == 1, f"a static cache takes single tokens, got {T}"
        newest = self.next_index - (self.next_index - self.columns) % self.capacity  # (1, S) index in each column
        return View(self.next_index - self.starts, newest - self.starts, causal_square=False, slopes=slopes)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.layer_tensors(layer)
        column = self.next_index % self.capacity
        keys.index_copy_(2, column, k)
        values.index_copy_(2, column, v)
        return keys, values

    def state(self, layer: int, initial: Tensor, name: str = "") -> Tensor:
        """A copy, since `set_state` overwrites the buffer."""
        return self.state_tensor(layer, name).clone()

    def set_state(self, layer: int, state: Tensor, name: str = "") -> None:
        self.state_tensor(layer, name).copy_(state)

    def advance(self, T: int) -> None:
        """Does nothing: `count_token` counts, outside the compiled step."""

    def count_token(self) -> None:
        self.next_index += 1

    def replace_rows(self, rows: Sequence[int], other: KVCache, n_rows: int) -> None:
        """As KVCache.replace_rows."""
        first, index = int(self.next_index) - other.length, torch.tensor(rows, device=self.starts.device)
        self.starts[index] = first
        for layer in other.layers:
            write_rows(other, layer, self.layer_tensors(layer), rows, first)
        for key, state in other.states.items():
            self.state_tensor(*key)[index] = state


def static_capacity(tokens: int, block_size: int) -> int:
    """Columns for texts of `tokens` tokens: a power of two, so that many lengths share a compiled step."""
    return min(block_size, max(MIN_CAPACITY, 1 << (tokens - 1).bit_length()))
