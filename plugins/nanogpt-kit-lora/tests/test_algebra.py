"""Adapters against plain algebra in float64, and against the reference library peft."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nanogpt_kit_lora.lora import LoRA
from torch import Tensor, nn

from nanogpt_kit.api import ModelContext

BASE: dict[str, Any] = {"use": "gpt", "n_layer": 2, "n_head": 6, "n_kv_head": 3, "n_embd": 24, "block_size": 13}
IDS = torch.randint(0, 37, (2, 13), generator=torch.Generator().manual_seed(3))


def built(**options: Any) -> tuple[LoRA, nn.Module]:
    """A LoRA and its module in float64, with random numbers in all matrices of the adapters."""
    component = LoRA.model_validate({"base": BASE, **options})
    torch.manual_seed(1)
    module = component.build(ModelContext(vocab_size=37)).double().eval()
    for name, parameter in module.named_parameters():
        if ".lora" in name:
            nn.init.normal_(parameter, std=0.3)
    return component, module


def dense(module: nn.Module, scale: float) -> dict[str, Tensor]:
    """The weights of the base with W + scale * B A in place of each W, written out entry by entry of the paper."""
    state, rows = module.state_dict(), {"c_attn": [24, 12, 12]}
    weights = {name: value.clone() for name, value in state.items() if ".lora" not in name}
    for name in [name for name in state if name.endswith(".a")]:
        layer, _, adapter = name.removesuffix(".a").rpartition(".")
        part = int(adapter.removeprefix("lora_")) if "_" in adapter else 0
        sizes = rows.get(layer.rpartition(".")[2], [len(weights[f"{layer}.weight"])])
        first = sum(sizes[:part])
        product = torch.einsum("or,ri->oi", state[name.removesuffix(".a") + ".b"], state[name])
        weights[f"{layer}.weight"][first : first + sizes[part]] += scale * product
    return weights


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"rank": 3, "alpha": 6.0}, 2.0),
        ({"rank": 4, "alpha": 6.0, "rank_stabilized": True}, 3.0),
        ({"rank": 2, "alpha": 1.0, "match": r"c_attn\.[02]$|mlp.c_proj"}, 0.5),
    ],
)
@torch.no_grad()
def test_it_is_the_model_with_w_plus_scaled_b_a(options: dict[str, Any], scale: float) -> None:
    component, module = built(**options)
    plain = component.base.build(ModelContext(vocab_size=37)).double().eval()
    plain.load_state_dict(dense(module, scale))
    torch.testing.assert_close(module(IDS), plain(IDS), rtol=0, atol=1e-12)


@torch.no_grad()
def test_merged_it_computes_the_same_in_fp32_and_stays_as_it_was() -> None:
    component, module = built(rank=3)
    for parameter in module.float().parameters():
        nn.init.normal_(parameter, std=0.1)  # logits of about 1
    before = copy.deepcopy(module.state_dict())
    merged = component.merge(module)
    torch.testing.assert_close(merged(IDS), module(IDS), rtol=0, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    plain = component.base.build(ModelContext(vocab_size=37))
    assert [type(part) for part in merged.modules()] == [type(part) for part in plain.modules()]
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_an_adapter_adds_nothing_at_first() -> None:
    component = LoRA.model_validate({"base": BASE})
    module = component.build(ModelContext(vocab_size=37))
    assert not any(value.any() for name, value in module.state_dict().items() if name.endswith(".b"))
    assert all(value.any() for name, value in module.state_dict().items() if name.endswith(".a"))


def test_dropout_is_on_what_adapters_see_and_in_training_alone() -> None:
    component, module = built(match="h.1.mlp.c_fc", dropout=0.5)
    layer = module.get_submodule("h.1.mlp.c_fc")
    x = torch.randn(5, 7, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        assert torch.equal(layer(x), expected)
        layer.train()
        torch.manual_seed(8)
        found = layer(x)
        torch.manual_seed(8)
        kept = nn.functional.dropout(x, 0.5)
        adapter = layer.lora
        product = component.scale * (kept @ adapter.a.T) @ adapter.b.T
        torch.testing.assert_close(
            found, nn.functional.linear(x, layer.weight, layer.bias) + product, rtol=0, atol=1e-12
        )


def test_adapters_and_named_parameters_are_trained_and_nothing_else() -> None:
    _, module = built(match="attn", also_train=r"ln_f\.bias|wte")
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if ".lora" not in name} == {"ln_f.bias", "wte.weight"}
    adapted = {name.rpartition(".lora")[0] for name in trained if ".lora" in name}
    assert adapted == {f"h.{layer}.attn.{part}" for layer in (0, 1) for part in ("c_attn", "c_proj")}


def test_a_trained_adapter_is_small() -> None:
    component, module = built(rank=2, match="c_attn")
    count = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert count == 2 * (3 * 2 * 24 + 2 * (24 + 12 + 12))  # layers times (A of three parts, and their B)
    assert component.scale == 8.0


@pytest.mark.filterwarnings("ignore")  # of the library
@torch.no_grad()
def test_peft_computes_the_same_with_the_same_a_and_b() -> None:
    peft = pytest.importorskip("peft", reason="the reference library is not installed")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=37, n_positions=13, n_embd=24, n_layer=2, n_head=6)
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs = peft.get_peft_model(
        theirs,
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, use_rslora=True),
    )
    base = BASE | {"n_kv_head": 6, "vocab_multiple": 1, "mlp": {"use": "gelu", "approximate": "tanh"}}
    component = LoRA.model_validate(
        {"base": base, "rank": 3, "alpha": 5.0, "match": "c_attn|c_fc", "rank_stabilized": True}
    )
    ours = component.build(ModelContext(vocab_size=37)).eval()
    generator = torch.Generator().manual_seed(4)
    state = {name: 0.2 * torch.randn(value.shape, generator=generator) for name, value in ours.state_dict().items()}
    state["lm_head.weight"] = state["wte.weight"]
    for name in [name for name in state if "lora_1.a" in name or "lora_2.a" in name]:
        state[name] = state[re_part(name)]  # peft has one A for queries, keys and values
    ours.load_state_dict(state)
    theirs.load_state_dict(peft_state(state), strict=False)
    missing = theirs.state_dict().keys() - peft_state(state).keys()
    assert not missing
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)


def re_part(name: str) -> str:
    return name.replace("lora_1", "lora_0").replace("lora_2", "lora_0")


def peft_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by the names of peft's GPT-2."""
    found, prefix = {}, "base_model.model."
    for name, value in state.items():
        layer, _, end = name.rpartition(".")
        if ".lora" in name:
            layer, _, adapter = layer.rpartition(".")
            others = [state[f"{layer}.{adapter[:-1]}{part}.b"] for part in (1, 2)] if adapter == "lora_0" else []
            if adapter in ("lora", "lora_0"):
                key = f"{prefix}transformer.{layer}.lora_{end.upper()}.default.weight"
                found[key] = torch.cat([value, *others]) if end == "b" else value
            continue
        adapted = layer.endswith(("c_attn", "c_fc"))
        inner = f"{layer}{'.base_layer' if adapted else ''}.{end}".replace("position.", "")
        transposed = end == "weight" and layer.endswith(("c_attn", "c_fc", "c_proj"))
        outside = "" if layer == "lm_head" else "transformer."
        found[f"{prefix}{outside}{inner}"] = value.t() if transposed else value
    return found
