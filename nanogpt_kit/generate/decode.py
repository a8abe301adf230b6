"""The sampling loop: the model's logits through the sampler chain, then a draw; for several texts at a time."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Sampler
from nanogpt_kit.generate.draw import draw_tokens
from nanogpt_kit.generate.packed import DecodingModel
from nanogpt_kit.generate.static_cache import StaticCache, static_capacity
from nanogpt_kit.nn.cache import KVCache


@dataclass(frozen=True)
class DrawnTokens:
    """A new token for each text."""

    tokens: list[int]
    logprobs: list[float] | None  # what the model gave them, before any sampler; where they were asked for


class Decoder:
    """Texts that grow by a token at a time. Each has a seed of its own, so that it does not depend on its neighbours.

    Beyond `block_size` a model cannot see its whole text any more. With `beyond`:

    - "rolling", the newest token takes the place of the oldest in the cache and positions go on. That is for relative
      positions only, and what was forgotten still shows in what is remembered of the tokens after it.
    - "refill", the older half is forgotten, and the newer one is read anew, at positions from 0.
    - "exact", all but the oldest token is read anew for each new one, as nanoGPT does: as slow as without a cache.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        samplers: Sequence[Sampler],
        seeds: Sequence[int],
        block_size: int,
        max_new_tokens: int,
        *,
        beyond: str = "exact",
        fast: DecodingModel | None = None,  # the model, where its steps are compiled
        with_logprobs: bool = False,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.samplers = samplers
        self.block_size = block_size
        self.on_overflow = beyond
        self.with_logprobs = with_logprobs
        self.seeds = list(seeds)
        self.number = 0  # of the token that comes next
        assert all(map(len, prompts)), "a text begins with a token at least"
        longest = max(map(len, prompts))
        padded = [[-1] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(padded, device=device)  # (B, T), -1 where a text has not begun
        self.newest = self.ids[:, -1:]  # (B, 1); a tensor of its own later, of the same strides at each step
        self.capacity = min(block_size, longest + max_new_tokens)
        self.fast = fast
        self.cache: KVCache | StaticCache | None = None
        self.held = [min(len(prompt), block_size) for prompt in prompts]  # tokens of each text in the cache

    def draw(self) -> DrawnTokens:
        """The next token of each text. Raises KitError where the logits allow none."""
        with self.without_gradients():
            return self._draw()

    def without_gradients(self) -> AbstractContextManager[None]:
        """The cheaper of torch's two modes, where nobody else sees the tensors, and no compiler does."""
        cheap = isinstance(self.model, DecodingModel) and self.model.own and self.fast is None
        return torch.inference_mode() if cheap else torch.no_grad()

    def _draw(self) -> DrawnTokens:
        raw = logits = self.prefill() if self.cache is None else self.step(self.cache)  # (B, V)
        for sampler in self.samplers:
            logits = sampler.transform(logits, self.ids)
        tokens = draw_tokens(logits, self.seeds, self.number)  # (B, 1)
        found = tokens.flatten().tolist()
        if min(found) < 0:
            broken = not raw.isfinite().all()
            raise KitError("the model's logits are no numbers" if broken else "the samplers leave no token to draw")
        self.number += 1
        self.ids, self.newest = torch.cat([self.ids, tokens], dim=1), tokens
        logprobs = raw.log_softmax(dim=-1).gather(1, tokens).flatten().tolist() if self.with_logprobs else None
        return DrawnTokens(found, logprobs)

    def prefill(self) -> Tensor:
        """Reads the prompts, or as much of their ends as fits, in one pass."""
        seen = self.ids[:, -self.block_size :]
        padding = [seen.size(1) - held for held in self.held]
        cache = KVCache(self.capacity, padding if any(padding) else None, rolling=self.on_overflow == "rolling")
        logits = self.read(seen.clamp(min=0), cache)
        self.cache = self.fixed(cache)
        return logits

    def fixed(self, cache: KVCache) -> KVCache | StaticCache:
        """What the cache holds, where steps are compiled in the one that they are compiled for."""
        if self.fast is None or not cache.layers:
            return cache
        if isinstance(self.cache, StaticCache):
            self.cache.take(cache)
            return self.cache
        fixed = self.fast.borrow(cache, static_capacity(self.capacity, self.block_size))
        weakref.finalize(self, self.fast.idle.append, fixed)
        return fixed

    def step(self, cache: KVCache | StaticCache) -> Tensor:
        """Reads the newest token of each text."""
        full = [] if cache.rolling else [row for row, held in enumerate(self.held) if held == self.block_size]
        if full:
            kept = self.block_size - 1 if self.on_overflow == "exact" else self.block_size // 2
            again = KVCache(self.capacity)
            if kept:
                self.read(self.ids[full, -1 - kept : -1], again)
            for row in full:
                self.held[row] = kept
            if len(full) == len(self.ids):
                self.cache = cache = self.fixed(again)
            else:
                cache.replace_rows(full, again)
        self.held = [held + 1 for held in self.held]
        return self.read(self.newest, cache)

    def read(self, ids: Tensor, cache: KVCache | StaticCache) -> Tensor:
        """(B, V) fp32: the logits after the last of ids (B, T)."""
        cache.newest_only = True
        logits: Tensor = self.model(ids, cache=cache)
        return logits[:, -1].float()

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these texts only, in this order."""
        assert not isinstance(self.cache, StaticCache), "its rows stay"
        index = torch.tensor(rows, device=self.ids.device)
        self.ids, self.newest = self.ids[index], self.newest[index]
        self.held = [self.held[row] for row in rows]
        self.seeds = [self.seeds[row] for row in rows]
        if self.cache is not None:
            self.cache.select(index)
