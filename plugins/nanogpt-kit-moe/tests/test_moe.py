"""The mixture of experts against its formulas, token by token and expert by expert, in fp64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nanogpt_kit_moe.moe import MoE
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nanogpt_kit.api import ResidualLinear
from nanogpt_kit.testing.mlp import MLPConformance

SETTINGS: dict[str, dict[str, Any]] = {
    "softmax": {"experts": 4},
    "scores as gates": {"experts": 5, "top_k": 3, "normalize": False, "activation": "relu2"},
    "one expert": {"experts": 4, "top_k": 1, "normalize": False, "activation": "swiglu", "scores": "sigmoid"},
    "sigmoid and shared": {"experts": 3, "scores": "sigmoid", "activation": "swiglu", "shared_width": 0.5},
    "all experts": {"experts": 3, "top_k": 3},
}
by_setting = pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
STATISTICS = ("load_balance",)


class TestMoE(MLPConformance):
    component = MoE(experts=4)
    batch_statistics = STATISTICS


class TestMoEOfSigmoidsWithASharedExpert(MLPConformance):
    component = MoE(experts=3, top_k=1, normalize=False, scores="sigmoid", activation="swiglu", shared_width=1.0)
    batch_statistics = STATISTICS


class TestMoEWithoutExtras(MLPConformance):
    component = MoE(experts=3, activation="relu2", balance=0.0, z_loss=0.0, log_loads=False)
    compiles = False


CONTEXT = replace(TestMoE.context, layer=2)
C = CONTEXT.n_embd


def built(options: dict[str, Any], dtype: torch.dtype = torch.float64) -> Any:
    """A module with random weights and biases of usual size, so that tokens differ in their experts."""
    torch.manual_seed(3)
    module = MoE(**options).build(CONTEXT)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.to(dtype).eval()


def draw_tokens(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 7, C, generator=torch.Generator().manual_seed(4)).to(dtype)


def one_expert(experts: Any, index: int, activation: str, x: Tensor) -> Tensor:
    """The MLP that one expert is, by its rows of the fused layers."""
    (up, up_bias), (down, down_bias) = (
        (layer.weight.chunk(experts.count)[index], layer.bias.chunk(experts.count)[index])
        for layer in (experts.c_fc, experts.c_proj)
    )
    inner = up @ x + up_bias
    if activation == "swiglu":
        gate, value = inner.chunk(2)
        inner = gate * gate.sigmoid() * value
    else:
        inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5)) if activation == "gelu" else inner.clamp(min=0) ** 2
    return down @ inner + down_bias


def scores_of(module: Any, x: Tensor) -> Tensor:
    logits = module.router.weight @ x
    return logits.exp() / logits.exp().sum() if module.options.scores == "softmax" else 1 / (1 + (-logits).exp())


def by_hand(module: Any, tokens: Tensor) -> Tensor:
    """For each token, for each expert."""
    options = module.options
    results = []
    for x in tokens.flatten(0, 1):
        scores = scores_of(module, x)
        chosen = sorted(range(options.experts), key=lambda index: -scores[index].item())[: options.top_k]
        total = sum(scores[index] for index in chosen) if options.normalize else 1.0
        y = sum(scores[index] / total * one_expert(module.experts, index, options.activation, x) for index in chosen)
        if module.shared is not None:
            y = y + one_expert(module.shared, 0, options.activation, x)
        results.append(y)
    return torch.stack(results).view_as(tokens)


@by_setting
def test_it_computes_what_each_expert_computes_of_its_tokens(options: dict[str, Any]) -> None:
    module, tokens = built(options), draw_tokens().requires_grad_()
    expected, found = by_hand(module, tokens), module(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    leaves = [tokens, *module.parameters()]
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    pairs = zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@by_setting
def test_in_fp32_it_is_the_same_to_a_millionth(options: dict[str, Any]) -> None:
    expected = by_hand(built(options), draw_tokens())
    found = built(options, torch.float32)(draw_tokens(torch.float32))
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@by_setting
def test_the_losses_are_those_of_the_papers(options: dict[str, Any]) -> None:
    """Switch Transformer, equation 4, with the fraction of all choices; ST-MoE, equation 5; sums over the tokens."""
    module, tokens = built({**options, "balance": 0.7, "z_loss": 0.2}).train(), draw_tokens()
    _, extras = module(tokens)
    scores = torch.stack([scores_of(module, x) for x in tokens.flatten(0, 1)])  # (N, E)
    (N, E), k = scores.shape, module.options.top_k
    fractions = torch.zeros(E, dtype=torch.float64)
    for row in scores:
        for index in row.argsort(descending=True)[:k]:
            fractions[index] += 1 / (N * k)
    probabilities = (scores / scores.sum(dim=1, keepdim=True)).mean(dim=0)
    z = torch.stack([(module.router.weight @ x).exp().sum().log() ** 2 for x in tokens.flatten(0, 1)])
    assert extras["load_balance"].item() == pytest.approx(0.7 * N * E * (fractions @ probabilities).item(), rel=1e-6)
    assert extras["router_z"].item() == pytest.approx(0.2 * z.sum().item(), rel=1e-6)
    loads = [extras[f"load_2_{index}"].item() / N for index in range(E)]
    assert loads == pytest.approx(fractions.tolist())
    assert sum(loads) == pytest.approx(1)  # no token is dropped


def test_an_expert_without_tokens_gets_a_gradient_of_zero() -> None:
    module, tokens = built({"experts": 4}), draw_tokens().abs()
    module.router.weight.data[1] = -9.0
    module(tokens).sum().backward()
    for layer in (module.experts.c_fc, module.experts.c_proj):
        sizes = [part.abs().max().item() for part in layer.weight.grad.chunk(4)]
        assert sizes[1] == 0.0
        assert min(sizes[:1] + sizes[2:]) > 0


def test_equal_experts_are_one_mlp() -> None:
    """Gates add up to 1 where they are normalized, and to the scores of the chosen experts where they are not."""
    for normalize in (True, False):
        module, tokens = built({"experts": 4, "normalize": normalize}), draw_tokens()
        for layer in (module.experts.c_fc, module.experts.c_proj):
            for parameter in layer.parameters():
                first = parameter.data.chunk(4)[0]
                parameter.data = first.repeat(4, *[1] * (first.ndim - 1))
        scores = torch.stack([scores_of(module, x) for x in tokens.flatten(0, 1)]).topk(2).values.sum(dim=1)
        gate = 1.0 if normalize else scores.view(3, 7, 1)
        up, down = (
            [parameter.chunk(4)[0] for parameter in layer.parameters()]
            for layer in (module.experts.c_fc, module.experts.c_proj)
        )
        torch.testing.assert_close(module(tokens), gate * F.linear(F.gelu(F.linear(tokens, *up)), *down))


def test_tokens_do_not_depend_on_those_beside_them() -> None:
    """So that decoding with a cache, token by token, computes what one pass computes."""
    module, tokens = built({"experts": 4}), draw_tokens()
    alone = torch.cat([module(tokens[:, t : t + 1]) for t in range(7)], dim=1)
    torch.testing.assert_close(alone, module(tokens), rtol=1e-12, atol=1e-12)


def test_optimizers_and_inits_see_each_expert() -> None:
    module = built({"experts": 3, "width": 2.0, "activation": "swiglu", "shared_width": 1.0})
    assert module.experts.c_fc.rows == (2 * C,) * 6  # two matrices for each expert
    assert module.experts.c_proj.rows == (C,) * 3
    writers = [name for name, layer in module.named_modules() if isinstance(layer, ResidualLinear)]
    assert writers == ["experts.c_proj", "shared.c_proj"]


@by_setting
def test_flops_are_those_of_the_experts_that_compute(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        module = MoE(**options).build(CONTEXT).eval()
        tokens = torch.zeros(1, 13, C)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(tokens)
    matrices = 3 if module.options.activation == "swiglu" else 2
    active = matrices * C * (module.options.top_k * round(2.0 * C) + round(module.options.shared_width * C))
    assert counter.get_total_flops() == 2 * 13 * (C * module.options.experts + active)


REFUSED = [
    ({"experts": 3, "top_k": 4}, "top_k", r"top_k \(4\) exceeds experts \(3\)"),
    ({"top_k": 1}, "normalize", r"the router would learn nothing; set it to false, or top_k \(1\) to 2 or more"),
]


@pytest.mark.parametrize(("options", "key", "message"), REFUSED)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        MoE(**options)
    assert key in str(error.value)
