"""The suite for samplers: pure transforms of logits, row by row, that always leave a token to draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from nanogpt_kit.core.kinds import MemorySampler, Sampler
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.conformance import standard_normal
from nanogpt_kit.testing.remedy import assert_same, errors_as_failures

B, V, T, N = 3, 37, 5, 4
NEVER = float("-inf")
MAX_FLOAT32 = torch.finfo(torch.float32).max


def typical_logits() -> Tensor:
    return 3 * standard_normal(B, V, seed=1)


def forbidden_tokens() -> Tensor:
    """As after another sampler: the likeliest token and every third are forbidden."""
    logits = typical_logits()
    logits[:, ::3] = NEVER
    return logits.scatter(-1, logits.argmax(-1, keepdim=True), NEVER)


def logits_with_one_token() -> Tensor:
    """A different one in each row, in the first two one that has occurred."""
    left, unlikely = torch.tensor([[0], [V - 1], [4]]), torch.tensor([[-9.0], [-MAX_FLOAT32], [0.0]])
    return torch.full((B, V), NEVER).scatter(-1, left, unlikely)


def extreme_logits() -> Tensor:
    logits = typical_logits().sign() * MAX_FLOAT32
    logits[:, 5], logits[:, 6] = 0.0, NEVER
    return logits


SCENES: dict[str, Callable[[], Tensor]] = {
    "plain": typical_logits,
    "forbidden tokens": forbidden_tokens,
    "one token left": logits_with_one_token,
    "all alike": lambda: torch.full((B, V), -2.0),
    "probabilities that underflow": lambda: typical_logits().argsort(-1) * -1000.0,
    "huge": lambda: typical_logits() * 1e30,
    "the ends of float32": extreme_logits,
    "tiny": lambda: typical_logits() * 1e-40,
}
MEMORIES: dict[str, Callable[[], Tensor]] = {  # log-probabilities of the tokens drawn so far (B, N)
    "nothing": lambda: torch.empty(B, 0),
    "some tokens": lambda: -standard_normal(B, N, seed=2).abs(),
    "certain tokens": lambda: torch.zeros(B, 50),
    "tokens of no probability": lambda: torch.full((B, 50), -1e5),
}
by_scene = pytest.mark.parametrize("scene", SCENES)


class SamplerConformance(ComponentConformance):
    """Subclass it with `component = MySampler(...)`.

    A MemorySampler gets texts of which the newest tokens were drawn, with their log-probabilities.
    """

    component: ClassVar[Sampler]
    device: ClassVar[str] = "cpu"  # of the logits

    def logits(self, scene: str = "plain") -> Tensor:
        return SCENES[scene]().to(self.device)  # (B, V)

    def logprobs(self, memory: str = "some tokens") -> Tensor:
        """Of the tokens that were drawn (B, N); none for a sampler without memory."""
        return MEMORIES[memory if self.has_memory else "nothing"]().to(self.device)

    def tokens(self, drawn: int | None = None) -> Tensor:
        """Prompts of three lengths, 5, 3 and 0, and the tokens drawn since."""
        prompts = torch.tensor([[7, 30, 7, 0, 12], [-1, -1, 1, V - 1, 1], [-1] * T])
        count = self.logprobs().size(1) if drawn is None else drawn
        continuations = torch.arange(B * count).view(B, count) % V
        return torch.cat([prompts, continuations], dim=1).to(self.device)  # (B, T + N)

    @property
    def has_memory(self) -> bool:
        return isinstance(self.component, MemorySampler)

    def apply(self, logits: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
        """As decoding calls it."""
        drawn = f", of which {logprobs.size(1)} were drawn" if self.has_memory else ""
        with errors_as_failures(
            f"it fails for {len(logits)} texts of {tokens.size(1)} tokens{drawn}: take any number of each, and 0"
        ):
            if isinstance(self.component, MemorySampler):
                return self.component.transform_with_memory(logits, tokens, logprobs)
            return self.component.transform(logits, tokens)

    def transform(self, scene: str, memory: str = "some tokens") -> tuple[Tensor, Tensor]:
        """Logits before and after."""
        logits, logprobs = self.logits(scene), self.logprobs(memory)
        return logits, self.apply(logits, self.tokens(logprobs.size(1)), logprobs)

    def all_transforms(self, scene: str) -> Iterator[tuple[Tensor, Tensor, str]]:
        """Logits before and after, and where that was, for every memory."""
        for memory in MEMORIES if self.has_memory else ("nothing",):
            yield *self.transform(scene, memory), f" after {memory}" if self.has_memory else ""

    @by_scene
    def test_its_inputs_are_not_modified(self, scene: str) -> None:
        logits, tokens, logprobs = self.logits(scene), self.tokens(), self.logprobs()
        self.apply(logits, tokens, logprobs)
        assert logits.equal(self.logits(scene)), "the logits were modified in place: return a new tensor"
        assert tokens.equal(self.tokens()), "the tokens were modified in place: copy them before you change them"
        assert logprobs.equal(self.logprobs()), (
            "the log-probabilities were modified in place: copy them before you change them"
        )

    @pytest.mark.parametrize("length", [0, 1, T])
    def test_shape_and_dtype_are_kept(self, length: int) -> None:
        """For texts of any length, and for a single one."""
        for rows in (B, 1):
            tokens, logprobs = (x[:rows, max(0, x.size(1) - length) :] for x in (self.tokens(), self.logprobs()))
            out = self.apply(self.logits()[:rows], tokens, logprobs)
            case = f"for {rows} texts of {length} tokens"
            assert out.shape == (rows, V), (
                f"{case} it returns shape {tuple(out.shape)}, not {(rows, V)}: return as many logits as it gets"
            )
            assert out.dtype == torch.float32, f"{case} it returns {out.dtype}: convert the result to the logits' dtype"
            assert out.device == self.logits().device, (
                f"{case} the result is on {out.device}: make new tensors with device=logits.device"
            )

    def test_the_same_input_always_gives_the_same(self) -> None:
        torch.manual_seed(1)
        _, expected = self.transform("plain")
        expected = expected.clone()
        self.transform("forbidden tokens")
        torch.manual_seed(2)
        _, found = self.transform("plain")
        claim = "the same input gives another result: draw no random numbers, and keep nothing from call to call"
        assert_same(found, expected, claim)

    @pytest.mark.parametrize("scene", ["plain", "forbidden tokens"])
    def test_no_row_depends_on_its_neighbours(self, scene: str) -> None:
        logits, together = self.transform(scene)
        logprobs = self.logprobs()
        for row, tokens in enumerate(self.tokens().split(1)):
            alone = self.apply(logits[row : row + 1], tokens, logprobs[row : row + 1])
            claim = f"text {row} of a batch gets other logits than alone: reduce over the last dimension only, dim=-1"
            assert_same(alone, together[row : row + 1], claim, rtol=1.3e-6, atol=1e-5)

    @pytest.mark.parametrize("scene", ["plain", "forbidden tokens"])
    def test_left_padding_changes_nothing(self, scene: str) -> None:
        logits, padded = self.transform(scene)
        logprobs = self.logprobs()
        for row, tokens in enumerate(self.tokens()):
            bare = self.apply(logits[row : row + 1], tokens[None, tokens >= 0], logprobs[row : row + 1])
            claim = f"text {row} gets other logits when it is padded on the left: leave out tokens that are -1"
            assert_same(bare, padded[row : row + 1], claim, rtol=1.3e-6, atol=1e-5)

    @by_scene
    def test_some_possible_token_stays_possible(self, scene: str) -> None:
        for logits, out, where in self.all_transforms(scene):
            assert ((logits > NEVER) & (out > NEVER)).any(-1).all(), (
                f"no token is left to draw{where}: keep at least one that is possible, such as the likeliest"
            )

    @by_scene
    def test_a_forbidden_token_stays_forbidden(self, scene: str) -> None:
        for logits, out, where in self.all_transforms(scene):
            allowed = ((logits == NEVER) & (out != NEVER)).sum()
            assert not allowed, f"{allowed} forbidden tokens are possible again{where}: -inf must stay -inf"

    @by_scene
    def test_probabilities_are_never_nan(self, scene: str) -> None:
        """Infinite logits would make them NaN as well."""
        for _, out, where in self.all_transforms(scene):
            remedy = "where logits are -inf, use torch.where or masked_fill instead of arithmetic"
            assert not out.isnan().any(), f"{out.isnan().sum()} logits are NaN{where}: {remedy}"
            remedy = "clamp them to the range of float32, or subtract the largest logit first"
            assert not out.isposinf().any(), f"{out.isposinf().sum()} logits are infinite{where}: {remedy}"

    def test_what_was_drawn_matters_to_a_sampler_with_memory(self) -> None:
        """It costs a softmax for each token."""
        if not self.has_memory:
            pytest.skip("it does not derive from api.MemorySampler")
        tokens = self.tokens(50)
        results = [self.apply(self.logits(), tokens, self.logprobs(memory)) for memory in list(MEMORIES)[2:]]
        assert not torch.equal(*results), (
            "its results do not depend on the log-probabilities: derive it from api.Sampler, or test options with "
            "which they do"
        )
