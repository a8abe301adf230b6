"""Tokens one at a time, cached and in batches, are those of a model that reads everything anew."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, ModelContext, Sampler
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.decoding_model import DecodingModel, record_cuda_graph
from nanogpt_kit.generate.draw import draw_tokens
from nanogpt_kit.generate.static_cache import StaticCache, static_capacity
from nanogpt_kit.generate.threads import ThreadedDecoder, count_thread_chunks
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.testing.conformance import ignore_torch_warnings
from tests.components.test_gpt import built, reference_logits
from tests.pairwise import pairwise_cases
from tests.seams.components.differential import Differential
from tests.seams.components.mingru import MinGRU

VOCABULARY, BLOCK = 23, 8
PARTS: dict[str, dict[str, Any]] = {
    "default": {},
    "rope, grouped": {"position": "rope", "n_kv_head": 2, "norm": "rmsnorm", "qk_norm": True, "mlp": "swiglu"},
    "alibi, one head": {"position": "alibi", "n_kv_head": 1, "attention": "naive"},
    "no positions, window": {"position": "none", "attention": {"use": "sdpa", "window": 3}, "logit_softcap": 4.0},
    "alibi, window": {"position": "alibi", "attention": {"use": "naive", "window": 5}},
    "flex": {"position": "rope", "attention": {"use": "flex", "window": 5}},
    "recurrence": {"position": "none", "mixer": MinGRU()},
    "recurrence and attention": {"position": "rope", "mixer": [MinGRU(expansion=2), "softmax"]},
    "keys and values of two sizes": {"position": "alibi", "mixer": Differential()},
}
by_parts = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)


def untrained(block_size: int = BLOCK, **options: Any) -> nn.Module:
    """In float64 and with weights so large that each token depends on those before it."""
    torch.manual_seed(0)
    model = GPT(n_layer=3, n_head=4, n_embd=16, block_size=block_size, **options)
    module = model.build(ModelContext(vocab_size=VOCABULARY))
    GPT2(std=0.5).apply(module, parameter_shapes(module))
    return module.double().eval()


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def written(model: nn.Module, prompts: Sequence[Sequence[int]], new: int, **options: Any) -> list[list[int]]:
    samplers, seeds = options.pop("samplers", [Temperature(value=1.3), TopK(k=9)]), options.pop("seeds", None)
    seeds = range(5, 5 + len(prompts)) if seeds is None else seeds
    decoder = Decoder(model, prompts, samplers, seeds, options.pop("block_size", BLOCK), new, **options)
    return [list(text) for text in zip(*(decoder.draw_next().tokens for _ in range(new)), strict=True)]


MASK = (1 << 64) - 1


def splitmix64(state: int) -> Iterator[int]:
    """The generator as its authors wrote it."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        x = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        yield x ^ (x >> 31)


def raced(probabilities: Sequence[float], seed: int, number: int) -> int:
    """The token whose exponential time, divided by its probability, is the least; in Python's own numbers."""
    state = next(itertools.islice(splitmix64(seed), number, None))
    signed = [x - (x >> 63 << 64) for x in itertools.islice(splitmix64(state), len(probabilities))]
    times = [-math.log1p(-(0.5 - x / 2**64)) for x in signed]
    return min(
        range(len(times)), key=lambda token: times[token] / probabilities[token] if probabilities[token] else math.inf
    )


def by_recomputation(model: nn.Module, prompt: list[int], samplers: list[Sampler], new: int, seed: int) -> list[int]:
    """The last block through the model, whole, for each new token."""
    ids = list(prompt)
    for number in range(new):
        with torch.no_grad():
            logits = model(torch.tensor([ids[-BLOCK:]]))[:, -1].float()
        for sampler in samplers:
            logits = sampler.transform(logits, torch.tensor([ids]))
        ids.append(raced(logits[0].double().softmax(-1).tolist(), seed, number))
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    ("name", "prompt"),
    [(name, prompt) for name in PARTS for prompt in (1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3)],
)
def test_exact_texts_are_those_that_recompute_everything(name: str, prompt: int) -> None:
    parts = PARTS[name]
    model, samplers = untrained(**parts), [Temperature(value=1.3), TopK(k=9)]
    prompts = prompts_of(prompt, prompt)
    new = 2 * BLOCK
    expected = [by_recomputation(model, ids, samplers, new, 5 + row) for row, ids in enumerate(prompts)]
    assert len(set(chain(*expected))) > 3
    assert written(model, prompts, new, on_overflow="exact") == expected


