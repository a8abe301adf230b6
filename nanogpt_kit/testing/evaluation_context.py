"""What evaluators get in their suite: a small model with random weights, bytes as tokens, and a record of the calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Encoder, Model, ModelContext, Sampler, SplitLoss
from nanogpt_kit.core.options import TEST, TEST_IS_CLOSED
from nanogpt_kit.core.registry import Registry

SPLIT_TOKENS = 101  # an odd number, so that no batch is full


class Stopped(Exception):
    """What `check_stop` raises once the user has asked the run to stop."""


class Utf8Encoder(Encoder):
    """A token for each byte of UTF-8, and one for the end of a text."""

    vocab_size = 257
    eot_id = 256

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(token for token in map(int, ids) if token < 256)


def small_model(block_size: int) -> nn.Module:
    """The built-in `gpt` with random weights, which are large enough that every token matters."""
    gpt = Registry.installed().load(Model, "gpt")
    torch.manual_seed(7)
    options = gpt.model_validate({"n_layer": 2, "n_head": 2, "n_embd": 12, "block_size": block_size})
    model = options.build(ModelContext(vocab_size=Utf8Encoder.vocab_size)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


class SuiteContext:
    """An EvaluateContext of one process on a CPU."""

    device = "cpu"

    def __init__(self, model: nn.Module, block_size: int, batch_size: int, stops: bool = False) -> None:
        """`stops`: the user has asked the run to stop."""
        self.model, self.block_size, self.batch_size, self.stops = model, block_size, batch_size, stops
        self.encoder: Encoder = Utf8Encoder()
        self.splits_opened: set[str] = set()
        self.stop_checks = 0
        self.shown: list[str] = []
        self.is_in_autocast = False
        self.calls: list[bool] = []  # of the model by the evaluator itself: whether within `autocast`
        self.hook = model.register_forward_pre_hook(lambda *_: self.calls.append(self.is_in_autocast))

    @contextmanager
    def autocast(self) -> Iterator[None]:
        before, self.is_in_autocast = self.is_in_autocast, True
        try:
            yield
        finally:
            self.is_in_autocast = before

    def split_loss(self, split: str) -> SplitLoss:
        self.splits_opened.add(split)
        if split == TEST:
            raise KitError(TEST_IS_CLOSED)
        text_bytes = SPLIT_TOKENS - 1
        return SplitLoss(nats=5.25 * text_bytes, tokens=text_bytes, text_bytes=text_bytes)

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, samplers: Sequence[Sampler] | None = None
    ) -> list[str]:
        return [text + chr(ord("a") + (seed + i) % 26) * max_new_tokens for i, text in enumerate(prompts)]

    def show(self, texts: Sequence[str]) -> None:
        self.shown += texts

    def check_stop(self) -> None:
        self.stop_checks += 1
        if self.stops:
            raise Stopped
