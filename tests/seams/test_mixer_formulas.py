"""The mixers of this folder against the formulas of their papers, written out in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import Mixer, MixerContext, Positional, View
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.components.norm.layernorm import LayerNorm
from tests.seams.components.differential import Differential
from tests.seams.components.gated_attention import GatedAttention
from tests.seams.components.mingru import MinGRU
from tests.seams.components.mla import MLA

B, T, H, D, LAYER = 2, 7, 4, 3, 5
C = H * D


def context_of(layer: int, n_kv_head: int = H) -> MixerContext:
    sizes: dict[str, Any] = {"n_embd": C, "n_head": H, "n_kv_head": n_kv_head, "head_dim": D, "block_size": T}
    return MixerContext(**sizes, n_layer=50, layer=layer, dropout=0.0, bias=True, norm=LayerNorm(), attention=SDPA())


def built(mixer: Mixer, n_kv_head: int = H) -> Any:
    torch.manual_seed(0)
    module = mixer.build(context_of(LAYER, n_kv_head)).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


def features() -> Tensor:
    return torch.randn(B, T, C, generator=torch.Generator().manual_seed(1)).double()


def mixed(module: nn.Module, segments: Tensor | None = None) -> Tensor:
    y: Tensor = module(features(), Positional(), View.causal(torch.arange(T)[None], segments), None)
    return y


def projected(x: Tensor, module: nn.Module, name: str) -> Tensor:
    weights = dict(module.named_parameters())
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def causal_softmax(q: Tensor, k: Tensor) -> Tensor:
    """(T, T) for queries and keys (T, D) of one head, of any size."""
    scores = torch.full((T, T), -torch.inf, dtype=torch.float64)
    for t in range(T):
        for s in range(t + 1):
            scores[t, s] = q[t] @ k[s] / math.sqrt(q.size(1))
    return scores.softmax(-1)


def assert_near(found: Tensor, expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("segments", [None, torch.tensor([[0, 0, 0, 4, 4, 1, 1], [3, 2, 2, 2, 2, 2, 2]])], ids=str)
def test_mingru_is_its_recurrence_step_by_step(segments: Tensor | None) -> None:
    module, x, rows = built(MinGRU(expansion=2)), features(), []
    for row in range(B):
        state, states = torch.zeros(2 * C).double(), []
        for t in range(T):
            if segments is not None and t and segments[row, t] != segments[row, t - 1]:
                state = torch.zeros(2 * C).double()
            z, raw = projected(x[row, t], module, "c_in").chunk(2)
            z = 1 / (1 + torch.exp(-z))
            candidate = torch.tensor([c + 0.5 if c >= 0 else 1 / (1 + math.exp(-c)) for c in raw.tolist()]).double()
            state = (1 - z) * state + z * candidate
            states.append(state)
        rows.append(projected(torch.stack(states), module, "c_proj"))
    torch.testing.assert_close(mixed(module, segments), torch.stack(rows), rtol=0, atol=1e-6)


@torch.no_grad()
def test_differential_attention_is_that_of_the_paper() -> None:
    module, rows = built(Differential()), []
    lq1, lk1, lq2, lk2 = module.lambdas.split(D)
    initial = 0.8 - 0.6 * math.exp(-0.3 * LAYER)  # the paper counts layers from 1
    factor = math.exp(lq1 @ lk1) - math.exp(lq2 @ lk2) + initial
    for x in features():
        q, k, v = projected(x, module, "c_attn").chunk(3, dim=-1)  # (T, C)
        heads = []
        for pair in range(H // 2):
            first, second = (slice((2 * pair + i) * D, (2 * pair + i + 1) * D) for i in range(2))
            values = v[:, 2 * pair * D : 2 * (pair + 1) * D]
            maps = causal_softmax(q[:, first], k[:, first]) - factor * causal_softmax(q[:, second], k[:, second])
            head = maps @ values  # (T, 2 D)
            head = head / (head.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.gain
            heads.append((1 - initial) * head)
        rows.append(projected(torch.cat(heads, dim=-1), module, "c_proj"))
    assert_near(mixed(module), rows)


@torch.no_grad()
def test_gated_attention_multiplies_the_heads_by_a_gate_of_the_input() -> None:
    module, rows = built(GatedAttention(), n_kv_head=2), []
    for x in features():
        parts = projected(x, module, "c_attn").split(D, dim=-1)  # heads (T, D): H of queries, 2 of keys, 2 of values
        heads = [causal_softmax(parts[h], parts[H + h // 2]) @ parts[H + 2 + h // 2] for h in range(H)]
        gate = 1 / (1 + torch.exp(-projected(x, module, "gate")))
        rows.append(projected(torch.cat(heads, dim=-1) * gate, module, "c_proj"))
    assert_near(mixed(module), rows)


@torch.no_grad()
def test_latent_attention_has_the_keys_and_values_of_its_latents() -> None:
    """Without positions, the part that is rotated elsewhere stays as it is."""
    module, rows = built(MLA(latent=5)), []
    for x in features():
        queries, (latents, shared) = projected(x, module, "queries"), projected(x, module, "compress").split([5, D], -1)
        mean, variance = latents.mean(-1, keepdim=True), latents.var(-1, keepdim=True, correction=0)
        latents = (latents - mean) / (variance + 1e-5).sqrt() * module.norm.weight + module.norm.bias
        expanded, heads = projected(latents, module, "expand"), []
        for h in range(H):
            of_head = slice(2 * D * h, 2 * D * (h + 1))
            key, value = expanded[:, of_head].chunk(2, dim=-1)
            heads.append(causal_softmax(queries[:, of_head], torch.cat([key, shared], dim=-1)) @ value)
        rows.append(projected(torch.cat(heads, dim=-1), module, "c_proj"))
    assert_near(mixed(module), rows)


def test_each_layer_of_differential_attention_begins_with_a_lambda_of_its_own() -> None:
    """Source: section 2.1, from 0.2 in the first layer on to 0.8."""
    modules = [Differential().build(context_of(layer)) for layer in (0, 1, 40)]
    assert [round(module.lambda_init, 3) for module in modules] == [0.2, 0.356, 0.8]
