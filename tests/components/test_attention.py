"""The formula that the attention suite compares with is the softmax written as loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nanogpt_kit.api import LayerContext, RunContext, View
from nanogpt_kit.components.attention import sdpa
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.core.machine_choices import MachineChoices
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.attention_scenes import SCENES, plain_softmax


def by_loops(q: Tensor, k: Tensor, v: Tensor, view: View, window: int | None) -> Tensor:
    """Each query by itself, in float64."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    group = q.size(1) // k.size(1)
    for b in range(q.size(0)):
        for t in range(q.size(2)):
            at, distances = told(view, b, t, window)
            for h in range(q.size(1)):
                slope = 0.0 if view.slopes is None else float(view.slopes[h])
                products = [float(q[b, h, t].double() @ k[b, h // group, s].double()) for s in at]
                scores = [
                    product / math.sqrt(q.size(3)) - slope * distance
                    for product, distance in zip(products, distances, strict=True)
                ]
                weights = [math.exp(score) for score in scores]
                for s, weight in zip(at, weights, strict=True):
                    out[b, h, t] += weight / sum(weights) * v[b, h // group, s].double()
    return out.float()


def told(view: View, b: int, t: int, window: int | None) -> tuple[list[int], list[int]]:
    """Which keys query t of row b sees, and how far back they are."""

    def row(rows: Tensor) -> list[int]:
        return rows[b % len(rows)].tolist()

    position = row(view.query_positions)[t]
    at, distances = [], []
    for s, key in enumerate(row(view.key_positions)):
        near = window is None or position - key < window
        together = view.query_segments is None or row(view.query_segments)[t] == row(view.key_segments)[s]
        if 0 <= key <= position and near and together:
            at.append(s)
            distances.append(position - key)
    return at, distances


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scene", SCENES)
def test_the_suites_softmax_is_the_one_written_as_loops(scene: str, window: int | None) -> None:
    """The built-ins are compared with the suite's by their conformance tests."""
    suite = AttentionConformance()
    view = suite.view(scene)
    q, k, v = suite.inputs(view)
    out = plain_softmax(q, k, v, view, window).float()
    torch.testing.assert_close(out, by_loops(q, k, v, view, window), rtol=0, atol=1e-6)


def layer(tokens: int, dropout: float = 0.0) -> LayerContext:
    return LayerContext(
        n_embd=48, n_head=6, n_kv_head=3, head_dim=8, n_layer=1, block_size=tokens, dropout=dropout, bias=False
    )


def queries_keys_values(tokens: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, heads, tokens, 8, dtype=dtype, requires_grad=True) for heads in (6, 3, 3)]


@pytest.mark.parametrize("window", [None, 5, 140])
@pytest.mark.parametrize("tokens", [7, 128, 300])
def test_blocks_of_queries_have_the_values_and_gradients_of_the_whole_square(tokens: int, window: int | None) -> None:
    inputs = queries_keys_values(tokens)
    view, weights = View.causal(torch.arange(tokens)[None]), torch.randn(2, 6, tokens, 8)
    found = []
    for attention in (SDPA(window=window, backend="math"), Naive(window=window)):
        y = attention.build(layer(tokens))(*inputs, view)
        found.append([y, *torch.autograd.grad(y, inputs, weights)])
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scene", SCENES)
def test_every_view_can_be_trained_with_dropout(scene: str, window: int | None) -> None:
    """On a CPU it is written out then; a query without keys gives zeros, and no NaN in the gradients."""
    suite = AttentionConformance()
    view = suite.view(scene)
    q, k, v = inputs = suite.inputs(view)
    for x in inputs:
        x.requires_grad_()
    module = SDPA(window=window).build(replace(suite.context, dropout=1e-12))  # drops nothing, but could
    y = module(*inputs, view)
    torch.testing.assert_close(y, plain_softmax(q, k, v, view, window).float(), rtol=0, atol=1e-5)
    expected = torch.autograd.grad(Naive(window=window).build(suite.context)(*inputs, view).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), inputs), expected, rtol=0, atol=1e-5)


CPU = RunContext(device="cpu", precision="bf16", world_size=1, splits=("train", "val"), block_size=64)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each call of attention was computed."""
    calls: list[str] = []
    functions = ("blocks", sdpa, "attend_in_blocks"), ("fused", torch.nn.functional, "scaled_dot_product_attention")
    for name, place, function in functions:
        real = getattr(place, function)

        def noted(*args: object, name: str = name, real: object = real, **kwargs: object) -> object:
            calls.append(name)
            return real(*args, **kwargs)  # type: ignore[operator]

        monkeypatch.setattr(place, function, noted)
    return calls


@pytest.mark.parametrize(("precision", "rule"), [("bf16", "blocks"), ("fp32", "fused")])
def test_on_a_cpu_both_ways_to_compute_attention_are_measured_and_the_rule_comes_first(
    precision: str, rule: str, computed: list[str]
) -> None:
    ctx = replace(CPU, precision=precision)
    ((task, candidates),) = SDPA().candidates(ctx).items()
    assert task == f"attention {precision} 64 tokens"
    assert set(candidates) == {"blocks", "fused"}
    assert next(iter(candidates)) == rule
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    SDPA().build(layer(64))(*queries_keys_values(64, dtype), View.causal(torch.arange(64)[None]))
    assert computed == [rule]
    for candidate in candidates.values():
        candidate()()


@pytest.mark.parametrize(
    ("options", "changes"),
    [({"backend": "math"}, {}), ({"backend": "flash"}, {}), ({}, {"device": "cuda"}), ({}, {"block_size": 1025})],
)
def test_attention_is_not_measured_where_it_has_no_choice(options: dict[str, str], changes: dict[str, object]) -> None:
    assert not SDPA.model_validate(options).candidates(replace(CPU, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recorded", "backend", "expected"),
    [
        ("blocks", "auto", "blocks"),
        ("fused", "auto", "fused"),
        ("magic", "auto", "fused"),  # by rule in fp32
        ("fused", "math", "blocks"),
        ("blocks", "flash", "fused"),
    ],
)
def test_a_recorded_choice_is_used_unless_the_experiment_names_the_kernel(
    recorded: str, backend: str, expected: str, computed: list[str]
) -> None:
    ctx = replace(layer(64), machine=MachineChoices({"attention fp32 64 tokens": recorded}))
    attention = SDPA.model_validate({"backend": backend}).build(ctx)
    attention(*queries_keys_values(64), View.causal(torch.arange(64)[None]))
    assert computed == [expected]


def test_in_training_no_kernel_draws_the_masks_of_dropout(computed: list[str]) -> None:
    attention = SDPA().build(layer(64, dropout=0.25))
    inputs, view = queries_keys_values(64), View.causal(torch.arange(64)[None])
    attention(*inputs, view)
    attention.eval()(*inputs, view)
    assert computed == ["blocks", "fused"]
