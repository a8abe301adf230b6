"""The numbers of the worked examples on the pages of concepts from tokens to a training step, computed again.

They are computed by torch and arithmetic, not by the kit.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit import Experiment
from nanogpt_kit.api import LayerContext, OrderContext, TextContext, View
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.norm.rmsnorm import RMSNorm
from nanogpt_kit.components.order.shuffled import Shuffled
from nanogpt_kit.components.position.rope import Rotary
from nanogpt_kit.components.tokenizer.bpe import BPE
from nanogpt_kit.nn.initial_weights import build_initialized

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts"
GENERATED = re.compile(r"<!-- [a-z]+: [^>]* -->.*?<!-- end -->", re.DOTALL)


def has(page: str, *texts: str) -> None:
    """Asserts that the prose of a page has each text, wherever its lines break."""
    prose = " ".join(GENERATED.sub("", (CONCEPTS / page).read_text(encoding="utf-8")).split())
    missing = [text for text in texts if text not in prose]
    assert not missing, f"{page} lacks {missing}"


def vector(values: Tensor, digits: int = 3) -> str:
    """(1.000, 0.330), as the pages write it."""
    return "(" + ", ".join(f"{value + 0.0:.{digits}f}" for value in values.tolist()) + ")"


def two_features() -> LayerContext:
    return LayerContext(n_embd=2, n_head=1, n_kv_head=1, head_dim=2, n_layer=1, block_size=3, dropout=0.0, bias=False)


# tokens.md


def merged(words: list[list[str]], pair: tuple[str, str]) -> list[list[str]]:
    """The words with each occurrence of a pair joined, from the left."""
    found = []
    for word in words:
        joined: list[str] = []
        for token in word:
            if joined and (joined[-1], token) == pair:
                joined[-1] += token
            else:
                joined.append(token)
        found.append(joined)
    return found


def test_the_merges_of_banana_bandana_are_those_of_the_page() -> None:
    words = [list("banana"), list(" bandana")]
    pairs = Counter(pair for word in words for pair in pairwise(word))
    assert [pairs[pair] for pair in (("a", "n"), ("n", "a"), ("b", "a"))] == [4, 3, 2]
    for merges, pair in enumerate([None, ("a", "n"), ("b", "an"), ("an", "a")]):
        words = merged(words, pair) if pair else words
        tokens = [token for word in words for token in word]
        has("tokens.md", f"| {merges} | {257 + merges} | {len(tokens)} | {14 / len(tokens):.2f} |", f"{tokens}")
    pairs = Counter(pair for word in words for pair in pairwise(word))
    assert max(pairs.values()) == 1, "learning ends"
    ctx = TextContext(splits=("train",), documents=lambda split: iter(["banana bandana"]))
    encoder = BPE(vocab_size=300).build(ctx)
    assert encoder.vocab_size == 260
    ids = encoder.encode_batch(["banana bandana", "bana"])
    pieces = [[encoder.decode_bytes([token]).decode() for token in one] for one in ids]
    assert pieces == [tokens, ["ban", "a"]]


def test_bits_per_byte_of_the_quickstart_follow_from_its_loss() -> None:
    bits = 1.4418 / math.log(2) * 129_990 / 129_967
    loss = bits * math.log(2) * 129_967 / 36_337  # of a model with as many bits for each byte, by its 36,338 tokens
    has("tokens.md", f"= {bits:.4f} bits per byte", f"{129_967 / 36_338:.3f} bytes", f"loss of {loss:.3f}")
    has("tokens.md", f"{loss / 1.4418:.1f} times", f"{4_096 * 128:,} parameters", f"it has {320 * 128:,}")
    assert [(len(text), len(text.encode())) for text in ("naïve", "日本")] == [(5, 6), (2, 6)]


# windows-and-batches.md


def test_the_windows_of_the_alphabet_are_those_of_the_page() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    read: list[int] = []
    for step in range(5):
        ctx = OrderContext(n_tokens=26, block_size=4, first_window=2 * step, batch_windows=2, seed=1)
        starts = Shuffled().starts(step, ctx).tolist()
        has("windows-and-batches.md", f"{step + 1} {[letters[start : start + 5] for start in starts]}")
        read += starts
    assert sorted(read[:5]) == [*range(5, 25, 4)], "the first epoch has each window from index 5 once"
    assert sorted(read[5:]) == [*range(2, 22, 4)], "the second from index 2"
    has("windows-and-batches.md", f"read in the order {', '.join(letters[start] for start in read[:4])}, v.")
    has("windows-and-batches.md", f"{11_989_244 // 64 - 1:,} windows in an epoch", f"{1_500 * 24:,} of them")
    assert round(36_000 / 187_330, 1) == 0.2
    has("windows-and-batches.md", f"1/e = {math.exp(-1):.2f}")


# embeddings-and-positions.md


def test_sums_of_rows_rotations_and_slopes_are_those_of_the_page() -> None:
    rows = {"a": torch.tensor([1.0, 0.5]), "b": torch.tensor([0.2, 1.0])}
    positions = torch.tensor([[0.2, -0.4], [-0.2, 0.3], [0.1, 0.6]])
    for token, position in zip("aba", positions, strict=True):
        has("embeddings-and-positions.md", f"| {vector(rows[token] + position, 1)} |")
    rotated = torch.polar(torch.ones(8), torch.arange(8.0))  # by one radian for each position
    has("embeddings-and-positions.md", *(vector(torch.view_as_real(rotated[at])) for at in (1, 3)))
    products = [f"{math.cos(distance):.3f}" for distance in range(4)]
    has("embeddings-and-positions.md", f"| product | {' | '.join(products)} |")
    kit = Rotary(2, 10_000.0).rotate(torch.tensor([1.0, 0.0]).expand(1, 1, 8, 2), torch.arange(8)[None])
    torch.testing.assert_close(kit[0, 0], torch.view_as_real(rotated))
    speeds = [10_000 ** (-pair / 4) for pair in range(4)]  # 8 features
    has("embeddings-and-positions.md", ", ".join(f"{speed:g}" for speed in speeds[:3]) + f" and {speeds[3]:g}")
    slopes = [2 ** (-8 * head / 4) for head in range(1, 5)]
    has("embeddings-and-positions.md", f"{slopes[0]}, {slopes[1]}, {slopes[2]:.4f} and {slopes[3]:.4f}")
    has("embeddings-and-positions.md", f"loses {3 * slopes[0]} of", f"and {3 * slopes[3]:.3f} in", f"{64 * 128:,}")


# attention.md


def test_weights_and_results_of_three_tokens_are_those_of_the_page() -> None:
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    result = F.scaled_dot_product_attention(q[None, None], q[None, None], v[None, None], is_causal=True)[0, 0]
    kit = Naive().build(two_features())(q[None, None], q[None, None], v[None, None], View.causal(torch.arange(3)[None]))
    torch.testing.assert_close(kit[0, 0], result)
    scores = q @ q.T / math.sqrt(2)
    for row in range(3):
        weights = [f"{weight:.3f}" for weight in scores[row, : row + 1].softmax(dim=0)] if row else ["1"]
        weights += ["0"] * (2 - row)
        has("attention.md", f"| {row} | {', '.join(weights)} | {vector(result[row])} |")
    unmasked = scores[0].softmax(dim=0)
    first, second, third = (f"{weight:.3f}" for weight in unmasked)
    has("attention.md", f"{first}, {second} and {third}, and the result {vector(unmasked @ v)}")
    has("attention.md", f"exp(0.7071) = {math.exp(2**-0.5):.3f}", f"{8 * 12 * 1024 * 1024 * 4 / 1e6:.0f} MB")


# the-block.md


def test_norms_the_mlp_and_the_parameters_are_those_of_the_page() -> None:
    x = torch.tensor([3.0, 4.0])
    mean_square = x.square().mean()
    norm = x / mean_square.sqrt()
    has("the-block.md", f"= {mean_square.sqrt():.3f}, so", f"(3, 4) becomes {vector(norm)}")
    torch.testing.assert_close(RMSNorm().build(two_features())(x).detach(), norm)
    torch.testing.assert_close(F.layer_norm(x, (2,)), torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    inner = torch.stack([norm[0], norm[1], norm[0] - norm[1]])
    outer = inner.clamp(min=0).square()[:2]
    has("the-block.md", vector(inner), f"{vector(outer)[:-1]}, 0)", f"| {vector(outer)} |", vector(x + outer))
    matrices = 3 * 12 * 128**2
    has("the-block.md", f"{matrices:,} in matrices", f"{7 * 128} gains", f"{(320 + 64) * 128:,}")
    total = matrices + 7 * 128 + 384 * 128
    has("the-block.md", f"In total that is {total:,}.", f"{matrices // (12 * 64**2)}.)")
    model, _ = build_initialized(Experiment.load("quickstart"), vocab_size=257)
    assert sum(parameter.numel() for parameter in model.parameters()) == total


# head-and-loss.md


def test_probabilities_loss_and_gradient_are_those_of_the_page() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
    loss = F.cross_entropy(logits[None], torch.tensor([1]))
    loss.backward()
    assert logits.grad is not None
    powers = [math.exp(logit) for logit in (2, 1, 0)]

    def row(name: str, values: list[float], total: str) -> str:
        return f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} | {total} |"

    has("head-and-loss.md", row("exponential", powers, f"{sum(powers):.3f}"))
    has("head-and-loss.md", row("probability", [power / sum(powers) for power in powers], "1"))
    has("head-and-loss.md", row("gradient of the loss by the logit", logits.grad.tolist(), "0"))
    nats = loss.item()
    has("head-and-loss.md", f"= {nats:.3f} nats, {nats / math.log(2):.3f} bits, a perplexity of {math.exp(nats):.3f}")
    has(
        "head-and-loss.md",
        f"ln 3 = {math.log(3):.3f}",
        f"ln 257 = {math.log(257):.3f}",
        f"ln 320 = {math.log(320):.2f}",
    )
    has("head-and-loss.md", f"{math.log(257):.2f} for 257 bytes, {math.log(50_257):.2f} for the 50,257 tokens")
    has("head-and-loss.md", f"{50_304 * 768 / 1e6:.1f} million", f"{8 * 1024 * 50_304 * 4 / 1e9:.2f} GB")
    has("head-and-loss.md", f"one of 0.5 gives {-math.log(0.5):.3f}, one of 0.01 gives {-math.log(0.01):.1f}")


@pytest.mark.parametrize("tying", [True, False])
def test_a_tied_model_at_first_predicts_the_same_token_again(tying: bool) -> None:
    torch.manual_seed(1)
    experiment = Experiment.load("quickstart", [f"model.weight_tying={str(tying).lower()}"])
    model, _ = build_initialized(experiment, vocab_size=257)
    ids = torch.randint(257, (16, 64))
    with torch.no_grad():
        probability = model.eval()(ids).softmax(dim=-1).gather(2, ids[..., None]).mean().item()
    has("head-and-loss.md", f"tied {str(tying).lower()}: the same byte again {probability:.4f}")
    assert (probability > 2 / 257) == tying


# initialization.md


def test_deviations_of_a_layer_and_of_the_stream_are_those_of_the_page() -> None:
    has("initialization.md", f"= {128 * 0.02**2:.4f} and its deviation {math.sqrt(128) * 0.02:.3f}")
    has("initialization.md", f"it is {math.sqrt(768) * 0.02:.3f};", f"= {0.02**-2:,.0f} features it is 1")
    has("initialization.md", f"deviation {math.sqrt(1 + 24):.0f}.", f"√2 = {math.sqrt(1 + 24 / 24):.2f}")
    has("initialization.md", f"√2 = {0.02 * math.sqrt(2):.3f}")


@pytest.mark.parametrize("change", ["init=gpt2", "init={use='gpt2', std=0.2}", "init=zero_residual"])
def test_the_stream_of_a_fresh_network_has_the_size_of_the_page(change: str) -> None:
    torch.manual_seed(1)
    model, _ = build_initialized(Experiment.load("quickstart", ["model.n_layer=12", change]), vocab_size=257)
    sizes: list[float] = []
    blocks = next(module for module in model.children() if isinstance(module, nn.ModuleList))
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: sizes.append(output.std().item()))
    with torch.no_grad():
        model(torch.randint(257, (16, 64)))
    text = f"{change}: {sizes[0]:.3f} after the first block, {sizes[-1]:.3f} after the last"
    has("initialization.md", text)


# a-training-step.md


def test_gradients_losses_clipping_and_adam_are_those_of_the_page() -> None:
    targets = torch.tensor([1.0, 1.0, 0.0])
    w = torch.zeros(1, requires_grad=True)

    def mean_loss() -> Tensor:
        return F.binary_cross_entropy_with_logits(w.expand(3), targets)

    before = mean_loss()
    before.backward()
    assert w.grad is not None
    gradient = w.grad.item()
    with torch.no_grad():
        w -= w.grad
        after = mean_loss().item()
    has("a-training-step.md", f"ln 2 = {before.item():.4f}", f"-1/6 = {gradient:.4f}", f"mean loss is {after:.4f} now")
    has("a-training-step.md", f"loss {after:.4f}, w = {w.item():.4f}", f"accumulated gradient {-1 / 3:.4f}")
    for given, expected in (((3.0, 4.0), (0.6, 0.8)), ((0.3, 0.4), (0.3, 0.4))):
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor(given)
        nn.utils.clip_grad_norm_([weight], 1.0)
        torch.testing.assert_close(weight.grad, torch.tensor(expected))
    for gradient in (-1 / 6, -1 / 6000):
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.tensor([gradient])
        torch.optim.AdamW([weight], lr=0.1, weight_decay=0.1).step()
        torch.testing.assert_close(weight.detach(), torch.tensor([0.1]))
