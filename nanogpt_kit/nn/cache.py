"""What a model keeps of earlier tokens: keys and values, or states, so that a new token costs no pass over them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from nanogpt_kit.nn.device_copy import copy_to_device
from nanogpt_kit.nn.view import View


class KVCache:
    """Holds the last `capacity` tokens of each row; a layer's tensors are allocated when it first writes.

    A model's forward pass gets the `view` of its new tokens; each layer calls `extend` with their keys and values, or
    `state` and `set_state`; at the end `advance` counts them. Keys are stored as attention uses them, rotated already.

    Texts of different lengths are padded on the left: the first `padding[row]` tokens of a row are not part of its
    text, and nothing attends to them. The token at index i, padding included, is in column i % capacity. When a
    `rolling` cache is full, the newest token overwrites the oldest: positions continue, and each query attends to the
    `capacity` tokens up to its own. Any other cache is then full, except for rows given to `replace_rows`. A state is
    that after all tokens so far: it has no columns, and a rolling cache keeps it.
    """

    def __init__(self, capacity: int, padding: Sequence[int] | None = None, rolling: bool = False) -> None:
        self.capacity = capacity
        self.rolling = rolling
        self.newest_only = False  # the caller needs the logits of the newest token alone
        self.length = 0  # tokens so far, padding included
        self.starts = list(padding or ())  # index of each row's first token; empty where all are 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # each (B, Hkv, capacity, D); both sizes may differ
        self.states: dict[tuple[int, str], Tensor] = {}  # by layer and name, each (B, ...)
        self.indices: Tensor | None = None  # (1, capacity), for the view

    def visible_length(self, T: int) -> int:
        """The number of tokens of the longest text that can be attended to after T more."""
        end = self.length + T - min(self.starts, default=0)
        return min(end, self.capacity) if self.rolling else end

    def view(self, T: int, device: torch.device, slopes: Tensor | None = None) -> View:
        """The view of T new tokens onto themselves and all earlier tokens."""
        end, visible = self.length + T, self.visible_length(T)
        assert visible <= self.capacity, f"{visible} tokens do not fit a cache of {self.capacity}"
        assert T == 1 or end <= self.capacity, f"{T} tokens at once would overwrite some that the first attends to"
        if end > self.capacity:
            queries = torch.arange(self.length, end, device=device)[None]  # (1, T) indices of tokens
            keys = torch.arange(end - self.capacity, end, device=device)[None]  # (1, S)
            keys = keys.roll(end % self.capacity, dims=1)  # in the order of the columns
        else:
            if self.indices is None or self.indices.device != device:
                self.indices = torch.arange(self.capacity, device=device)[None]
            queries, keys = self.indices[:, self.length : end], self.indices[:, :end]
        if not self.starts:
            return View(queries, keys, causal_square=self.length == 0, unmasked=T == 1, slopes=slopes)
        starts = copy_to_device(self.starts, device)[:, None]  # (B, 1)
        positions = (queries - starts).clamp(min=0)  # padding gets one as well; its results are not used
        padding = queries < starts if self.length < max(self.starts) else None  # (B, T)
        return View(positions, keys - starts, causal_square=False, slopes=slopes, padding=padding)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores new keys and values (B, Hkv, T, D); returns all that can be attended to, each (B, Hkv, S, D).

        Keys and values may differ in their heads and head sizes.
        """
        keys, values = self.layer_tensors(layer, k, v)
        first, T = self.length % self.capacity, k.size(2)
        keys.narrow(2, first, T).copy_(k)
        values.narrow(2, first, T).copy_(v)
        S = min(self.length + T, self.capacity)
        return keys.narrow(2, 0, S), values.narrow(2, 0, S)

    def layer_tensors(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's tensors, allocated in the type and on the device of these keys and values."""
        if layer not in self.layers:
            self.layers[layer] = empty_columns(k, self.capacity), empty_columns(v, self.capacity)
        return self.layers[layer]

    def state(self, layer: int, initial: Tensor, name: str = "") -> Tensor:
        """What a layer has kept with `set_state`: (B, ...), as the `initial` state before the first token."""
        return self.states.get((layer, name), initial)

    def set_state(self, layer: int, state: Tensor, name: str = "") -> None:
        """Keeps the state (B, ...) of a layer after the new tokens. A layer with several states names them."""
        kept = self.states.get((layer, name), state)
        assert kept.shape == state.shape, f"a state keeps its shape: {tuple(kept.shape)}, now {tuple(state.shape)}"
        self.states[layer, name] = state

    def tensors(self) -> Iterator[Tensor]:
        """All keys, values and states; each has a row for each text."""
        return chain(*self.layers.values(), self.states.values())

    def advance(self, T: int) -> None:
        self.length += T

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order. A row may be repeated, as where texts share a prompt."""
        self.layers = {layer: (k[rows], v[rows]) for layer, (k, v) in self.layers.items()}
        self.states = {key: state[rows] for key, state in self.states.items()}
        if self.starts:
            self.starts = [self.starts[row] for row in rows.tolist()]

    def replace_rows(self, rows: Sequence[int], other: KVCache, n_rows: int) -> None:
        """Replaces the tokens of `rows`, of all `n_rows`, by those of `other`, which has a row for each of them."""
        first = self.length - other.length
        self.starts = self.starts or [0] * n_rows
        for row in rows:
            self.starts[row] = first
        for layer in other.layers:
            write_rows(other, layer, self.layers[layer], rows, first)
        for key, state in other.states.items():
            index = torch.tensor(rows, device=state.device)
            self.states[key] = self.states[key].index_copy(0, index, state)


def empty_columns(like: Tensor, capacity: int) -> Tensor:
    """Zeros for the keys or values of `capacity` tokens, like those of a few tokens (B, Hkv, T, D)."""
    return like.new_zeros(*like.shape[:2], capacity, like.size(3))


def write_rows(source: KVCache, layer: int, target: tuple[Tensor, Tensor], rows: Sequence[int], first: int) -> None:
    """Writes a layer of `source` into `rows` of keys and values (B, Hkv, capacity, D), from token `first` on."""
    for into, held in zip(target, source.layers[layer], strict=True):
        columns = torch.arange(first, first + source.length, device=into.device) % into.size(2)
        index = torch.tensor(rows, device=into.device)[:, None]
        into[index, :, columns] = held[:, :, : source.length].transpose(1, 2)  # (rows, length, Hkv, D)
