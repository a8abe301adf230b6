"""Positions: rope is a rotation of complex numbers, ALiBi's slopes are the paper's, `none` does nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanogpt_kit.api import Attention, KitError, LayerContext, ModelContext, Position, View
from nanogpt_kit.components.attention.flex import Flex
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.position.alibi import ALiBi, alibi_slopes
from nanogpt_kit.components.position.learned import Learned
from nanogpt_kit.components.position.none import None_
from nanogpt_kit.components.position.rope import RoPE

B, H, T, D, C, BLOCK = 2, 3, 5, 8, 24, 11


def context(head_dim: int = D, n_head: int = H) -> LayerContext:
    sizes = {"n_embd": n_head * head_dim, "n_head": n_head, "n_kv_head": n_head, "head_dim": head_dim}
    return LayerContext(**sizes, n_layer=1, block_size=BLOCK, dropout=0.0, bias=False)


def heads(head_dim: int = D) -> Tensor:
    return torch.randn(B, H, T, head_dim, generator=torch.Generator().manual_seed(3))


WHERE = {"counted up": [[0, 1, 2, 3, 4]], "far out": [[90, 3, 41, 7, 0]], "by row": [[0, 1, 2, 3, 4], [6, 7, 8, 9, 30]]}
everywhere = pytest.mark.parametrize("positions", [torch.tensor(rows) for rows in WHERE.values()], ids=WHERE)
ROTARY = {
    "default": (RoPE(), 8, 10_000.0),
    "base": (RoPE(base=50.0), 8, 50.0),
    "half": (RoPE(partial=0.5), 4, 10_000.0),
    "a quarter, base": (RoPE(partial=0.25, base=3.0), 2, 3.0),
}
rotary = pytest.mark.parametrize(("rope", "turned", "base"), ROTARY.values(), ids=ROTARY)


# --- rope -------------------------------------------------------------------------------------------------------


@rotary
@everywhere
def test_rope_turns_complex_numbers(rope: RoPE, turned: int, base: float, positions: Tensor) -> None:
    x = heads()
    expected = x.double()
    for pair in range(turned // 2):
        number = torch.complex(x[..., pair].double(), x[..., pair + turned // 2].double())  # (B, H, T)
        angle = positions.double() * base ** (-2 * pair / turned)  # (1 or B, T)
        number = number * torch.polar(torch.ones_like(angle), angle)[:, None]
        expected[..., pair], expected[..., pair + turned // 2] = number.real, number.imag
    got = rope.build(context()).rotate(x, positions)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=3e-5)
    assert torch.equal(got[..., turned:], x[..., turned:])


@rotary
@everywhere
def test_rope_is_gpt_neoxs(rope: RoPE, turned: int, base: float, positions: Tensor) -> None:
    pytest.importorskip("transformers")
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding, apply_rotary_pos_emb

    options = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": turned / D}
    config = GPTNeoXConfig(hidden_size=H * D, num_attention_heads=H, rope_parameters=options)
    q, k = heads(), heads().flip(0)
    cos, sin = GPTNeoXRotaryEmbedding(config)(q, positions)
    position = rope.build(context())
    got = position.rotate(q, positions), position.rotate(k, positions)
    torch.testing.assert_close(got, apply_rotary_pos_emb(q, k, cos, sin), rtol=0, atol=1e-6)


@everywhere
def test_rope_is_llamas(positions: Tensor) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    options = {"rope_type": "default", "rope_theta": 500_000.0}
    config = LlamaConfig(hidden_size=H * D, num_attention_heads=H, rope_parameters=options)
    q, k = heads(), heads().flip(0)
    cos, sin = LlamaRotaryEmbedding(config)(q, positions)
    position = RoPE(base=500_000.0).build(context())
    got = position.rotate(q, positions), position.rotate(k, positions)
    torch.testing.assert_close(got, apply_rotary_pos_emb(q, k, cos, sin), rtol=0, atol=1e-6)


@rotary
def test_under_rope_a_product_depends_on_the_distance_alone(rope: RoPE, turned: int, base: float) -> None:
    position = rope.build(context())
    q, k = heads(), heads().flip(0)

    def products(where: Tensor) -> Tensor:
        return position.rotate(q, where) @ position.rotate(k, where).mT

    here, moved = products(torch.arange(T)[None]), products(17 + torch.arange(T)[None])
    torch.testing.assert_close(moved, here, rtol=0, atol=2e-5)
    wider = products(2 * torch.arange(T)[None])
    assert (wider - here).abs().max() > 0.1
    torch.testing.assert_close(wider.diagonal(dim1=-2, dim2=-1), here.diagonal(dim1=-2, dim2=-1), rtol=0, atol=2e-5)


def test_rope_keeps_the_type_and_lengths() -> None:
    position = RoPE().build(context())
    x, positions = heads(), torch.tensor([[1, 5, 7, 100, 3]])
    assert position.rotate(x.bfloat16(), positions).dtype == torch.bfloat16
    torch.testing.assert_close(position.rotate(x, positions).norm(dim=-1), x.norm(dim=-1))
    assert not list(position.parameters())
    assert not position.state_dict(), "its speeds follow from its options"


@pytest.mark.parametrize(
    ("head_dim", "partial", "told"),
    [(5, 1.0, "5 of 5"), (8, 0.4, "3 of 8"), (8, 0.1, "1 of 8"), (1, 1.0, "1 of 1"), (8, 0.01, "0 of 8")],
)
def test_rope_refuses_features_that_make_no_pairs(head_dim: int, partial: float, told: str) -> None:
    with pytest.raises(KitError, match=rf"rotates pairs of features, and {told} features of a head"):
        RoPE(partial=partial).build(context(head_dim))


# --- alibi ------------------------------------------------------------------------------------------------------


def test_alibis_slopes_for_eight_heads_are_the_papers() -> None:
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]


@pytest.mark.parametrize("n_head", [8, 6, 12, 3, 1, 2, 16, 25])
def test_alibis_slopes_are_blooms(n_head: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    by_distance = build_alibi_tensor(torch.ones(1, 3), n_head, torch.float32)  # (H, 1, S), slope times position
    got = ALiBi().build(context(n_head=n_head)).slopes()
    assert got is not None
    assert (got.dtype, got.shape) == (torch.float32, (n_head,))
    torch.testing.assert_close(got, by_distance[:, 0, 2] / 2)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [6, 2])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kind", [Naive, SDPA, Flex])
def test_every_attention_takes_slopes_from_its_scores(kind: type[Attention], window: int | None, kv_heads: int) -> None:
    n_head, S = 6, 7
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(B, n_head, T, D, generator=generator)
    k, v = (torch.randn(B, kv_heads, S, D, generator=generator) for _ in range(2))
    by_head = ALiBi().build(context(n_head=n_head)).slopes()
    view = View(torch.arange(2, S)[None], torch.arange(S)[None], causal_square=False, slopes=by_head)
    expected = torch.zeros(q.shape, dtype=torch.float64)
    for b in range(B):
        for h in range(n_head):
            own, theirs = k[b, h * kv_heads // n_head].double(), v[b, h * kv_heads // n_head].double()
            for t in range(T):
                first = max(0, t + 2 - window + 1) if window else 0
                distances = range(t + 2 - first, -1, -1)
                scores = own[first : t + 3] @ q[b, h, t].double() / math.sqrt(D)
                scores = scores - alibi_slopes(n_head)[h] * torch.tensor(list(distances))
                expected[b, h, t] = scores.softmax(0) @ theirs[first : t + 3]
    out = kind(window=window).build(context(n_head=n_head))(q, k, v, view)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-6)


# --- learned ----------------------------------------------------------------------------------------------------


def test_learned_adds_the_vector_of_each_position() -> None:
    position = Learned().build(context())
    x, positions = torch.randn(B, 3, C), torch.tensor([[0, 4, 10], [2, 2, 1]])
    assert torch.equal(position.embed(x, positions), x + position.wpe.weight[positions])
    assert torch.equal(position.embed(x, positions[:1]), x + position.wpe.weight[positions[0]])
    assert [(name, p.shape) for name, p in position.named_parameters()] == [("wpe.weight", (BLOCK, C))]


def test_cropped_learned_positions_keep_the_first_and_train_on() -> None:
    position = Learned().build(context())
    before = position.wpe.weight.detach().clone()
    position.crop(4)
    assert torch.equal(position.wpe.weight, before[:4])
    assert position.wpe.weight.requires_grad
    assert position.wpe.weight.untyped_storage().nbytes() == 4 * C * 4, "the rest is let go"
    assert position.wpe.num_embeddings == 4
    position.embed(torch.zeros(B, 4, C), torch.arange(4)[None]).sum().backward()
    assert (position.wpe.weight.grad == B).all()
    with pytest.raises(IndexError):
        position.embed(torch.zeros(B, 5, C), torch.arange(5)[None])


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "rope", "alibi", "none"])
def test_a_cropped_model_says_the_same_of_shorter_windows(position: str) -> None:
    torch.manual_seed(0)
    parts = GPT(n_layer=2, n_head=H, n_embd=C, block_size=BLOCK, position=position)
    model = parts.build(ModelContext(vocab_size=13)).eval()
    ids = torch.randint(0, 13, (B, T))
    before = model(ids)
    model.crop(T)
    assert torch.equal(model(ids), before)
    assert all(parameter.shape == (T, C) for parameter in model.position.parameters())
    with pytest.raises(AssertionError, match="6 tokens do not fit a block_size of 5"):
        model(torch.zeros(B, T + 1, dtype=torch.long))
    with pytest.raises(AssertionError, match="block_size of 5 cannot grow to 6"):
        model.crop(T + 1)


# --- what is left out does nothing ------------------------------------------------------------------------------

PARTS: dict[str, tuple[Position, set[str]]] = {
    "learned": (Learned(), {"embed"}),
    "rope": (RoPE(), {"rotate"}),
    "alibi": (ALiBi(), {"slopes"}),
    "none": (None_(), set()),
}


@pytest.mark.parametrize(("kind", "does"), PARTS.values(), ids=PARTS)
def test_a_position_does_its_own_part_and_nothing_else(kind: Position, does: set[str]) -> None:
    position, positions = kind.build(context()), torch.arange(1, 1 + T)[None]
    x, q = torch.randn(B, T, C), heads()
    changed = {
        "embed": not torch.equal(position.embed(x, positions), x),
        "rotate": not torch.equal(position.rotate(q, positions), q),
        "slopes": position.slopes() is not None,
    }
    assert {name for name, value in changed.items() if value} == does


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "rope", "alibi", "none"])
def test_only_without_positions_is_the_order_of_earlier_tokens_unknown(position: str) -> None:
    torch.manual_seed(0)
    parts = GPT(n_layer=1, n_head=H, n_embd=C, block_size=BLOCK, position=position)
    model = parts.build(ModelContext(vocab_size=13)).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    ids = torch.tensor([[1, 2, 3, 4, 5], [3, 1, 4, 2, 5]])  # the last of each sees the same tokens in another order
    one, other = model(ids)[:, -1]
    assert torch.allclose(one, other, atol=1e-4) == (position == "none")


def test_rope_keeps_its_angles_where_the_model_is_cast_to_a_short_type() -> None:
    x, positions = heads().bfloat16(), torch.tensor([[0, 1, 90, 1000, 4000]])
    cast = RoPE().build(context()).to(torch.bfloat16).rotate(x, positions)
    torch.testing.assert_close(cast, RoPE().build(context()).rotate(x, positions), rtol=0, atol=0)


def test_alibi_keeps_its_distances_where_the_model_is_cast_to_a_short_type() -> None:
    far = torch.arange(1000)[None]
    exact, cast = (ALiBi().build(context(n_head=8)).to(dtype).slopes() for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(View.causal(far, slopes=cast).penalty(), View.causal(far, slopes=exact).penalty())
