"""Mistakes in the options, and what the options make: how many parameters of which role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nanogpt_kit_speedrun.model import Speedrun
from torch import nn

from nanogpt_kit import Experiment, KitError
from nanogpt_kit.api import HeadLinear, ModelContext

FILE = """\
name = "exp"
dataset = { use = "text", source = "text.txt" }
tokenizer = "byte"
optimizer = "muon"
schedule = "constant"
[train]
steps = 5
batch_tokens = 1024
[model]
use = "speedrun"
"""
UNMASKED = """\
from nanogpt_kit.api import Attention

class Unmasked(Attention):
    def build(self, ctx): ...
"""


def faults(folder: Path, lines: str) -> str:
    (folder / "text.txt").write_text("text", encoding="utf-8")
    (folder / "unmasked.py").write_text(UNMASKED, encoding="utf-8")
    (folder / "exp.toml").write_text(f'components = ["unmasked.py"]\n{FILE}{lines}', encoding="utf-8")
    with pytest.raises(KitError) as caught:
        Experiment.load(folder / "exp.toml", trust_code=True)
    return str(caught.value)


def test_a_pattern_of_other_letters_is_refused(tmp_path: Path) -> None:
    message = faults(tmp_path, 'window_pattern = "SSXL"')
    for part in ("exp.toml:12", "model.window_pattern", "'SSXL'", "S, for short, and L, for long", "'SSSL'"):
        assert part in message


def test_short_windows_require_an_attention_with_windows(tmp_path: Path) -> None:
    message = faults(tmp_path, 'attention = "unmasked"')
    for part in ("exp.toml:12", "model.attention", "'SSSL'", "Unmasked has no option window", "window_pattern = 'L'"):
        assert part in message
    (tmp_path / "exp.toml").write_text((tmp_path / "exp.toml").read_text() + '\nwindow_pattern = "L"')
    assert Experiment.load(tmp_path / "exp.toml", trust_code=True)


def test_heads_divide_the_features_and_each_other(tmp_path: Path) -> None:
    message = faults(tmp_path, "n_embd = 100")
    for part in ("model.n_embd", "n_embd (100) should be a multiple of n_head (6)"):
        assert part in message
    assert "n_head (6) should be a multiple of n_kv_head (4)" in faults(tmp_path, "n_kv_head = 4")


def test_the_last_layer_is_long_whatever_the_pattern() -> None:
    model = Speedrun(n_layer=6, n_embd=12, short_window=3)
    windows = [block.attn.attention.window for block in model.build(ModelContext(vocab_size=5)).h]
    assert windows == [3, 3, 3, None, 3, None]


def test_long_attention_may_have_a_window_too() -> None:
    model = Speedrun(n_layer=3, n_embd=12, short_window=3, attention={"use": "naive", "window": 6}, window_pattern="SL")
    attentions = [block.attn.attention for block in model.build(ModelContext(vocab_size=5)).h]
    assert [attention.window for attention in attentions] == [3, 6, 6]
    followed = [attention.options is model.attention for attention in attentions]  # by schedules of its window
    assert followed == [False, True, True]


L, H, HKV, C, V = 5, 6, 2, 60, 70
D, ROWS = C // H, 128


@pytest.mark.parametrize(
    ("options", "embedding", "head", "matrix", "vector"),
    [
        ({}, ROWS * (C + 3 * HKV * D), ROWS * C, 12 + 3 * 12 * HKV, 2 * L + 2),
        ({"value_embeddings": "plain", "smear": False}, ROWS * (C + 3 * HKV * D), ROWS * C, 0, 2 * L + 1),
        ({"value_embeddings": "none", "weight_tying": True}, ROWS * C, 0, 12, 2 * L + 2),
        ({"x0_lambdas": False, "residual_lambdas": False, "backout": False}, None, ROWS * C, 12 + 3 * 12 * HKV, 1),
    ],
)
def test_parameters_are_as_many_as_the_formulas_say(
    options: dict[str, Any], embedding: int | None, head: int, matrix: int, vector: int
) -> None:
    """`matrix` is without those of the blocks: c_attn, c_proj and the MLP."""
    module = Speedrun(n_layer=L, n_head=H, n_kv_head=HKV, n_embd=C, **options).build(ModelContext(vocab_size=V))
    embeddings = {p for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {p for m in module.modules() if isinstance(m, HeadLinear) for p in m.parameters()} - embeddings
    others = set(module.parameters()) - embeddings - heads

    def count(parameters: set[nn.Parameter]) -> int:
        return sum(p.numel() for p in parameters)

    assert count(embeddings) == (ROWS * (C + 3 * HKV * D) if embedding is None else embedding)
    assert count(heads) == head
    blocks = L * (C * (C + 2 * HKV * D) + C * C + 8 * C * C)
    assert count({p for p in others if p.ndim == 2}) == blocks + matrix
    assert count({p for p in others if p.ndim == 1}) == vector  # none has 0 dimensions, which FSDP cannot shard
    assert all(p.ndim in (1, 2) for p in others)


def test_lambdas_begin_as_in_the_records() -> None:
    module = Speedrun(n_layer=3, n_head=2, n_embd=8).build(ModelContext(vocab_size=V))
    assert module.residual_lambdas.tolist() == [1.0, 1.0, 1.0]
    assert module.x0_lambdas.tolist() == [0.0, 0.0, 0.0]
    assert module.smear.smear_lambda.tolist() == [0.0]
    assert module.backout_lambda.tolist() == [pytest.approx(0.2)]


@torch.no_grad()
def test_a_model_narrower_than_a_gate_has_gates_of_all_its_features() -> None:
    module = Speedrun(n_layer=1, n_head=2, n_embd=8).build(ModelContext(vocab_size=V))
    assert module.smear.gate.proj.weight.shape == (1, 8)
    assert module(torch.arange(6)[None]).isfinite().all()
