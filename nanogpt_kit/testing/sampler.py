"""The suite for samplers: pure transforms of logits, row by row, that always leave a token to draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from nanogpt_kit.core.kinds import Sampler
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.conformance import standard_normal

B, V, T = 3, 37, 5
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
by_scene = pytest.mark.parametrize("scene", SCENES)


class SamplerConformance(ComponentConformance):
    """Subclass it with `component = MySampler(...)`."""

    component: ClassVar[Sampler]
    device: ClassVar[str] = "cpu"

    def logits(self, scene: str = "plain") -> Tensor:
        return SCENES[scene]().to(self.device)  # (B, V)

    def tokens(self) -> Tensor:
        """Texts of three lengths: 5, 3 and 0."""
        tokens = torch.tensor([[7, 30, 7, 0, 12], [-1, -1, 1, V - 1, 1], [-1] * T])
        return tokens.to(self.device)  # (B, T)

    def transform(self, scene: str) -> tuple[Tensor, Tensor]:
        """Logits before and after."""
        logits = self.logits(scene)
        return logits, self.component.transform(logits, self.tokens())

    @by_scene
    def test_its_inputs_are_not_modified(self, scene: str) -> None:
        logits, tokens = self.logits(scene), self.tokens()
        self.component.transform(logits, tokens)
        assert logits.equal(self.logits(scene)), "the logits were modified in place: return a new tensor"
        assert tokens.equal(self.tokens()), "the tokens were modified in place"

    @pytest.mark.parametrize("length", [0, 1, T])
    def test_shape_and_dtype_are_kept(self, length: int) -> None:
        for rows in (B, 1):
            out = self.component.transform(self.logits()[:rows], self.tokens()[:rows, :length])
            assert out.shape == (rows, V)
            assert out.dtype == torch.float32
            assert out.device == self.logits().device

    def test_the_same_input_always_gives_the_same(self) -> None:
        torch.manual_seed(1)
        _, expected = self.transform("plain")
        expected = expected.clone()
        self.transform("forbidden tokens")
        torch.manual_seed(2)
        _, found = self.transform("plain")
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    @pytest.mark.parametrize("scene", ["plain", "forbidden tokens"])
    def test_no_row_depends_on_its_neighbours(self, scene: str) -> None:
        logits, together = self.transform(scene)
        for row, tokens in enumerate(self.tokens().split(1)):
            alone = self.component.transform(logits[row : row + 1], tokens)
            torch.testing.assert_close(alone, together[row : row + 1])

    @pytest.mark.parametrize("scene", ["plain", "forbidden tokens"])
    def test_left_padding_changes_nothing(self, scene: str) -> None:
        logits, padded = self.transform(scene)
        for row, tokens in enumerate(self.tokens()):
            bare = self.component.transform(logits[row : row + 1], tokens[None, tokens >= 0])
            torch.testing.assert_close(bare, padded[row : row + 1])

    @by_scene
    def test_some_possible_token_stays_possible(self, scene: str) -> None:
        logits, out = self.transform(scene)
        assert ((logits > NEVER) & (out > NEVER)).any(-1).all(), (
            "no token is left to draw: keep at least one that is possible"
        )

    @by_scene
    def test_a_forbidden_token_stays_forbidden(self, scene: str) -> None:
        logits, out = self.transform(scene)
        allowed = ((logits == NEVER) & (out != NEVER)).sum()
        assert not allowed, f"{allowed} forbidden tokens are possible again: -inf must stay -inf"

    @by_scene
    def test_probabilities_are_never_nan(self, scene: str) -> None:
        """Infinite logits would make them NaN as well."""
        _, out = self.transform(scene)
        assert not out.isnan().any(), f"{out.isnan().sum()} logits are NaN"
        assert not out.isposinf().any(), f"{out.isposinf().sum()} logits are infinite"
