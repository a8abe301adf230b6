"""A cache of keys and values: what it holds, how much fits, and that a model which uses it says the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, ModelContext
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.generate.static_cache import StaticCache
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from tests.pairwise import pairwise_cases

B, G, D, CAPACITY = 2, 3, 4, 7
PARTS = [1, 3, 2]  # tokens that come together


def pieces(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, G, T, D, generator=generator) for T in PARTS]


def test_each_layer_gets_back_all_it_ever_wrote() -> None:
    cache = KVCache(CAPACITY)
    layers = {layer: (pieces(10 + layer), pieces(20 + layer)) for layer in range(3)}
    for number, T in enumerate(PARTS):
        for layer, (keys, values) in layers.items():
            k, v = cache.extend(layer, keys[number], values[number])
            assert torch.equal(k, torch.cat(keys[: number + 1], dim=2))
            assert torch.equal(v, torch.cat(values[: number + 1], dim=2))
        assert cache.length == sum(PARTS[:number]), "only `advance` counts, once all layers have written"
        cache.advance(T)
    assert cache.length == sum(PARTS)


def test_keys_and_values_keep_their_type_and_are_copies() -> None:
    cache = KVCache(CAPACITY)
    k = torch.ones(B, G, 1, D, dtype=torch.bfloat16)
    cache.extend(0, k, -k)
    cache.advance(1)
    k.zero_()
    keys, values = cache.extend(0, k, k)
    assert (keys.dtype, values.dtype, keys.shape) == (torch.bfloat16, torch.bfloat16, (B, G, 2, D))
    assert (keys[:, :, 0] == 1).all()
    assert (values[:, :, 0] == -1).all()
    assert (keys[:, :, 1] == 0).all()


def test_a_view_of_new_tokens_is_onto_themselves_and_all_before() -> None:
    cache = KVCache(CAPACITY)
    slopes = torch.tensor([0.5, 0.25])
    first = cache.view(4, torch.device("cpu"), slopes)
    assert first.causal_square
    assert first.slopes is slopes
    assert first.query_positions.tolist() == first.key_positions.tolist() == [[0, 1, 2, 3]]
    cache.advance(4)
    after = cache.view(2, torch.device("cpu"))
    assert not after.causal_square
    assert after.slopes is None
    assert after.query_positions.tolist() == [[4, 5]]
    assert after.key_positions.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_more_tokens_than_it_has_room_for_are_refused() -> None:
    cache, cpu = KVCache(CAPACITY), torch.device("cpu")
    cache.view(CAPACITY, cpu)
    with pytest.raises(AssertionError, match="8 tokens do not fit a cache of 7"):
        cache.view(CAPACITY + 1, cpu)
    cache.advance(5)
    cache.view(2, cpu)
    with pytest.raises(AssertionError, match="8 tokens do not fit a cache of 7"):
        cache.view(3, cpu)


H, C, L, V, T = 6, 24, 3, 13, 9


def model_of(**options: object) -> nn.Module:
    torch.manual_seed(0)
    model = GPT(n_layer=L, n_head=H, n_embd=C, block_size=T, **options).build(ModelContext(vocab_size=V))
    GPT2(std=0.3).apply(model, parameter_shapes(model))
    return model.eval()


IDS = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))
WAYS = {"by ones": [1] * T, "a prompt, then ones": [5, 1, 1, 1, 1], "by pieces": [2, 4, 3], "at once": [T]}


@torch.no_grad()
@pytest.mark.parametrize(
    ("attention", "position", "n_kv_head", "way"),
    pairwise_cases(["naive", "sdpa", "{window=4}"], ["learned", "rope", "alibi", "none"], [H, 2, 1], list(WAYS)),
)
def test_logits_with_a_cache_are_those_without(attention: str, position: str, n_kv_head: int, way: str) -> None:
    part = {"use": "sdpa", "window": 4} if attention == "{window=4}" else attention
    model = model_of(attention=part, position=position, n_kv_head=n_kv_head)
    cache = KVCache(T)
    logits = torch.cat([model(piece, cache=cache) for piece in IDS.split(WAYS[way], dim=1)], dim=1)
    assert cache.length == T
    assert sorted(cache.layers) == list(range(L))
    assert all(k.shape == (B, n_kv_head, T, C // H) for k, _ in cache.layers.values())
    torch.testing.assert_close(logits, model(IDS), rtol=0, atol=1e-5)


@torch.no_grad()
def test_qk_norm_and_soft_cap_are_the_same_with_a_cache() -> None:
    model = model_of(qk_norm=True, logit_softcap=2.0, position="rope", norm="rmsnorm")
    cache = KVCache(T)
    logits = torch.cat([model(piece, cache=cache) for piece in IDS.split([3, 1, 5], dim=1)], dim=1)
    torch.testing.assert_close(logits, model(IDS), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_loss_with_a_cache_is_that_of_the_new_tokens() -> None:
    model, targets = model_of(), IDS.roll(-1, dims=1)
    cache = KVCache(T)
    losses = [
        model(ids, wanted, cache) for ids, wanted in zip(IDS.split([4, 5], 1), targets.split([4, 5], 1), strict=True)
    ]
    torch.testing.assert_close(sum(losses), model(IDS, targets))


@torch.no_grad()
def test_a_model_refuses_more_tokens_than_its_context() -> None:
    model = model_of()
    with pytest.raises(AssertionError, match="10 tokens do not fit a block_size of 9"):
        model(torch.zeros(B, T + 1, dtype=torch.long))


@pytest.mark.parametrize("position", ["learned", "rope", "alibi", "none"])
def test_a_larger_cache_does_not_lengthen_the_context(position: str) -> None:
    model = GPT(n_layer=1, n_head=2, n_embd=8, block_size=4, position=position).build(ModelContext(vocab_size=9))
    cache = KVCache(9)
    model(torch.zeros(1, 3, dtype=torch.int64), cache=cache)
    with pytest.raises(AssertionError, match="6 tokens do not fit a block_size of 4"):
        model(torch.zeros(1, 3, dtype=torch.int64), cache=cache)


def test_a_state_is_the_initial_one_until_it_is_set() -> None:
    cache, initial, later = KVCache(CAPACITY), torch.zeros(B, D), torch.ones(B, D)
    assert cache.state(1, initial) is initial
    cache.set_state(1, later)
    cache.set_state(1, 2 * later, "other")
    assert torch.equal(cache.state(1, initial), later)
    assert torch.equal(cache.state(1, initial, "other"), 2 * later)
    assert cache.state(2, initial) is initial
    with pytest.raises(AssertionError, match="a state keeps its shape"):
        cache.set_state(1, later[:, 1:])


def test_padding_is_where_queries_are_not_part_of_their_text() -> None:
    cache, cpu = KVCache(CAPACITY, padding=[3, 0]), torch.device("cpu")
    padding = cache.view(2, cpu).padding
    assert padding is not None
    assert padding.tolist() == [[True, True], [False, False]]
    cache.advance(2)
    padding = cache.view(2, cpu).padding
    assert padding is not None
    assert padding.tolist() == [[True, False], [False, False]]
    cache.advance(2)
    assert cache.view(1, cpu).padding is None, "no row has padding from here on"


@pytest.mark.parametrize("static", [False, True])
def test_a_state_that_was_read_does_not_change_when_it_is_set(static: bool) -> None:
    """A mixer may set the state before it has used the one before."""
    cache: KVCache | StaticCache = KVCache(CAPACITY)
    cache.set_state(0, torch.ones(B, D), "conv.inputs")
    if static:
        cache = StaticCache(cache, CAPACITY)
    before = cache.state(0, torch.zeros(B, D), "conv.inputs")
    cache.set_state(0, torch.zeros(B, D), "conv.inputs")
    assert (before == 1).all()
    assert (cache.state(0, before, "conv.inputs") == 0).all()
