"""The part of the suite for models that concerns the order of tokens: causality and caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.testing.conformance import B, Conformance
from nanogpt_kit.testing.remedy import assert_same

CHUNKS = {"at once": [11], "token by token": [1] * 11, "in uneven chunks": [3, 1, 5, 2]}
by_chunks = pytest.mark.parametrize("lengths", CHUNKS.values(), ids=CHUNKS)
T = 11  # tokens of most tests
STATE = "keep what earlier tokens left in the cache alone, by layer, and use positions from cache.view"


class CausalityConformance(Conformance):
    """For modules called as models are: `module(ids)`, and `module(ids, cache=cache)` for the tokens after others."""

    vocab_size: ClassVar[int] = 37  # of the model

    def tokens(self, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.vocab_size, (B, T), generator=generator).to(self.device)

    @torch.no_grad()
    def cached_logits(self, module: nn.Module, ids: Tensor, lengths: list[int]) -> Tensor:
        """The logits of ids fed in chunks of these lengths."""
        cache = KVCache(ids.size(1) + 3)
        logits = torch.cat([module(chunk, cache=cache) for chunk in ids.split(lengths, dim=1)], dim=1)
        assert cache.length == ids.size(1), (
            f"the cache counts {cache.length} of {ids.size(1)} tokens: call cache.advance(T) once for each pass"
        )
        return logits

    def test_a_later_token_never_changes_an_earlier_logit(self) -> None:
        self.assert_causal(lambda module, ids: module(ids))

    @by_chunks
    def test_a_later_token_never_changes_an_earlier_logit_through_a_cache(self, lengths: list[int]) -> None:
        self.assert_causal(lambda module, ids: self.cached_logits(module, ids, lengths))

    @torch.no_grad()
    def assert_causal(self, logits: Callable[[nn.Module, Tensor], Tensor]) -> None:
        """One text in T rows, where row t has another token at t; in place, since batch sizes differ in rounding."""
        module, ids = self.build(), self.tokens()[:1].repeat(T, 1)  # (T, T)
        before = logits(module, ids)
        ids.diagonal().add_(1).remainder_(self.vocab_size)
        moved = (logits(module, ids) != before).any(dim=-1)  # (T, T)
        assert not moved.tril(-1).any(), (
            f"tokens change earlier logits, at [token, logit] {moved.tril(-1).nonzero().tolist()}: mask later keys "
            "with view.mask(), and reduce over no dimension of tokens"
        )
        alike = (~moved.diagonal()).nonzero().flatten().tolist()
        assert not alike, f"tokens {alike} do not change their own logits: logits[:, t] are those after token t"

    @by_chunks
    def test_cached_logits_are_those_of_one_pass(self, lengths: list[int]) -> None:
        module = self.build()
        logits = self.cached_logits(module, self.tokens(), lengths)
        claim = f"with a cache, in chunks of {lengths} tokens, the logits are not those of one pass: {STATE}"
        assert_same(logits, self.outputs(module), claim, atol=1e-5)

    def test_cached_logits_stay_near_in_bfloat16(self) -> None:
        module = self.build()
        with torch.autocast(self.device, dtype=torch.bfloat16):
            once, fed = self.outputs(module), self.cached_logits(module, self.tokens(), CHUNKS["in uneven chunks"])
        claim = (
            f"in bf16 the logits with a cache are far from those of one pass: keep a recurrent state in fp32; {STATE}"
        )
        assert_same(fed.float(), once.float(), claim, atol=float(0.05 * once.abs().max()))

    @torch.no_grad()
    def test_two_caches_used_in_turn_stay_independent(self) -> None:
        module, one, other = self.build(), self.tokens(seed=1), self.tokens(seed=2)
        caches = KVCache(T), KVCache(T)
        for at in range(T):
            for ids, cache in zip((one, other), caches, strict=True):
                logits = module(ids[:, at : at + 1], cache=cache)
                claim = f"two texts with a cache each, token by token, influence each other at token {at}: {STATE}"
                assert_same(logits, module(ids)[:, at : at + 1], claim, atol=1e-5)
