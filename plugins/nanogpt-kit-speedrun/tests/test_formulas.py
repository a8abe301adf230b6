"""Every part against a plain transformer in float64, which knows the formulas of the records and nothing of the kit."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from nanogpt_kit_speedrun.model import Speedrun
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, Model, ModelContext, Options, slot

B, T, C, H, L, V, CONTEXT, WINDOW = 2, 11, 30, 3, 5, 37, 17, 3
D = C // H
SIZES: dict[str, Any] = {"n_layer": L, "n_head": H, "n_embd": C, "block_size": CONTEXT, "short_window": WINDOW}
OFF: dict[str, Any] = {
    "embedding_norm": False,
    "qk_norm": False,
    "logit_softcap": 0.0,
    "residual_lambdas": False,
    "x0_lambdas": False,
    "value_embeddings": "none",
    "smear": False,
    "backout": False,
    "window_pattern": "L",
}
ON: dict[str, Any] = {
    "embedding_norm": True,
    "qk_norm": True,
    "logit_softcap": 2.0,
    "residual_lambdas": True,
    "x0_lambdas": True,
    "value_embeddings": "gated",
    "smear": True,
    "backout": True,
    "window_pattern": "SSLS",
}
SETTINGS = {"everything": ON, "nothing": OFF, "plain value embeddings": {**ON, "value_embeddings": "plain"}}
SETTINGS |= {f"{name} alone": {**OFF, name: value} for name, value in ON.items()}
SETTINGS |= {f"all but {name}": {**ON, name: value} for name, value in OFF.items()}
SETTINGS["tied"] = {**ON, "weight_tying": True}
by_setting = pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
IDS = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


class BuiltIn(Options):
    """Finds the built-in model by its name."""

    model: Model = slot("gpt")


def built(options: dict[str, Any]) -> Any:
    """A model in float64 whose weights are all random; norms compute in float32."""
    torch.manual_seed(0)
    model = Speedrun(**{**SIZES, **options}).build(ModelContext(vocab_size=V))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def normalized(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)


def rotated(x: Tensor) -> Tensor:
    """(..., T, D): features j and j + D / 2 are a plane, which turns by t / 10,000^(2 j / D)."""
    speeds = 10_000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    angles = torch.arange(x.size(-2), dtype=torch.float64)[:, None] * speeds
    turn = torch.polar(torch.ones_like(angles), angles)
    turned = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


def gate(x: Tensor, weight: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x[..., :12] @ weight.T))


def reference_logits(weights: dict[str, Tensor], options: dict[str, Any], ids: Tensor = IDS) -> Tensor:
    has = options.get
    T = ids.size(1)
    x = weights["wte.weight"][ids]
    x = normalized(x) if has("embedding_norm") else x
    if has("smear"):
        amounts = weights["smear.smear_lambda"] * gate(x, weights["smear.gate.proj.weight"])
        smeared = x.clone()
        for t in range(1, T):
            smeared[:, t] += amounts[:, t] * x[:, t - 1]
        x = smeared
    x0, halfway = x, x
    for layer in range(L):
        halfway = x if layer == 2 else halfway  # after half of five blocks, rounded down
        x = x * weights["residual_lambdas"][layer] if has("residual_lambdas") else x
        x = x + x0 * weights["x0_lambdas"][layer] if has("x0_lambdas") else x
        features = normalized(x)
        qkv = features @ weights[f"h.{layer}.attn.c_attn.weight"].T
        q, k, v = (part.view(B, T, H, D).transpose(1, 2) for part in qkv.split(C, dim=-1))
        if has("qk_norm"):
            q, k = normalized(q), normalized(k)
        if has("value_embeddings") != "none" and layer in (0, 2, 4):  # every second one, and the last
            values = weights[f"h.{layer}.attn.values.embedding.weight"][ids].view(B, T, H, D)
            if has("value_embeddings") == "gated":
                values = values * 2 * gate(features, weights[f"h.{layer}.attn.values.gate.proj.weight"])[..., None]
            v = v + values.transpose(1, 2)
        window = WINDOW if has("window_pattern") == "SSLS" and layer in (0, 1, 3) else T  # the last one is long
        steps = torch.arange(T)
        distance = steps[:, None] - steps[None]
        scores = rotated(q) @ rotated(k).transpose(-1, -2) / math.sqrt(D)
        attended = scores.masked_fill((distance < 0) | (distance >= window), -math.inf).softmax(-1) @ v
        x = x + attended.transpose(1, 2).reshape(B, T, C) @ weights[f"h.{layer}.attn.c_proj.weight"].T
        inner = normalized(x) @ weights[f"h.{layer}.mlp.c_fc.weight"].T
        x = x + inner.clamp(min=0) ** 2 @ weights[f"h.{layer}.mlp.c_proj.weight"].T
    x = x - weights["backout_lambda"] * halfway if has("backout") else x
    logits = normalized(x) @ weights["lm_head.weight"][:V].T
    cap = has("logit_softcap")
    return cap * torch.tanh(logits / cap) if cap else logits


@torch.no_grad()
@by_setting
def test_it_equals_a_plain_transformer(options: dict[str, Any]) -> None:
    model = built(options)
    expected = reference_logits(model.state_dict(), options)
    torch.testing.assert_close(model(IDS), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.1


@torch.no_grad()
def test_each_part_changes_what_is_computed() -> None:
    """So that the reference would notice a part that is missing."""
    weights = built(ON).state_dict()
    everything = reference_logits(weights, ON)
    for name, value in OFF.items():
        assert (reference_logits(weights, {**ON, name: value}) - everything).abs().max() > 0.01, name


@torch.no_grad()
def test_with_all_parts_off_it_is_the_built_in_model_with_the_same_components() -> None:
    model = built({**OFF, "n_kv_head": 1})
    sizes = {name: value for name, value in SIZES.items() if name != "short_window"}
    components = {"position": "rope", "norm": {"use": "rmsnorm", "gain": False}, "mlp": "relu2"}
    options = {"use": "gpt", **sizes, **components, "n_kv_head": 1, "bias": False, "weight_tying": False}
    module = BuiltIn(model=options).model.build(ModelContext(vocab_size=V)).double().eval()
    module.load_state_dict(model.state_dict())
    assert model(IDS).equal(module(IDS))
    assert model(IDS, IDS).equal(module(IDS, IDS))


@torch.no_grad()
@by_setting
def test_cached_logits_are_those_of_one_pass(options: dict[str, Any]) -> None:
    model, cache = built(options), KVCache(CONTEXT)
    logits = torch.cat([model(ids, cache=cache) for ids in IDS.split([4, 1, 1, 5], dim=1)], dim=1)
    torch.testing.assert_close(logits, model(IDS), rtol=0, atol=1e-6)


@torch.no_grad()
@by_setting
def test_texts_that_are_padded_on_the_left_are_what_they_are_alone(options: dict[str, Any]) -> None:
    model, cache = built(options), KVCache(CONTEXT, padding=[0, 4])
    logits = torch.cat([model(ids, cache=cache) for ids in IDS.split([6, 1, 4], dim=1)], dim=1)
    torch.testing.assert_close(logits[0], model(IDS[:1])[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(logits[1, 4:], model(IDS[1:, 4:])[0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_rows_of_a_cache_may_be_selected_and_replaced() -> None:
    """As where texts share a prompt, and where a finished text makes room for another one."""
    model, cache, other = built(ON), KVCache(CONTEXT), KVCache(CONTEXT)
    model(IDS[:, :6], cache=cache)
    cache.select(torch.tensor([1, 0, 0]))
    model(IDS[1:, 3:6], cache=other)
    cache.replace_rows([2], other, 3)
    ids = torch.cat([IDS[1:], IDS[:1], IDS[1:]])[:, 6:7]
    expected = [model(IDS[1:, :7]), model(IDS[:1, :7]), model(IDS[1:, 3:7])]
    torch.testing.assert_close(model(ids, cache=cache)[:, 0], torch.cat([one[:, -1] for one in expected]))


@torch.no_grad()
@by_setting
def test_documents_of_a_window_are_kept_apart(options: dict[str, Any]) -> None:
    model = built(options)
    segments = torch.tensor([[0] * 5 + [1] * 6, [0] * 3 + [1] + [2] * 7])
    logits = model(IDS, segments=segments)
    for row, edges in enumerate(((0, 5, 11), (0, 3, 4, 11))):
        for start, end in pairwise(edges):
            alone = model(IDS[row : row + 1, start:end])[0]  # rotations are relative, so positions may begin again
            torch.testing.assert_close(logits[row, start:end], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_full_cache_rolls_as_a_window_over_a_longer_context() -> None:
    """What short windows, smear and value embeddings of a long text are, however long it is."""
    ids = torch.randint(0, V, (B, 29), generator=torch.Generator().manual_seed(2))
    model, cache = built(ON), KVCache(CONTEXT, rolling=True)
    logits = torch.cat([model(ids[:, t : t + 1], cache=cache) for t in range(29)], dim=1)
    longer = built({**ON, "block_size": 29, "attention": {"use": "naive", "window": CONTEXT}})
    longer.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits, longer(ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["naive", "flex"])
@torch.no_grad()
def test_attentions_with_windows_agree(attention: str) -> None:
    model = built({**ON, "attention": attention})
    expected = reference_logits(model.state_dict(), ON)
    torch.testing.assert_close(model.float()(IDS).double(), expected, rtol=0, atol=1e-3)
