"""The suite for samplers fails where a sampler is broken: each break is seen by the tests beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor

from nanogpt_kit.api import MemorySampler, Sampler
from nanogpt_kit.testing.sampler import SCENES, SamplerConformance
from tests.testing.remedies import assert_fails

NEVER = float("-inf")


class OneFunction(Sampler):
    _function: Callable[[Tensor, Tensor], Tensor] = PrivateAttr()

    def transform(self, logits: Tensor, tokens: Tensor) -> Tensor:
        return self._function(logits, tokens)


def suite(function: Callable[[Tensor, Tensor], Tensor]) -> Any:
    component = OneFunction()
    component._function = function
    return type("Suite", (SamplerConformance,), {"component": component})()


def sound(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - 1, NEVER)


def writes_to_the_logits(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.mul_(0.5)


def writes_to_the_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    tokens.clamp_(min=0)
    return logits


def without_rows_of_one(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.squeeze(0)


def double_precision(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.double()


def nothing_without_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits if tokens.size(1) else logits[:, :0]


def chance(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits + 1e-3 * torch.rand(())


def by_the_last_call(logits: Tensor, tokens: Tensor, last: list[Tensor] = []) -> Tensor:  # noqa: B006
    out = logits.masked_fill(last[-1] == NEVER, NEVER) if last else logits
    last.append(logits)
    return out


def least_of_all_rows(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.masked_fill(logits < logits.amax() - 0.01, NEVER)


def tokens_of_all_rows(logits: Tensor, tokens: Tensor) -> Tensor:
    occurred = torch.zeros(logits.size(1) + 1).scatter(0, tokens.flatten() + 1, 1.0)[1:]
    return logits - occurred


def padding_is_the_last_token(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.scatter_add(1, tokens.remainder(logits.size(1)), torch.full(tokens.shape, -1.0))


def padding_is_token_0(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.scatter_add(1, tokens.clamp(min=0), torch.full(tokens.shape, -1.0))


def counts_columns(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits / (1 + tokens.size(1))


def forbids_the_likeliest(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.masked_fill(logits == logits.amax(-1, keepdim=True), NEVER)


def at_least_half_likely(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.masked_fill(logits.softmax(-1) < 0.5, NEVER)


def forbids_what_occurred(logits: Tensor, tokens: Tensor) -> Tensor:
    occurred = torch.zeros(logits.size(0), logits.size(1) + 1, dtype=torch.bool).scatter(1, tokens + 1, True)[:, 1:]
    return logits.masked_fill(occurred, NEVER)


def outgrows_float32(logits: Tensor, tokens: Tensor) -> Tensor:
    return 1.1 * logits


def large_for_minus_infinity(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.clamp(min=-1e9)


def always_one_token(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.full_like(logits, NEVER).index_fill(1, torch.tensor([3]), 0.0)


def differences_of_infinities(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits - logits.amin(-1, keepdim=True)


def softmax_by_hand(logits: Tensor, tokens: Tensor) -> Tensor:
    weights = logits.exp()
    return (weights / weights.sum(-1, keepdim=True)).log()


def by_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    probabilities = logits.softmax(-1)
    return logits / (1 - (probabilities * probabilities.log()).sum(-1, keepdim=True))


def zero_times_infinity(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits + 0 * logits


# --- with memory ------------------------------------------------------------------------------------------------


class OneFunctionWithMemory(MemorySampler):
    _function: Callable[[Tensor, Tensor, Tensor], Tensor] = PrivateAttr()

    def transform_with_memory(self, logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
        return self._function(logits, tokens, logprobs)


def with_memory(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    component = OneFunctionWithMemory()
    component._function = function
    return type("Suite", (SamplerConformance,), {"component": component})()


def warmer_after_likely_tokens(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    return logits / (2 - logprobs.sum(-1, keepdim=True).exp())


def writes_to_the_logprobs(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    return logits / (2 - logprobs.exp_().sum(-1, keepdim=True).clamp(max=1))


def mean_of_nothing(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    return logits + logprobs.mean(-1, keepdim=True)


def surprise_of_all_rows(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    return logits / (1 - logprobs.sum())


def nothing_after_surprises(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    return logits.masked_fill(logprobs.sum(-1, keepdim=True) < -1e4, NEVER)


def ignores_its_memory(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    return sound(logits, tokens)


INPUTS, SHAPE = "test_its_inputs_are_not_modified", "test_shape_and_dtype_are_kept"
SAME = "test_the_same_input_always_gives_the_same"
ROWS, PADDING = "test_no_row_depends_on_its_neighbours", "test_left_padding_changes_nothing"
POSSIBLE, FORBIDDEN = "test_some_possible_token_stays_possible", "test_a_forbidden_token_stays_forbidden"
NAN = "test_probabilities_are_never_nan"
CAUGHT: dict[Callable[[Tensor, Tensor], Tensor], list[tuple[Any, ...]]] = {
    writes_to_the_logits: [(INPUTS, "plain")],
    writes_to_the_tokens: [(INPUTS, "plain")],
    without_rows_of_one: [(SHAPE, 5)],
    double_precision: [(SHAPE, 5)],
    nothing_without_tokens: [(SHAPE, 0)],
    chance: [(SAME,)],
    by_the_last_call: [(SAME,)],
    least_of_all_rows: [(ROWS, "plain"), (POSSIBLE, "plain")],
    tokens_of_all_rows: [(ROWS, "plain")],
    padding_is_the_last_token: [(PADDING, "plain")],
    padding_is_token_0: [(PADDING, "plain")],
    counts_columns: [(PADDING, "plain"), (PADDING, "forbidden tokens")],
    forbids_the_likeliest: [(POSSIBLE, "one token left"), (POSSIBLE, "all alike")],
    at_least_half_likely: [(POSSIBLE, "all alike"), (POSSIBLE, "tiny")],
    forbids_what_occurred: [(POSSIBLE, "one token left")],
    outgrows_float32: [(POSSIBLE, "one token left"), (NAN, "the ends of float32")],
    large_for_minus_infinity: [(FORBIDDEN, scene) for scene in ("forbidden tokens", "the ends of float32")],
    always_one_token: [(FORBIDDEN, "forbidden tokens"), (POSSIBLE, "one token left")],
    differences_of_infinities: [(NAN, "forbidden tokens"), (NAN, "one token left")],
    softmax_by_hand: [(NAN, "huge")],
    by_entropy: [(NAN, "probabilities that underflow"), (NAN, "forbidden tokens")],
    zero_times_infinity: [(NAN, "forbidden tokens"), (NAN, "one token left")],
}


MATTERS = "test_what_was_drawn_matters_to_a_sampler_with_memory"
WITH_MEMORY: dict[Callable[[Tensor, Tensor, Tensor], Tensor], list[tuple[Any, ...]]] = {
    writes_to_the_logprobs: [(INPUTS, "plain")],
    mean_of_nothing: [(NAN, "plain")],
    surprise_of_all_rows: [(ROWS, "plain")],
    nothing_after_surprises: [(POSSIBLE, "plain")],
    ignores_its_memory: [(MATTERS,)],
}


@pytest.mark.parametrize("function", WITH_MEMORY)
def test_a_broken_sampler_with_memory_is_caught(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    for test, *arguments in WITH_MEMORY[function]:
        assert_fails(with_memory(function), test, *arguments)
        getattr(with_memory(warmer_after_likely_tokens), test)(*arguments)


def test_the_newest_tokens_are_those_that_were_drawn() -> None:
    """Padding has no log-probability, so a sampler may take the tokens of all of them."""

    def less_of_surprises(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
        newest = tokens[:, tokens.size(1) - logprobs.size(1) :]
        return logits.scatter_add(1, newest, logprobs.clamp(min=-10))

    for length in (0, 1, 5):
        with_memory(less_of_surprises).test_shape_and_dtype_are_kept(length)


def test_a_sampler_that_fails_for_the_first_token_is_caught() -> None:
    def by_the_newest(logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
        return logits / (1 - logprobs[:, -1:])

    with pytest.raises(AssertionError, match=r"^it fails for 3 texts of 5 tokens, of which 0 were drawn: take any"):
        with_memory(by_the_newest).test_some_possible_token_stays_possible("plain")


def test_a_sampler_with_memory_is_one_without_where_nothing_was_drawn() -> None:
    sampler = with_memory(warmer_after_likely_tokens).component
    logits, tokens = torch.randn(2, 7), torch.zeros(2, 3, dtype=torch.int64)
    assert sampler.transform(logits, tokens).equal(sampler.transform_with_memory(logits, tokens, torch.empty(2, 0)))


@pytest.mark.parametrize("function", CAUGHT)
def test_a_broken_sampler_is_caught(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    for test, *arguments in CAUGHT[function]:
        assert_fails(suite(function), test, *arguments)
        getattr(suite(sound), test)(*arguments)


def test_each_test_and_each_scene_catches_a_sampler() -> None:
    calls = [call for calls in (*CAUGHT.values(), *WITH_MEMORY.values()) for call in calls]
    assert {test for test, *_ in calls} == {name for name in vars(SamplerConformance) if name.startswith("test_")}
    assert set(SCENES) <= {argument for _, *arguments in calls for argument in arguments}
