"""The sampling loop of a batch of texts: the model's logits, the chain of samplers, one token drawn for each text."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import MemorySampler, Sampler
from nanogpt_kit.generate.decoding_model import DecodingModel
from nanogpt_kit.generate.draw import draw_tokens
from nanogpt_kit.generate.static_cache import StaticCache, static_capacity
from nanogpt_kit.generate.thread_count import MIN_LOGITS_PER_THREAD, thread_limit
from nanogpt_kit.nn.cache import KVCache


@dataclass(frozen=True)
class DrawnTokens:
    """One new token for each text."""

    tokens: list[int]
    logprobs: (
        list[float] | None
    )  # of the tokens by the model's logits, before any sampler; None without `with_logprobs`


class Decoder:
    """Generates a batch of texts, one token of each in a step. A text depends on its seed, not on the other texts.

    A model attends to `block_size` tokens at most. When a text outgrows that, `on_overflow` decides:

    - "rolling": the newest token overwrites the oldest in the cache, and positions continue. For relative positions
      only; dropped tokens still influence the cached keys and values of later ones.
    - "refill": the older half is dropped, and the newer half is computed again, at positions from 0.
    - "exact": all but the oldest token are computed again for each new one, as in nanoGPT: as slow as without a cache.

    With `static_cache`, which requires a DecodingModel, steps are compiled.
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
        on_overflow: str = "exact",
        static_cache: bool = False,
        with_logprobs: bool = False,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.samplers = samplers
        self.block_size = block_size
        self.on_overflow = on_overflow
        self.static_cache = static_cache
        self.with_logprobs = with_logprobs
        self.seeds = list(seeds)
        self.next_index = 0  # index of the next token, from 0 after the prompt
        assert all(map(len, prompts)), "a prompt has at least one token"
        longest = max(map(len, prompts))
        padded = [[-1] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(padded, device=device)  # (B, T), -1 before a text begins
        self.newest = self.ids[:, -1:]  # (B, 1); later a separate tensor, with the same strides in each step
        self.has_memory = any(isinstance(sampler, MemorySampler) for sampler in samplers)
        self.logprobs = torch.empty(len(prompts), 0, device=device)  # (B, N) of the drawn tokens, for such samplers
        self.capacity = min(block_size, longest + max_new_tokens)
        self.cache: KVCache | StaticCache | None = None
        self.cached_tokens = [min(len(prompt), block_size) for prompt in prompts]  # of each text

    def draw_next(self) -> DrawnTokens:
        """Draws the next token of each text. Raises KitError where the logits allow none."""
        with self.without_gradients():
            raw = logits = self.prefill() if self.cache is None else self.step(self.cache)  # (B, V)
            with thread_limit(raw.numel() // MIN_LOGITS_PER_THREAD):
                for sampler in self.samplers:
                    logits = self.transform(sampler, logits)
                drawn = draw_tokens(logits, self.seeds, self.next_index)  # (B, 1)
            tokens = drawn.flatten().tolist()
            if min(tokens) < 0:
                is_broken = not raw.isfinite().all()
                what = "the model's logits are NaN or infinite" if is_broken else "the samplers leave no token to draw"
                raise KitError(what)
            self.next_index += 1
            self.ids, self.newest = torch.cat([self.ids, drawn], dim=1), drawn
            if not self.with_logprobs and not self.has_memory:
                return DrawnTokens(tokens, None)
            logprobs = raw.log_softmax(dim=-1).gather(1, drawn)  # (B, 1)
            if self.has_memory:
                self.logprobs = torch.cat([self.logprobs, logprobs], dim=1)
            return DrawnTokens(tokens, logprobs.flatten().tolist() if self.with_logprobs else None)

    def transform(self, sampler: Sampler, logits: Tensor) -> Tensor:
        """Applies a sampler to the logits (B, V) of the next tokens."""
        if isinstance(sampler, MemorySampler):
            return sampler.transform_with_memory(logits, self.ids, self.logprobs)
        return sampler.transform(logits, self.ids)

    def without_gradients(self) -> AbstractContextManager[None]:
        """inference_mode is faster; it requires that nothing else uses the tensors and nothing is compiled."""
        is_private = isinstance(self.model, DecodingModel) and self.model.is_copy and not self.static_cache
        return torch.inference_mode() if is_private else torch.no_grad()

    def prefill(self) -> Tensor:
        """Computes the prompts in one pass, or the ends that fit; returns the logits (B, V) of the first new token."""
        ids = self.ids[:, -self.block_size :]
        padding = [ids.size(1) - count for count in self.cached_tokens]
        cache = KVCache(self.capacity, padding if any(padding) else None, rolling=self.on_overflow == "rolling")
        logits = self.next_logits(ids.clamp(min=0), cache)
        self.cache = self.to_static_cache(cache)
        return logits

    def step(self, cache: KVCache | StaticCache) -> Tensor:
        """Computes the newest token of each text; returns the logits (B, V) of the next one."""
        full = [row for row, count in enumerate(self.cached_tokens) if count == self.block_size]
        if full and not cache.rolling:
            cache = self.drop_oldest(full, cache)
        self.cached_tokens = [count + 1 for count in self.cached_tokens]
        return self.next_logits(self.newest, cache)

    def drop_oldest(self, rows: list[int], cache: KVCache | StaticCache) -> KVCache | StaticCache:
        """Frees columns in full rows: computes their newer tokens again, without the newest. Returns the new cache."""
        count = self.block_size - 1 if self.on_overflow == "exact" else self.block_size // 2
        again = KVCache(self.capacity)
        if count:
            self.next_logits(self.ids[rows, -1 - count : -1], again)
        for row in rows:
            self.cached_tokens[row] = count
        if len(rows) < len(self.ids):
            cache.replace_rows(rows, again, len(self.ids))
            return cache
        self.cache = self.to_static_cache(again)
        return self.cache

    def to_static_cache(self, cache: KVCache) -> KVCache | StaticCache:
        """Copies a cache into the static one where steps are compiled; otherwise returns it."""
        if not self.static_cache or next(cache.tensors(), None) is None:
            return cache
        if isinstance(self.cache, StaticCache):
            self.cache.copy_from(cache)
            return self.cache
        assert isinstance(self.model, DecodingModel), "only a DecodingModel has static caches"
        static = self.model.borrow_cache(cache, static_capacity(self.capacity, self.block_size))
        weakref.finalize(self, self.model.return_cache, static)
        return static

    def next_logits(self, ids: Tensor, cache: KVCache | StaticCache) -> Tensor:
        """(B, V) fp32: the logits after the last of ids (B, T)."""
        cache.newest_only = True
        logits: Tensor = self.model(ids, cache=cache)
        return logits[:, -1].float()

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drops all texts except those of these rows, and orders them like this."""
        assert not isinstance(self.cache, StaticCache), "rows cannot be taken out of a static cache"
        index = torch.tensor(rows, device=self.ids.device)
        self.ids, self.newest, self.logprobs = self.ids[index], self.newest[index], self.logprobs[index]
        self.cached_tokens = [self.cached_tokens[row] for row in rows]
        self.seeds = [self.seeds[row] for row in rows]
        if self.cache is not None:
            self.cache.select(index)