@torch.no_grad()
@pytest.mark.parametrize(
    ("window", "attention", "position", "n_kv_head"),
    pairwise_cases([None, 3], ["naive", "sdpa"], ["learned", "rope", "alibi", "none"], [4, 2, 1])
    + pairwise_cases([None, 3], ["flex"], ["learned", "rope", "alibi", "none"], [2]),
)
def test_logits_of_ragged_prompts_are_those_of_each_alone(
    window: int | None, attention: str, position: str, n_kv_head: int
) -> None:
    part = {"use": attention, **({"window": window} if window else {})}
    model = untrained(attention=part, position=position, n_kv_head=n_kv_head).float()
    texts = [torch.tensor([ids]) for ids in prompts_of(6, 1, 4, 8)]
    padding, longest = [2, 7, 4, 0], 8
    ids = torch.cat([torch.nn.functional.pad(text, (pad, 0)) for text, pad in zip(texts, padding, strict=True)])
    cache = KVCache(longest, padding)
    logits = torch.cat([model(piece, cache=cache) for piece in ids.split([3, 1, 1, 3], dim=1)], dim=1)
    for row, (text, pad) in enumerate(zip(texts, padding, strict=True)):
        torch.testing.assert_close(logits[row, pad:], model(text)[0], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["recurrence", "recurrence and attention", "keys and values of two sizes"])
