"""The suite for mixers: nothing depends on a later token, and a cache, padding or other rows change no result.

What it uses is taken from `Mixer.uses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.nn.cache import KVCache
from nanogpt_kit.nn.parts import Positional
from nanogpt_kit.testing.conformance import B, T, by_dtype
from nanogpt_kit.testing.mixer_calls import MixerCalls, ZeroAttention
from nanogpt_kit.testing.remedy import CONVERTED, assert_same, errors_as_failures

CHUNKS = {"token by token": [1, 1, 1, 1, 1], "in uneven chunks": [2, 1, 2]}
by_chunks = pytest.mark.parametrize("lengths", CHUNKS.values(), ids=CHUNKS)
PADDING = [3, 0]  # of each row


class MixerConformance(MixerCalls):
    """Subclass it with `component = MyMixer(...)`.

    The suite's `context` has 6 heads of 4 features. A mixer whose `uses` has "document_mask" is tested with segments.
    """

    @by_dtype
    def test_shape_and_dtype_are_kept(self, dtype: torch.dtype) -> None:
        (x,), expected = self.inputs(), self.outputs(self.build())
        with errors_as_failures(f"in {dtype} it fails: {CONVERTED}"):
            y = self.mix(self.build().to(dtype), x.to(dtype))
        assert y.shape == x.shape, f"the result is {tuple(y.shape)} for x {tuple(x.shape)}: project it to n_embd"
        assert y.dtype == dtype, f"the result is {y.dtype} for x of {dtype}: return y.type_as(x)"
        claim = f"in {dtype} it is not near the result in fp32: compute sums over features and tokens in fp32"
        assert_same(y.float(), expected, claim, atol=float(0.05 * expected.abs().max()))

    def test_a_later_token_never_changes_an_earlier_result(self) -> None:
        self.assert_causal(None)

    @by_chunks
    def test_a_later_token_never_changes_an_earlier_result_through_a_cache(self, lengths: list[int]) -> None:
        self.assert_causal(lengths)

    @torch.no_grad()
    def assert_causal(self, lengths: Sequence[int] | None) -> None:
        """One text in T rows, where row t has another token at t."""
        module, x = self.build(), self.features(1, T).repeat(T, 1, 1)  # (T, T, C)

        def results() -> Tensor:
            return self.mix(module, x) if lengths is None else self.mix_chunks(module, x, KVCache(T), lengths)

        before = results()
        x[range(T), range(T)] = self.features(T, seed=4)
        moved = (results() != before).any(dim=-1)  # (T, T)
        places = moved.tril(-1).nonzero().tolist()
        assert not places, f"tokens change earlier results, at (token, result): {places}: mix earlier positions only"
        assert moved.diagonal().all(), "a token does not change its own result: include it in what its position mixes"

    @by_chunks
    def test_cached_results_are_those_of_one_pass(self, lengths: list[int]) -> None:
        module, (x,) = self.build(), self.inputs()
        claim = (
            f"in chunks of {lengths} tokens the result is not that of one pass: keep what later tokens need in the "
            "cache, keys and values by `extend`, a state by `set_state`"
        )
        self.assert_close(self.mix_chunks(module, x, KVCache(T + 2), lengths), self.outputs(module), claim)

    def test_autocast_stays_near(self) -> None:
        module, (x,), expected = self.build(), self.inputs(), self.outputs(self.build())
        with torch.autocast(self.device, dtype=torch.bfloat16):
            once, fed = self.outputs(module), self.mix_chunks(module, x, KVCache(T), [2, 1, 2])
        for found, how, remedy in (
            (once, "", "compute sums over features and tokens in fp32"),
            (fed, " with a cache", "keep a recurrent state in fp32, and what later tokens need in the cache"),
        ):
            claim = f"under autocast to bf16{how} it is not near the result in fp32: {remedy}"
            assert_same(found.float(), expected, claim, atol=float(0.05 * expected.abs().max()))

    @torch.no_grad()
    def test_a_static_cache_gives_the_same(self) -> None:
        """Its steps may be compiled and replayed: they keep the addresses of all tensors."""
        module, (x,) = self.build(), self.inputs()
        growing = KVCache(T, PADDING[::-1])
        self.mix(module, x[:, :-2], growing)
        if next(growing.tensors(), None) is None:
            pytest.skip(f"{type(self.component).__name__} keeps nothing in the cache")
        static: Any = StaticCache(growing, T)
        for token in x[:, -2:].split(1, dim=1):
            found = self.mix(module, token, static)
            static.count_token()
            remedy = "keep all that changes in the cache, in tensors whose shapes do not change"
            claim = f"with a static cache it is not the result with a growing one: {remedy}"
            self.assert_close(found, self.mix(module, token, growing), claim)

    @torch.no_grad()
    def test_a_rolling_cache_continues(self) -> None:
        module, x, capacity = self.build(), self.features(B, 2 * T), T - 1
        lengths = [capacity, *[1] * (2 * T - capacity)]
        y = self.mix_chunks(module, x, KVCache(capacity, rolling=True), lengths)
        remedy = "attend to the keys and values that cache.extend returns, by view.mask(), and divide by nothing else"
        assert y.isfinite().all(), f"results are not finite once a rolling cache is full: {remedy}"

    @pytest.mark.parametrize("lengths", [[T + 3], [2, 3, 1, 2], [1] * (T + 3)], ids=str)
    def test_padding_on_the_left_changes_nothing(self, lengths: list[int]) -> None:
        module, x = self.build(), self.features(B, T + 3)
        alone = [self.mix(module, x[[row], padding:]) for row, padding in enumerate(PADDING)]
        for row, padding in enumerate(PADDING):
            x[row, :padding] = 70.0
        found = self.mix_chunks(module, x, KVCache(T + 3, PADDING), lengths)
        remedy = "let no token take anything from padding: it has negative key positions, and is True in view.padding"
        claim = f"padding on the left changes the results: {remedy}"
        for row, padding in enumerate(PADDING):
            self.assert_close(found[[row], padding:], alone[row].detach(), claim)

    @torch.no_grad()
    def test_rows_can_be_selected_and_repeated(self) -> None:
        module, (x,), cache, rows = self.build(), self.inputs(), KVCache(T), torch.tensor([1, 0, 1])
        self.mix(module, x[:, :3], cache)
        cache.select(rows.to(self.device))
        found = self.mix(module, x[rows, 3:], cache)
        claim = "after cache.select the results are not those of the selected texts: keep all in the cache, by row"
        self.assert_close(found, self.mix(module, x[rows])[:, 3:], claim)

    @torch.no_grad()
    def test_rows_can_be_replaced(self) -> None:
        """As for a text that outgrows the context: its newer half is computed again."""
        module, (x,), y = self.build(), self.inputs(), self.features(1, 3, seed=5)
        cache, other = KVCache(T), KVCache(T)
        self.mix(module, x[:, :4], cache)
        self.mix(module, y[:, :2], other)
        cache.replace_rows([0], other, B)
        found = self.mix(module, torch.cat([y[:, 2:], x[1:, 4:]]), cache)
        claim = "after cache.replace_rows the results are not those of the new texts: keep all in the cache, by row"
        self.assert_close(found[:1], self.mix(module, y)[:, 2:], claim)
        self.assert_close(found[1:], self.mix(module, x[1:])[:, 4:], claim)

    @torch.no_grad()
    def test_two_caches_and_two_layers_stay_independent(self) -> None:
        modules = [self.build(layer=layer, seed=layer) for layer in range(2)]
        texts = [self.features(seed=seed) for seed in (1, 2)]
        caches = [KVCache(T), KVCache(T)]
        for at in range(T):
            for x, cache in zip(texts, caches, strict=True):
                token = x[:, at : at + 1]
                for module in modules:
                    found = self.mix(module, token, cache, advance=False)
                    remedy = "the key of what is cached is ctx.layer, and nothing is kept in the module"
                    claim = f"two texts with a cache each, or two layers, influence each other at token {at}: {remedy}"
                    self.assert_close(found, self.mix(module, x)[:, at : at + 1], claim)
                cache.advance(1)

    @torch.no_grad()
    def test_documents_are_kept_apart(self) -> None:
        if "document_mask" not in self.component.uses:
            pytest.skip(f"{type(self.component).__name__} does not promise it, so models refuse document_mask with it")
        module, (x,), segments = self.build(), self.inputs(), torch.tensor([[0, 0, 1, 1, 1], [5, 5, 5, 7, 8]])
        segments = segments.to(self.device)
        remedy = 'mix positions of equal view.query_segments only, or remove "document_mask" from uses'
        claim = f"a document changes the results of another one in its window: {remedy}"
        position = Positional()  # a document within a window begins at another position than alone
        found = self.mix(module, x, segments=segments, position=position)
        for row, begin, end in ((0, 0, 2), (0, 2, 5), (1, 0, 3), (1, 3, 4), (1, 4, 5)):
            alone = self.mix(module, x[[row], begin:end], position=position)
            self.assert_close(found[[row], begin:end], alone, claim)

    @torch.no_grad()
    @pytest.mark.parametrize("name", ["rope", "alibi"])
    def test_positions_act_where_it_uses_them(self, name: str) -> None:
        module, (x,) = self.build(), self.inputs()
        plain, placed = (self.mix(module, x, position=self.positional(other)) for other in ("none", name))
        if "position" in self.component.uses:
            remedy = "rotate queries and keys with `position`, and add view.slopes, or remove it from uses"
            assert not torch.equal(placed, plain), f'`uses` names "position", and {name} changes nothing: {remedy}'
        else:
            assert torch.equal(placed, plain), f'{name} changes the result: add "position" to uses'

    @torch.no_grad()
    @pytest.mark.parametrize("option", ["attention", "n_kv_head", "qk_norm"])
    def test_an_option_that_it_uses_changes_it(self, option: str) -> None:
        if option not in self.component.uses:
            pytest.skip(f"{type(self.component).__name__} does not use it")
        changes: dict[str, Any] = {"attention": ZeroAttention(), "n_kv_head": 1, "qk_norm": True}
        modules = []
        for change in ({}, {option: changes[option]}):
            torch.manual_seed(0)
            modules.append(self.component.build(self.mixer_context(self.context, **change)).to(self.device).eval())
        plain, changed = map(self.outputs, modules)
        assert not torch.equal(plain, changed), f'`uses` names "{option}", which changes nothing: remove it from uses'

    def test_dropout_is_for_training_only(self) -> None:
        module, (x,), expected = self.build(dropout=0.5), self.inputs(), self.outputs(self.build())
        claim = "in eval mode dropout = 0.5 changes the result: drop features in training mode only, with nn.Dropout"
        self.assert_close(self.outputs(module), expected, claim)
        module.train()
        dropped = [self.mix(module, x) for _ in range(2)]
        assert not torch.equal(*dropped), "ctx.dropout = 0.5 drops nothing in training: use nn.Dropout(ctx.dropout)"
