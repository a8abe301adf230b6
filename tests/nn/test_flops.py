"""Counts of parameters and FLOPs against the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.kinds import LayerContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn import flops
from nanogpt_kit.nn.flops import flops_per_token, model_size, num_params, published_peak_flops
from nanogpt_kit.nn.loss import linear_cross_entropy
from nanogpt_kit.nn.uninitialized import build_on_meta
from nanogpt_kit.train.efficiency import Efficiency
from tests.seams.components.two_token import TwoToken

GPT2 = GPT(vocab_multiple=1)


def test_gpt2_has_its_published_number_of_parameters() -> None:
    module = build_on_meta(GPT2, 50257)
    assert num_params(module, non_embedding=False) == 124_439_808  # Radford et al. 2019, as nanoGPT loads it
    assert num_params(module) == 124_439_808 - 1024 * 768
    assert model_size(GPT2, 50257).total == 124_439_808


@pytest.mark.parametrize("attention", ["sdpa", "naive", "flex"])
@pytest.mark.parametrize("n_kv_head", [None, 2])
def test_flops_are_those_of_the_palm_paper(attention: str, n_kv_head: int | None) -> None:
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 48, "block_size": 40}
    model = GPT(**sizes, n_kv_head=n_kv_head, attention=attention, position="rope", mlp="swiglu")
    size = model_size(model, 90)
    products = size.parameters["matrix"] + size.parameters["embedding"]  # the head's weight is the embedding's
    assert size.flops_per_token == 6 * products + 12 * 3 * 48 * 40


def test_nothing_is_allocated() -> None:
    assert all(p.is_meta for p in build_on_meta(GPT(n_layer=40, n_embd=12288, n_head=96), 50257).parameters())


def test_a_model_that_takes_minutes_to_count_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build_on_meta(GPT(n_layer=2, n_embd=8, n_head=2, block_size=8), 10)
    assert flops_per_token(module, 8)
    monkeypatch.setattr(flops, "MAX_MODULES", sum(1 for _ in module.modules()) - 1)
    assert flops_per_token(module, 8) is None


def test_a_part_that_wants_real_numbers_leaves_the_flops_unknown() -> None:
    class Asks(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return ids if ids.sum().item() else -ids

    assert flops_per_token(Asks(), 8) is None


@pytest.mark.parametrize(
    ("name", "tera"),
    {
        "NVIDIA H200": 989,
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA A100-SXM4-40GB": 312,
        "NVIDIA A10": 125,
        "NVIDIA L40S": 362,
        "Tesla V100-SXM2-16GB": 125,
        "NVIDIA GeForce RTX 4090": 165,
        "NVIDIA A10G": 70,
        "NVIDIA H20": 148,
        "NVIDIA RTX A6000": 155,
        "NVIDIA RTX 6000 Ada Generation": 364,
        "Quadro RTX 6000": None,
        "Quadro T400": None,
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
        "NVIDIA GeForce RTX 3090 Ti": None,
        "NVIDIA GeForce RTX 4090 D": None,
        "NVIDIA GeForce RTX 4090 Laptop GPU": None,
        "GRID A100-10C": None,
        "Voodoo 2": None,
    }.items(),
)
def test_peaks_are_found_by_whole_words_of_the_name(name: str, tera: float | None) -> None:
    assert published_peak_flops(name) == (None if tera is None else tera * 1e12)


@pytest.mark.parametrize(
    ("name", "tera"),
    [("NVIDIA A100-SXM4-40GB", 156), ("NVIDIA H100 80GB HBM3", 494.5), ("NVIDIA L4", 60.5), ("Tesla T4", None)],
)
def test_products_in_tf32_have_a_peak_of_their_own(name: str, tera: float | None) -> None:
    assert published_peak_flops(name, "tf32") == (None if tera is None else tera * 1e12)


def test_utilisation_is_told_where_the_peak_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    ctx = {"device": "cuda", "world_size": 2, "splits": (), "block_size": 1024}
    longer = Efficiency.of(GPT2, 50257, RunContext(precision="bf16", **ctx), (512, 1024)).metrics({1024: 1e6})
    assert longer == {"perf/mfu": pytest.approx(1e6 * 854.3e6 / (2 * 989e12), rel=1e-3)}
    both = Efficiency.of(GPT2, 50257, RunContext(precision="bf16", **ctx), (512, 1024))
    attention = (
        12 * 12 * 768 * 512 * 1e6 / (2 * 989e12)
    )  # of PaLM's formula: windows of half the length take half of it
    assert both.metrics({512: 1e6}) == {"perf/mfu": pytest.approx(longer["perf/mfu"] - attention, rel=1e-3)}
    halves = [both.metrics({length: 1e6})["perf/mfu"] for length in (512, 1024)]
    assert both.metrics({512: 1e6, 1024: 1e6}) == {"perf/mfu": pytest.approx(sum(halves))}
    assert Efficiency.of(GPT2, 50257, RunContext(precision="fp32", **ctx), (1024,)).metrics({1024: 1e6}) == {}
    tf32 = Efficiency.of(GPT2, 50257, RunContext(precision="tf32", **ctx), (512, 1024)).metrics({1024: 1e6})
    assert tf32 == {"perf/mfu": pytest.approx(2 * longer["perf/mfu"])}
    cpu = RunContext(device="cpu", precision="bf16", world_size=1, splits=(), block_size=1024)
    assert Efficiency.of(GPT2, 50257, cpu, (1024,)).metrics({1024: 1e6}) == {}


def test_the_products_of_a_loss_count_and_its_penalties_have_none() -> None:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 24, "block_size": 40, "vocab_multiple": 1}
    plain = model_size(GPT(**sizes), 90)
    penalized = GPT(**sizes, loss={"use": "cross_entropy", "label_smoothing": 0.1, "z_loss": 1e-4})
    assert model_size(penalized, 90) == plain
    module = build_on_meta(GPT(**sizes), 90)
    module.loss = build_two_token_loss(24)
    predicted = 39 / 40  # of the positions, those that predict the token after the next
    second = 2 * 24 * 24 + 90 * 24  # the two layers of its network, and the head
    assert flops_per_token(module, 40) == pytest.approx(plain.flops_per_token + 6 * second * predicted)


def build_two_token_loss(n_embd: int) -> torch.nn.Module:
    ctx = LayerContext(
        n_embd=n_embd, n_head=2, n_kv_head=2, head_dim=12, n_layer=2, block_size=40, dropout=0.0, bias=True
    )
    with torch.device("meta"):
        return TwoToken().build(ctx)


def test_a_loss_that_wants_real_numbers_leaves_the_flops_of_the_network() -> None:
    class Asks(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return linear_cross_entropy(*inputs[:4]) if inputs[0].sum() > 0 else inputs[0].sum()

    module = build_on_meta(GPT(n_layer=2, n_embd=24, n_head=2, block_size=40), 90)
    expected = flops_per_token(module, 40)
    module.loss = Asks()
    assert flops_per_token(module, 40) == expected
