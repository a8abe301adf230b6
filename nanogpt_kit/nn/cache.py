"""Keys and values of the tokens so far, so that each new token costs one column and not a whole square."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogpt_kit.nn.view import View


class KVCache:
    """Room for the last `capacity` tokens of each row; each layer's tensors are allocated when it first writes.

    A model's forward pass asks for the `view` of its new tokens, then each layer calls `extend` with their keys and
    values, and at the end `advance` counts them. Keys are stored as attention sees them, rotated already.

    Texts of different lengths are padded on the left: the first `padding[row]` tokens of a row are none, and nothing
    sees them. Token number n lies in column n % capacity. A `rolling` cache that is full goes on, the newest token in
    the place of the oldest: positions go on, too, and each query sees the `capacity` tokens up to its own. In another
    one there is no room then, except in rows that were told to `begin_again`.
    """

    def __init__(self, capacity: int, padding: Sequence[int] | None = None, rolling: bool = False) -> None:
        self.capacity = capacity
        self.rolling = rolling
        self.newest_only = False  # whether nobody asks for the logits of any token but the newest
        self.length = 0  # tokens that went into it, padding included
        self.begins = list(padding or ())  # number of each row's first token; empty where all begin at 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # each (B, Hkv, capacity, D)

    def reach(self, T: int) -> int:
        """How many tokens the longest text has in sight after T more."""
        end = self.length + T - min(self.begins, default=0)
        return min(end, self.capacity) if self.rolling else end

    def view(self, T: int, device: torch.device, slopes: Tensor | None = None) -> View:
        """Of T new tokens onto themselves and all before them."""
        end = self.length + T
        assert self.reach(T) <= self.capacity, f"{self.reach(T)} tokens do not fit a cache of {self.capacity}"
        assert T == 1 or end <= self.capacity, f"{T} tokens at once would overwrite what the first of them still sees"
        queries = torch.arange(self.length, end, device=device)[None]  # (1, T) numbers of tokens
        keys = torch.arange(max(0, end - self.capacity), end, device=device)[None]  # (1, S)
        if end > self.capacity:
            keys = keys.roll(end % self.capacity, dims=1)  # as they lie in the columns
        if not self.begins:
            return View(queries, keys, causal_square=self.length == 0, all_seen=T == 1, slopes=slopes)
        begins = torch.tensor(self.begins, device=device)[:, None]  # (B, 1)
        positions = (queries - begins).clamp(min=0)  # padding has one, too, and nobody asks what comes of it
        return View(positions, keys - begins, causal_square=False, slopes=slopes)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values (B, Hkv, T, D) into their places; returns all that can be seen, each (B, Hkv, S, D)."""
        keys, values = self.room(layer, k, v)
        first = self.length % self.capacity
        keys[:, :, first : first + k.size(2)] = k
        values[:, :, first : first + k.size(2)] = v
        S = min(self.length + k.size(2), self.capacity)
        return keys[:, :, :S], values[:, :, :S]

    def room(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's tensors, for keys and values like these."""
        if layer not in self.layers:
            shape = (*k.shape[:2], self.capacity, k.size(3))
            self.layers[layer] = (k.new_zeros(shape), v.new_zeros(shape))
        return self.layers[layer]

    def advance(self, T: int) -> None:
        self.length += T

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order; one may come several times, as where texts share their beginning."""
        self.layers = {layer: (k[rows], v[rows]) for layer, (k, v) in self.layers.items()}
        if self.begins:
            self.begins = [self.begins[row] for row in rows.tolist()]

    def begin_again(self, rows: Sequence[int], texts: KVCache) -> None:
        """Lets rows forget what they held; instead they hold what `texts` does, a row for each of them."""
        kept = texts.length
        self.begins = self.begins or [0] * len(next(iter(self.layers.values()))[0])
        for row in rows:
            self.begins[row] = self.length - kept
        for layer in texts.layers:
            put(texts, layer, self.layers[layer], rows, self.length - kept)


def put(texts: KVCache, layer: int, into: tuple[Tensor, Tensor], rows: Sequence[int], first: int) -> None:
    """What a layer of `texts` holds into keys and values (B, Hkv, capacity, D) of rows, as tokens from `first` on."""
    for target, held in zip(into, texts.layers[layer], strict=True):
        columns = torch.arange(first, first + texts.length, device=target.device) % target.size(2)
        places = torch.tensor(rows, device=target.device)[:, None]
        target[places, :, columns] = held[:, :, : texts.length].transpose(1, 2)  # (rows, kept, Hkv, D)
