"""Whether threads may call a network at once: found by a trial that leaves no trace and always answers the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import MLP, LayerContext, Model, ModelContext, ResidualLinear, RunContext
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.parallel.ddp import DDP
from nanogpt_kit.components.parallel.single import Single
from nanogpt_kit.nn import thread_probe
from nanogpt_kit.nn.thread_probe import decoding_hazard, training_hazard

OPTIONS: dict[str, Any] = {"n_layer": 3, "n_head": 4, "n_embd": 16, "block_size": 12}
PARTS: list[dict[str, Any]] = [
    {},
    {"attention": "naive", "position": "rope", "norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 2, "qk_norm": True},
    {"position": "alibi", "mlp": "relu2", "document_mask": True, "weight_tying": False, "logit_softcap": 9.0},
    {"position": "none", "attention": {"use": "sdpa", "window": 3}, "block_size": 1},
]


def context(precision: str = "fp32") -> RunContext:
    return RunContext(device="cpu", precision=precision, world_size=1, splits=("train", "val"), block_size=12)


@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_built_in_may_be_called_by_two_threads_at_once(parts: dict[str, Any], precision: str) -> None:
    model = GPT(**{**OPTIONS, **parts})
    assert training_hazard(model, Single(), context(precision)) is None
    assert training_hazard(model, DDP(), context(precision)) is None
    assert decoding_hazard(model) is None


class OwnDraws(MLP):
    def build(self, ctx: LayerContext) -> nn.Module:
        return DrawingMLP(ctx.n_embd)


class DrawingMLP(ResidualLinear):
    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.1, self.training)


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_dropout_forbids_threads_only_where_a_component_draws_by_itself(parts: dict[str, Any]) -> None:
    for precision in ("fp32", "bf16"):
        assert training_hazard(GPT(**{**OPTIONS, **parts}, dropout=0.1), Single(), context(precision)) is None
    model = GPT(**OPTIONS, mlp=OwnDraws())
    assert "random" in str(training_hazard(model, Single(), context()))
    assert decoding_hazard(model) is None


def test_a_trial_draws_no_random_numbers_and_changes_no_setting() -> None:
    def state() -> tuple[object, ...]:
        numpys = np.random.get_state()
        return torch.get_rng_state().tolist(), random.getstate(), numpys[2], numpys[1].tolist(), torch.get_num_threads()

    before = state()
    for dropout in (0.0, 0.3):
        training_hazard(GPT(**OPTIONS, dropout=dropout, n_kv_head=1), Single(), context())
    assert state() == before


def test_equal_questions_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[object] = []
    trial = thread_probe.hazard_of_calls
    monkeypatch.setattr(thread_probe, "hazard_of_calls", lambda *args: trials.append(args) or trial(*args))
    for _ in range(3):
        decoding_hazard(GPT(**OPTIONS, vocab_multiple=7))
    assert len(trials) == 1


class Bare(nn.Module):
    """A model of a stranger, which has none of GPT's options."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids: Tensor, targets: Tensor | None = None, cache: Any = None) -> Tensor:
        if cache is not None:
            cache.advance(ids.size(1))
        logits = self.table(ids)
        if targets is None:
            return logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")


class NeedsNumbers(Bare):
    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.scale = float(torch.ones(3).sum())


class Fails(Bare):
    def forward(self, ids: Tensor, targets: Tensor | None = None, cache: Any = None) -> Tensor:
        raise RuntimeError("no such kernel\nand much more")


def strangers(module: type[Bare], size: int = 1) -> Model:
    class Stranger(Model):
        def build(self, ctx: ModelContext) -> nn.Module:
            return module(size * ctx.vocab_size)

    return Stranger(block_size=12)


def test_a_strangers_model_is_tried_like_ours_and_what_cannot_be_tried_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert training_hazard(strangers(Bare), Single(), context()) is None
    assert decoding_hazard(strangers(Bare)) is None
    assert "without memory" in str(decoding_hazard(strangers(NeedsNumbers)))
    assert str(training_hazard(strangers(Fails), Single(), context())).endswith("no such kernel")
    monkeypatch.setattr(thread_probe, "MAX_PARAMETERS", 1000)
    assert "too large" in str(decoding_hazard(strangers(Bare)))


class CountsAcrossModules(nn.Module):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        CountsAcrossModules.calls += 1
        return x * (1 + 1e-3 * CountsAcrossModules.calls)


def test_a_count_that_no_module_holds_is_found_by_its_results() -> None:
    class Counting(MLP):
        def build(self, ctx: LayerContext) -> nn.Module:
            return nn.Sequential(ResidualLinear(ctx.n_embd, ctx.n_embd), CountsAcrossModules())

    assert "results differ" in str(training_hazard(GPT(**OPTIONS, mlp=Counting()), Single(), context()))
    assert "results differ" in str(decoding_hazard(GPT(**OPTIONS, mlp=Counting())))


SUITE = """
from nanogpt_kit.components.mlp.gelu import GELU
from nanogpt_kit.testing.mlp import MLPConformance


class Suite(MLPConformance):
    component = GELU()


Suite().test_two_threads_may_call_it_at_once()
"""


def test_the_first_product_of_a_thread_is_no_hazard() -> None:
    """In a process whose new threads use two cores, unlike those of these tests."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", SUITE], env=environment, check=True)