def test_logits_of_ragged_prompts_are_those_of_each_alone_for_other_mixers(name: str) -> None:
    model = untrained(**PARTS[name]).float()
    texts, padding = [torch.tensor([ids]) for ids in prompts_of(6, 1, 4, 8)], [2, 7, 4, 0]
    ids = torch.cat([torch.nn.functional.pad(text, (pad, 0)) for text, pad in zip(texts, padding, strict=True)])
    cache = KVCache(8, padding)
    logits = torch.cat([model(piece, cache=cache) for piece in ids.split([3, 1, 1, 3], dim=1)], dim=1)
    for row, (text, pad) in enumerate(zip(texts, padding, strict=True)):
        torch.testing.assert_close(logits[row, pad:], model(text)[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_recurrence_simply_continues_in_a_rolling_cache() -> None:
    """It remembers the whole text, however long: as one pass of a longer model."""
    model, longer = (untrained(size, position="none", mixer=MinGRU()).float() for size in (BLOCK, 64))
    prompts = prompts_of(3, 6)
    decoder = Decoder(model, prompts, [], [1, 2], BLOCK, 30, on_overflow="rolling", with_logprobs=True)
    found = [decoder.draw_next() for _ in range(30)]
    for row, prompt in enumerate(prompts):
        text = [*prompt, *(drawn.tokens[row] for drawn in found)]
        expected = longer(torch.tensor([text]))[0].log_softmax(-1)
        for step, drawn in enumerate(found):
            assert drawn.logprobs is not None
            wanted = expected[len(prompt) - 1 + step, drawn.tokens[row]].item()
            assert abs(drawn.logprobs[row] - wanted) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_a_rolling_cache_is_a_window_over_a_text_that_goes_on(position: str) -> None:
    """Layer by layer each token sees the last BLOCK ones, as in a longer model whose attention has that window."""
    rolling = untrained(position=position).float()
    longer = untrained(40, position=position, attention={"use": "naive", "window": BLOCK}).float()
    longer.load_state_dict(rolling.state_dict())
    prompts = prompts_of(3, 6)
    decoder = Decoder(rolling, prompts, [], [1, 2], BLOCK, 30, on_overflow="rolling", with_logprobs=True)
    found = [decoder.draw_next() for _ in range(30)]
    for row, prompt in enumerate(prompts):
        text = [*prompt, *(draw_tokens.tokens[row] for draw_tokens in found)]
        expected = longer(torch.tensor([text]))[0].log_softmax(-1)
        for step, drawn_ in enumerate(found):
            wanted = expected[len(prompt) - 1 + step, drawn_.tokens[row]].item()
            assert drawn_.logprobs is not None
            assert abs(drawn_.logprobs[row] - wanted) < 1e-4


@by_parts
def test_a_refilled_text_sees_its_newer_half_anew(parts: dict[str, Any]) -> None:
    model, new = untrained(**parts), 3 * BLOCK
    prompts = prompts_of(2, 5, BLOCK, 2 * BLOCK)
    expected = []
    for row, prompt in enumerate(prompts):
        ids, first = list(prompt), max(0, len(prompt) - BLOCK)
        for number in range(new):
            if len(ids) - first > BLOCK:
                first = len(ids) - 1 - BLOCK // 2
            with torch.no_grad():
                logits = model(torch.tensor([ids[first:]]))[:, -1].float()
            ids.append(raced((logits[0].double() / 1.3).softmax(-1).tolist(), 5 + row, number))
        expected.append(ids[len(prompt) :])
    assert written(model, prompts, new, on_overflow="refill", samplers=[Temperature(value=1.3)]) == expected


@pytest.mark.parametrize("on_overflow", ["exact", "refill", "rolling"])
@pytest.mark.parametrize("precision", [None, "fp32", "auto"])
def test_a_text_is_the_same_alone_and_among_seventeen(on_overflow: str, precision: str | None) -> None:
    model = untrained(position="rope").float()
    prompts = prompts_of(*range(1, 18))
    options = {"on_overflow": on_overflow, "samplers": [Temperature(value=1.0)]}
    together = written(DecodingModel(model, precision, 17) if precision else model, prompts, 20, **options)
    alone = DecodingModel(model, precision, 1) if precision else model
    for row in (0, 1, BLOCK, 16):  # one token; more; more than the context; the last
        assert written(alone, [prompts[row]], 20, seeds=[5 + row], **options) == [together[row]]


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_the_greedy_text_is_that_of_a_plain_gpt2(bias: bool) -> None:
    """In fp32, and beyond the context as nanoGPT's `generate` goes on: with the last block of tokens."""
    model = built(bias=bias)
    weights, block = dict(model.named_parameters()), model.block_size
    for name, weight in weights.items():
        weight.mul_(3 if "weight" in name else 1)  # so that each token depends on those before it
    ids = [5, 2]
    for _ in range(40):
        ids.append(int(reference_logits(weights, torch.tensor([ids[-block:]]))[0, -1].argmax()))
    assert len(set(ids)) > 10
    greedy = {"on_overflow": "exact", "samplers": [Temperature(value=0.0)], "block_size": block}
    assert written(DecodingModel(model, "fp32", 1), [[5, 2]], 40, **greedy) == [ids[2:]]


def test_texts_that_are_kept_go_on_as_if_nothing_had_happened() -> None:
    model, prompts = untrained(), prompts_of(2, 5, 7, 3)
    whole = written(model, prompts, 20, on_overflow="refill")
    decoder = Decoder(model, prompts, [Temperature(value=1.3), TopK(k=9)], range(5, 9), BLOCK, 20, on_overflow="refill")
    found = [decoder.draw_next().tokens for _ in range(7)]
    decoder.keep_rows([1, 3])
    later = [decoder.draw_next().tokens for _ in range(13)]
    for row, before in enumerate((1, 3)):
        assert [tokens[before] for tokens in found] + [tokens[row] for tokens in later] == whole[before]


def test_until_the_context_is_full_a_new_token_costs_one_column() -> None:
    model, read = untrained(), []
    model.register_forward_pre_hook(lambda module, args: read.append(args[0].size(1)))
    written(model, [[0] * 3], BLOCK, on_overflow="exact")
    assert read == [3, 1, 1, 1, 1, 1, BLOCK - 1, 1, BLOCK - 1, 1]
    read.clear()
    written(model, [[0] * 3], BLOCK + 3, on_overflow="refill")
    assert read == [3, 1, 1, 1, 1, 1, BLOCK // 2, 1, 1, 1, 1, BLOCK // 2, 1]


@pytest.mark.parametrize("on_overflow", ["exact", "refill"])
def test_a_model_that_keeps_nothing_outgrows_its_context_too(on_overflow: str) -> None:
    class Words(nn.Embedding):
        def forward(self, ids: Tensor, cache: KVCache) -> Tensor:
            cache.view(ids.size(1), ids.device)
            cache.advance(ids.size(1))
            return super().forward(ids)

    model, prompts = Words(VOCABULARY, VOCABULARY), prompts_of(2, 5)
    together = written(model, prompts, 2 * BLOCK, on_overflow=on_overflow)
    assert together[1:] == written(model, prompts[1:], 2 * BLOCK, on_overflow=on_overflow, seeds=[6])


@pytest.mark.parametrize("on_overflow", ["exact", "refill"])
def test_a_context_of_one_token_works(on_overflow: str) -> None:
    assert len(written(untrained(1), [[3], [4]], 5, on_overflow=on_overflow, block_size=1)) == 2


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    model = untrained(vocab_multiple=32, weight_tying=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every word is as likely as the next
        model.lm_head.weight[VOCABULARY:] = torch.inf
    texts = written(model, [[0]] * 100, 7, samplers=[Temperature(value=5.0)])
    assert sorted(set(chain(*texts))) == list(range(VOCABULARY))


# --- draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 7])
def test_tokens_come_as_often_as_their_probability_says(number: int) -> None:
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(3)) * 1.5
    counts = draw_tokens(logits.expand(20_000, -1), range(20_000), number).flatten().bincount(minlength=9)
    expected = 20_000 * logits.softmax(-1)[0]
    distance = ((counts - expected) ** 2 / expected).sum()
    assert distance < 26.1  # chi-squared with 8 degrees of freedom: once in a thousand


def test_the_draws_of_one_text_do_not_depend_on_each_other() -> None:
    logits = torch.zeros(1, 2)
    bits = torch.cat(
        [draw_tokens(logits.expand(8, -1), range(8), number) for number in range(2000)], dim=1
    ).double()  # (8, N)
    pairs = [bits[:, lag:] == bits[:, : bits.size(1) - lag] for lag in (1, 2, 3)]
    pairs += [bits[1:] == bits[:-1], bits[1:, 1:] == bits[:-1, :-1]]
    for same in pairs:
        assert abs(same.double().mean() - 0.5) < 0.02  # 4 standard deviations or more


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_a_forbidden_token_is_never_drawn(scale: float) -> None:
    logits = torch.full((300, 7), -torch.inf)
    logits[:, 2], logits[:, 5] = 0.0, -scale
    assert set(draw_tokens(logits, range(300), 0).flatten().tolist()) <= {2, 5}


@pytest.mark.parametrize("forbidden", [0.0, 0.9, 0.9999])
def test_in_a_large_vocabulary_a_draw_hardly_minds_how_logits_are_rounded(forbidden: float) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(40, 50257, generator=generator)
    logits[torch.rand(logits.shape, generator=generator) < forbidden] = -torch.inf
    rounded = logits * (1 + 1e-6 * torch.randn(logits.shape, generator=generator))
    together = draw_tokens(logits, range(40), 3)
    assert torch.equal(together, draw_tokens(rounded, range(40), 3))
    alone = [draw_tokens(logits[[row]], [row], 3) for row in range(40)]  # other tokens are possible then
    assert torch.equal(together, torch.cat(alone))


class Forbids(Sampler):
    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        return torch.full_like(logits, -torch.inf)


def test_samplers_that_leave_nothing_are_told() -> None:
    with pytest.raises(KitError, match="the samplers leave no token to draw"):
        written(untrained(), [[1], [2]], 1, samplers=[Forbids()])


def test_a_broken_model_is_told() -> None:
    model = untrained()
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight.fill_(torch.nan)
    with pytest.raises(KitError, match="the model's logits are NaN or infinite"):
        written(model, [[1], [2]], 1)


# --- steps of equal shapes ---------------------------------------------------------------------------------------


def through(model: DecodingModel, static_cache: bool, on_overflow: str, new: int = 3 * BLOCK) -> list[list[int]]:
    prompts = prompts_of(2, 5, BLOCK, 2 * BLOCK)
    options = {"on_overflow": on_overflow, "static_cache": static_cache, "device": model.device}
    decoder = Decoder(model, prompts, [Temperature(value=1.3)], range(4), BLOCK, new, **options)
    texts = [list(text) for text in zip(*(decoder.draw_next().tokens for _ in range(new)), strict=True)]
    assert isinstance(decoder.cache, StaticCache) == static_cache
    return texts


def uncompiled(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    return function


@pytest.mark.parametrize("on_overflow", ["refill", "exact", "rolling"])
@pytest.mark.parametrize("parts", PARTS.values(), ids=str)
def test_texts_of_a_fixed_cache_are_those_of_a_growing_one(
    parts: dict[str, Any], on_overflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_overflow == "rolling" and "position" not in parts:
        pytest.skip("learnt positions cannot go on")
    monkeypatch.setattr(torch, "compile", uncompiled)
    model = DecodingModel(untrained(**parts), "fp32", 4, "default")
    first = through(model, True, on_overflow)
    assert first == through(model, False, on_overflow)
    assert first == through(model, True, on_overflow), "a second text finds what the first one left"


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_that_is_called_while_it_is_recorded_changes_no_state(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorded CUDA graph computes the step several times before its first replay."""

    def called_twice(step: Callable[..., Any], ids: Tensor) -> Callable[..., Any]:
        step(ids), step(ids)
        if fails:
            raise RuntimeError("it cannot be recorded")
        return step

    model = DecodingModel(untrained(**PARTS["recurrence and attention"]), "fp32", 4, "default")
    monkeypatch.setattr(model, "compile_step", called_twice)
    assert through(model, True, "rolling") == through(model, False, "rolling")


def test_texts_of_many_lengths_share_a_step() -> None:
    sizes = [static_capacity(tokens, 1024) for tokens in range(1, 2000)]
    assert sorted(set(sizes)) == [64, 128, 256, 512, 1024]
    assert all(one <= other for one, other in pairwise(sizes))
    assert all(size >= min(tokens, 1024) for tokens, size in enumerate(sizes, start=1))
    assert static_capacity(300, 300) == 300


def test_what_cannot_be_compiled_is_computed_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such instruction\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    model = DecodingModel(untrained(), "fp32", 4, "default")
    with caplog.at_level(logging.WARNING):
        assert through(model, True, "refill") == through(model, False, "refill")
    assert [record.message for record in caplog.records] == ["decoding continues uncompiled: no such instruction"]


by_mixer = pytest.mark.parametrize("mixer", [{}, {"mixer": [MinGRU(), "softmax"]}], ids=["softmax", "and a recurrence"])


@pytest.mark.slow
@ignore_torch_warnings
@by_mixer
def test_compiled_steps_write_the_same(mixer: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    model = DecodingModel(untrained(position="rope", **mixer), "fp32", 4, "default")
    torch._dynamo.reset()  # else it recompiles what it has compiled for another model
    with torch._dynamo.config.patch(error_on_recompile=True), caplog.at_level(logging.WARNING):
        found = through(model, True, "refill")
    assert not caplog.records
    assert found == through(model, False, "refill")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # from Ampere on, where fp32 products are exact
@ignore_torch_warnings
@pytest.mark.parametrize("mode", ["graph", "default"])
@by_mixer
def test_recorded_steps_write_the_same_on_a_gpu(
    mixer: dict[str, Any], mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = DecodingModel(untrained(position="rope", **mixer).cuda(), "fp32", 4, mode)
    with caplog.at_level(logging.WARNING):
        found = through(model, True, "refill")
    assert not caplog.records
    assert found == through(model, False, "refill")


def test_other_threads_may_allocate_while_a_step_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are pinned by another thread, which by default ends a recording."""
    modes: list[str] = []

    def graph(recorded: Any, capture_error_mode: str = "global") -> AbstractContextManager[None]:
        modes.append(capture_error_mode)
        return nullcontext()

    fakes = {"Stream": Mock, "CUDAGraph": Mock, "current_stream": Mock, "stream": lambda _: nullcontext()}
    for name, fake in {**fakes, "graph": graph}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    replay = record_cuda_graph(lambda ids: 2 * ids, torch.zeros(3, 1))
    assert replay(torch.ones(3, 1)).shape == (3, 1)
    assert modes == ["thread_local"]


def test_two_texts_that_are_written_in_turns_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", uncompiled)
    model = DecodingModel(untrained(), "fp32", 1, "default")
    prompts = prompts_of(2, 5)
    alone = [written(model, [prompt], 20, on_overflow="refill", static_cache=True, seeds=[7]) for prompt in prompts]
    options: dict[str, Any] = {"on_overflow": "refill", "static_cache": True}
    samplers = [Temperature(value=1.3), TopK(k=9)]
    decoders = [Decoder(model, [prompt], samplers, [7], BLOCK, 20, **options) for prompt in prompts]
    found: list[list[int]] = [[], []]
    for _ in range(20):
        for text, decoder in zip(found, decoders, strict=True):
            text += decoder.draw_next().tokens
    assert [[text] for text in found] == alone
    del decoder, decoders
    assert len(model.idle_caches) == 2, "what they have borrowed is put back"


def test_a_compiled_context_of_one_token_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", uncompiled)
    model = DecodingModel(untrained(1), "fp32", 2, "default")
    assert len(written(model, [[3], [4]], 5, on_overflow="refill", block_size=1, static_cache=True)) == 2


# --- threads ----------------------------------------------------------------------------------------------------


def test_texts_split_among_threads_are_those_of_one_batch() -> None:
    model, prompts = untrained(position="rope"), prompts_of(2, 5, 9, 3, 1)
    options: dict[str, Any] = {"on_overflow": "refill", "with_logprobs": True}

    def decoder(first: int, last: int) -> Decoder:
        return Decoder(model, prompts[first:last], [TopK(k=9)], range(first, last), BLOCK, 20, **options)

    whole, threaded = decoder(0, 5), ThreadedDecoder([decoder(0, 2), decoder(2, 4), decoder(4, 5)])
    for _ in range(6):
        one, other = whole.draw_next(), threaded.draw_next()
        assert one.tokens == other.tokens
        assert other.logprobs == pytest.approx(one.logprobs)
    for kept in ([1, 2, 4], [0, 2], [1]):
        whole.keep_rows(kept)
        threaded.keep_rows(kept)
        assert [whole.draw_next().tokens for _ in range(4)] == [threaded.draw_next().tokens for _ in range(4)]


def test_the_error_of_any_thread_is_raised() -> None:
    good, bad = untrained(), untrained()
    with torch.no_grad():
        bad.ln_f.weight.fill_(torch.nan)
    threaded = ThreadedDecoder([Decoder(model, [[1]], [], [0], BLOCK, 3) for model in (good, bad)])
    with pytest.raises(KitError, match="NaN or infinite"):
        threaded.draw_next()


@pytest.mark.usefixtures("with_dropout")
def test_texts_are_split_where_that_pays_and_every_part_allows_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    plain = Experiment.load(tiny)  # with dropout, which decoding has none of
    assert [count_thread_chunks(plain.model, texts, 10_000_000) for texts in (1, 4, 8, 16, 64)] == [1, 1, 2, 4, 4]
    assert count_thread_chunks(plain.model, 16, 1000) == 1
    assert count_thread_chunks(Experiment.load(tiny, ["model.attention=flex"]).model, 16, 10_000_000) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert count_thread_chunks(plain.model, 16, 10_000_000) == 1
