"""What the tests of evaluators share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from nanogpt_kit.api import EvaluateContext, Sampler
from nanogpt_kit.components.tokenizer.byte import ByteEncoder
from nanogpt_kit.core.kinds import Encoder, SplitLoss


@dataclass
class Standing:
    """A model by itself, as evaluators see one that a run has trained."""

    model: nn.Module
    block_size: int
    batch_size: int = 3
    encoder: Encoder = field(default_factory=ByteEncoder)
    device: str = "cpu"
    precision: torch.dtype = torch.float32
    stops_after: int | None = None  # passes

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", self.precision, enabled=self.precision is not torch.float32)

    def check_stop(self) -> None:
        if self.stops_after is not None:
            self.stops_after -= 1
            if self.stops_after < 0:
                raise KeyboardInterrupt

    def split_loss(self, split: str) -> SplitLoss:
        raise AssertionError("the evaluators that are tested with it ask for no such thing")

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, samplers: Sequence[Sampler] | None = None
    ) -> list[str]:
        raise AssertionError("the evaluators that are tested with it ask for no such thing")

    def show(self, texts: Sequence[str]) -> None:
        raise AssertionError("the evaluators that are tested with it ask for no such thing")


@pytest.fixture
def standing() -> type[EvaluateContext]:
    return Standing


DIVERGENCE = "nanogpt_kit.components.callback.divergence"
KINDS = {"the loss is": "loss", "the gradient norm is": "gradient", "the largest attention logit is": "attention"}


@dataclass(frozen=True)
class Report:
    kind: str
    step: int
    text: str


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Report]]:
    """All reports so far."""

    def read() -> list[Report]:
        found = []
        for record in caplog.records:
            if record.name == DIVERGENCE:
                match = re.fullmatch(r"step (\d+): (.*)", record.getMessage())
                assert match, record.getMessage()
                kind = next(KINDS[start] for start in KINDS if match[2].startswith(start))
                found.append(Report(kind, int(match[1]), match[2]))
        return found

    return read
