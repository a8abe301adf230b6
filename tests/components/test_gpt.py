"""The default parts are GPT-2: checked against a plain transformer that knows no registry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.kinds import ModelContext
from nanogpt_kit.nn.parts import ResidualLinear
from nanogpt_kit.nn.roles import by_role

B, T, C, H, L, V = 2, 11, 24, 3, 4, 37


def reference_logits(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """GPT-2 from its equations, one head and one position at a time."""
    x = weights["wte.weight"][ids] + weights["position.wpe.weight"][: ids.size(1)]
    for layer in range(L):
        at = f"h.{layer}."

        def linear(x: Tensor, name: str, at: str = at) -> Tensor:
            y = x @ weights[at + name + ".weight"].T
            return y + weights[at + name + ".bias"] if at + name + ".bias" in weights else y

        normed = normalised(x, weights, at + "ln_1")
        qkv = linear(normed, "attn.c_attn")
        heads = []
        for head in range(H):
            size = C // H
            q, k, v = (qkv[..., part * C + head * size : part * C + (head + 1) * size] for part in range(3))
            rows = []
            for t in range(ids.size(1)):
                scores = torch.einsum("bd,bsd->bs", q[:, t], k[:, : t + 1]) / math.sqrt(size)
                rows.append(
                    torch.einsum("bs,bsd->bd", torch.exp(scores) / torch.exp(scores).sum(-1, True), v[:, : t + 1])
                )
            heads.append(torch.stack(rows, 1))
        x = x + linear(torch.cat(heads, -1), "attn.c_proj")
        inner = linear(normalised(x, weights, at + "ln_2"), "mlp.c_fc")
        inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + linear(inner, "mlp.c_proj")
    return normalised(x, weights, "ln_f") @ weights["wte.weight"][:V].T


def normalised(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weights[name + ".weight"]
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def built(**options: object) -> nn.Module:
    torch.manual_seed(0)
    model = GPT(n_layer=L, n_head=H, n_embd=C, block_size=13, **options).build(ModelContext(vocab_size=V))
    GPT2().apply(model)
    for parameter in model.parameters():  # gains of one and biases of zero would hide mistakes
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


IDS = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["sdpa", "naive"])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_equal_a_plain_gpt2(bias: bool, attention: str) -> None:
    model = built(bias=bias, attention=attention)
    torch.testing.assert_close(model(IDS), reference_logits(dict(model.named_parameters()), IDS), rtol=0, atol=1e-5)


def test_the_loss_is_the_sum_over_the_wanted_tokens_in_fp32() -> None:
    model = built()
    targets = IDS.roll(-1, dims=1)
    targets[0, 4:] = -1
    wanted = targets >= 0
    picked = model(IDS).log_softmax(-1)[wanted].gather(1, targets[wanted][:, None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(IDS, targets).dtype == torch.float32
    torch.testing.assert_close(model(IDS, targets), -picked.sum())


@pytest.mark.parametrize("attention", ["sdpa", "naive"])
def test_a_later_token_never_changes_an_earlier_logit(attention: str) -> None:
    model = built(attention=attention)
    before = model(IDS)
    for position in range(T):
        changed = IDS.clone()
        changed[:, position] = (changed[:, position] + 1) % V
        after = model(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=0)
        assert not torch.equal(after[:, position], before[:, position])


def test_head_and_embedding_are_one_tensor() -> None:
    model = built()
    assert model.lm_head.weight is model.wte.weight


def test_every_parameter_has_one_role() -> None:
    model = built(bias=True)
    roles = by_role(model)
    assert [p.shape for p in roles["embedding"]] == [(64, C), (13, C)]  # V = 37 is padded
    assert all(p.ndim == 1 for p in roles["vector"])
    assert len(roles["matrix"]) == 4 * L
    assert sum(len(found) for found in roles.values()) == len(list(model.parameters()))


def test_initial_weights_are_gpt2s() -> None:
    torch.manual_seed(0)
    model = GPT(n_layer=L, n_head=4, n_embd=256, block_size=64, bias=True).build(ModelContext(vocab_size=512))
    GPT2().apply(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            expected = 0.02 / math.sqrt(2 * L) if isinstance(module, ResidualLinear) else 0.02
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03), name
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert not module.bias.any(), name
    loss = model(IDS, IDS.roll(-1, 1)) / IDS.numel()
    assert loss.item() == pytest.approx(math.log(512), abs=0.2)


def test_dropout_drops_in_training_only() -> None:
    model = built(dropout=0.5)
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))
