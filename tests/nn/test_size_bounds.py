"""Sizes that no machine has are refused before anything is allocated, by option and value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import ModelContext
from nanogpt_kit.nn import uninitialized
from nanogpt_kit.train import memory

ABSURD = {
    "model.n_layer": 10**8,
    "model.n_embd": 10**9,
    "model.block_size": 10**12,
    "model.vocab_multiple": 10**12,
    "train.batch_tokens": 32 * 10**13,
    "train.micro_batch_size": 10**15,
    "train.threads": 10**9,
    "sample.num_samples": 10**12,
    "sample.max_new_tokens": 10**15,
    "sample.batch_size": 10**12,
}


@pytest.mark.parametrize("verb", ["check", "run"])
def test_absurd_sizes_are_refused_with_key_and_value(verb: str, tiny: Path, command: Callable[..., object]) -> None:
    answer = command(verb, tiny, *(f"{key}={value}" for key, value in ABSURD.items()))
    assert answer.code == 2
    missing = [key for key, value in ABSURD.items() if f"{key}: " not in answer.err or f"got {value}" not in answer.err]
    assert missing == []
    assert not (tiny.parent / "runs").exists()


@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_model_larger_than_any_machine_is_refused_by_its_largest_option(
    verb: str, tiny: Path, command: Callable[..., object]
) -> None:
    answer = command(verb, tiny, "model.n_embd=999999", "model.n_layer=30")
    assert answer.code == 2
    assert "command line: model.n_embd: " in answer.err
    assert "n_embd = 999999" in answer.err
    assert "n_layer = 30" in answer.err


def test_a_model_or_batch_beyond_this_machines_memory_is_refused_by_run_and_check_alike(
    tiny: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory, uninitialized):
        monkeypatch.setattr(module, "machine_memory_bytes", lambda: 360_000)
    for override in ("model.n_embd=240", "train.batch_tokens=48000"):
        answer = command("run", tiny, override)
        assert command("check", tiny, override).err == answer.err
        key, _, value = override.partition("=")
        assert answer.code == 2
        assert f"command line: {key}: " in answer.err
        assert value in answer.err.replace(",", "")
    assert not (tiny.parent / "runs").exists()


def test_the_largest_model_that_check_explains_is_built_once(
    tiny: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    build = GPT.build
    monkeypatch.setattr(GPT, "build", lambda model, ctx: built.append(ctx.vocab_size) or build(model, ctx))
    answer = command("check", tiny, "--explain")
    assert answer.code == 0
    assert "parameters: " in answer.out
    assert len(built) == 1


def test_a_model_is_not_loaded_where_it_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(n_layer=1, n_embd=24, n_head=3, block_size=8)
    monkeypatch.setattr(uninitialized, "machine_memory_bytes", lambda: 1000)
    with pytest.raises(KitError, match=r"model\.n_embd: .*1,000"):
        uninitialized.build_uninitialized(model, ModelContext(vocab_size=10))
    monkeypatch.setattr(uninitialized, "machine_memory_bytes", lambda: None)
    assert uninitialized.build_uninitialized(model, ModelContext(vocab_size=10)) is not None
