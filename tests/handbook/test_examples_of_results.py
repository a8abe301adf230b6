"""The numbers of the worked examples on the pages of concepts from evaluation to scaling, computed again.

Each test computes them by formulas or by torch, asks the kit where a page says what it does, and finds the same numbers
in the text of the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_kit import Experiment
from nanogpt_kit.api import KVCache, Sampler
from nanogpt_kit.comparison.intervals import Sample, look_alpha, seeds_to_decide
from nanogpt_kit.core.sections import Train
from nanogpt_kit.data.batches import evaluation_batches
from nanogpt_kit.data.split import Split
from nanogpt_kit.nn.flops import model_size
from tests.handbook.concept_pages import gpt2, rounded, row, text_of

# Evaluation


def test_the_loss_of_three_tokens_and_of_two() -> None:
    text = text_of("evaluation")
    losses = [-math.log(p) for p in (1 / 2, 1 / 4, 1 / 8)]
    other = [-math.log(p) for p in (1 / 8, 1 / 8)]
    assert "ln 2 = {:.3f} ln 4 = {:.3f} ln 8 = {:.3f} sum {:.3f} nats".format(*losses, sum(losses)) in text
    assert f"4.159 / 3 = {sum(losses) / 3:.3f} nats per token" in text
    assert f"e^1.386 = {math.exp(sum(losses) / 3):.0f}" in text
    assert f"4.159 / ln 2 = {sum(losses) / math.log(2):.0f} bits for the text" in text
    assert f"6 / 4 bytes = {sum(losses) / math.log(2) / 4:.1f}" in text
    assert f"per token is {sum(other) / 2:.3f}" in text
    assert sum(other) == pytest.approx(sum(losses))
    assert f"ln 257 = {math.log(257):.2f}" in text
    assert f"1.4418, is {1.4418 / math.log(2):.3f} bits per token" in text


def test_every_character_except_the_first_is_a_target_once() -> None:
    characters = b"to be or not"
    split = Split(np.frombuffer(characters, np.uint8), np.array([0]), has_eot=False)
    batches = list(evaluation_batches(split, block_size=4, batch_size=1))
    targets = [target for batch in batches for target in batch.targets.flatten().tolist() if target >= 0]
    assert bytes(targets) == characters[1:]
    assert len(batches) == 3


# Sampling

LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]


def softmax(logits: Sequence[float]) -> list[float]:
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def kept(count: int) -> list[float]:
    return softmax(LOGITS[:count]) + [0.0] * (len(LOGITS) - count)


@pytest.mark.parametrize(
    ("name", "options", "title", "expected"),
    [
        ("temperature", {"value": 0.5}, "`temperature`, value 0.5", softmax([logit / 0.5 for logit in LOGITS])),
        ("temperature", {"value": 2.0}, "`temperature`, value 2", softmax([logit / 2 for logit in LOGITS])),
        ("top_k", {"k": 2}, "`top_k`, k = 2", kept(2)),
        ("top_p", {"p": 0.8}, "`top_p`, p = 0.8", kept(3)),
        ("min_p", {"p": 0.2}, "`min_p`, p = 0.2", kept(3)),
        ("greedy", {}, "`greedy`", kept(1)),
    ],
)
def test_what_a_sampler_makes_of_five_tokens(
    name: str, options: dict[str, float], title: str, expected: list[float]
) -> None:
    found = sampler(name, options).transform(torch.tensor([LOGITS]), torch.tensor([[0]])).softmax(dim=-1)[0]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert [float(cell) for cell in row("sampling-and-the-cache", title)] == pytest.approx(expected, abs=6e-4)


def sampler(name: str, options: dict[str, float]) -> Sampler:
    changes = [f"sampler.{name}.{key}={value:g}" for key, value in options.items()]
    (found,) = Experiment.load("quickstart", [f'sampler=["{name}"]', *changes]).sampler
    return found


def test_the_sums_that_top_p_and_min_p_compare() -> None:
    probabilities = softmax(LOGITS)
    assert row("sampling-and-the-cache", "none: the model") == rounded(probabilities, 3)
    text = text_of("sampling-and-the-cache")
    assert f"0.563 + 0.207 = {sum(probabilities[:2]):.3f} is not enough" in text
    assert f"third makes it {sum(probabilities[:3]):.3f}" in text
    assert f"0.2 * 0.563 = {0.2 * probabilities[0]:.3f}" in text


def test_the_order_of_a_chain_matters() -> None:
    hot, nucleus = sampler("temperature", {"value": 2.0}), sampler("top_p", {"p": 0.8})
    remaining = []
    for chain in ([nucleus, hot], [hot, nucleus]):
        logits = torch.tensor([LOGITS])
        for one in chain:
            logits = one.transform(logits, torch.tensor([[0]]))
        remaining.append(int(logits.isfinite().sum()))
    assert remaining == [3, 4]
    assert "keeps three of the five tokens, and four after a temperature of 2" in text_of("sampling-and-the-cache")


def test_the_positions_with_and_without_a_cache() -> None:
    without = sum(4 + new for new in range(4))
    cache, passed = KVCache(capacity=8), 0
    for T in (4, 1, 1, 1):  # as the decoder does: the prompt, then each new token except the last
        keys, _ = cache.extend(0, torch.zeros(1, 1, T, 2), torch.zeros(1, 1, T, 2))
        cache.advance(T)
        passed += T
        assert keys.size(2) == passed
    text = text_of("sampling-and-the-cache")
    assert f"4 + 5 + 6 + 7 = {without} positions" in text
    assert f"4 + 1 + 1 + 1 = {passed} (the prompt" in text
    model: Any = Experiment.load("owt_gpt2").model
    numbers = 2 * model.n_layer * model.n_embd * model.block_size
    assert f"2 * 12 * 768 * 1,024 * 2 bytes = {2 * numbers / 1e6:.1f} MB" in text


# Noise

BASE, CONTENDER = (2.0663, 2.0621, 2.0581), (2.0549, 2.0426, 2.0069)
T_95 = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262, 20: 2.093}  # of a printed table, by pairs
T_9975 = {2: 254.647, 3: 19.962, 5: 6.758, 10: 4.146, 20: 3.481}  # two-sided 0.25%, by scipy.stats.t.ppf


def test_the_interval_of_three_pairs() -> None:
    differences = [after - before for before, after in zip(BASE, CONTENDER, strict=True)]
    sd, mean = np.std(differences, ddof=1), np.mean(differences)
    error = sd / math.sqrt(3)
    low, high = mean - T_95[3] * error, mean + T_95[3] * error
    sample = Sample.of(differences)
    assert sample.interval() == pytest.approx((low, high), abs=1e-5)
    assert row("noise-and-intervals", "difference") == [*rounded(differences, 4), f"{mean:.4f}", f"{sd:.4f}"]
    for name, values in (("base", BASE), ("contender", CONTENDER)):
        spread = f"{np.std(values, ddof=1):.4f}"
        assert row("noise-and-intervals", name) == [*rounded(values, 4), f"{np.mean(values):.4f}", spread]
    text = text_of("noise-and-intervals")
    assert f"0.0210 / sqrt(3) = {error:.4f}" in text
    assert f"-0.0274 +- 4.303 * 0.0121 = {low:.4f} to {high:.4f}" in text
    unpaired = math.hypot(np.std(BASE, ddof=1), np.std(CONTENDER, ddof=1))
    assert f"sqrt(0.0041² + 0.0249²) = {unpaired:.4f}" in text
    assert f"0.0106 * sqrt(2) = {0.0106 * math.sqrt(2):.3f}" in text
    needed = seeds_to_decide(sample, look_alpha(2))
    assert needed is not None
    assert f"{needed - 3} more here" in text


def test_half_the_width_of_an_interval() -> None:
    seeds = [int(cell) for cell in row("noise-and-intervals", "seeds")]
    for title, table in (("first look, 95%", T_95), ("second look, 99.75%", T_9975)):
        shown = [float(cell) for cell in row("noise-and-intervals", title)]
        assert shown == pytest.approx([table[n] / math.sqrt(n) for n in seeds], rel=0.01)


# Scaling


def test_the_parameters_and_flops_of_gpt2() -> None:
    blocks, tokens, positions, gains = 12 * 12 * 768**2, 50_304 * 768, 1024 * 768, 25 * 768
    products, attention = 6 * (blocks + tokens), 12 * 12 * 768 * 1024
    size, text = gpt2(), text_of("scaling")
    assert size.total == blocks + tokens + positions + gains
    assert size.flops_per_token == products + attention
    for number in (blocks, tokens, positions, gains, size.total, products, attention, products + attention):
        assert f"= {number:,}" in text
    assert f"6N is {6 * size.total:,}" in text
    assert f"{(tokens + positions) / size.total:.0%} here" in text


def test_the_tokens_and_the_time_of_gpt2() -> None:
    size, train, text = gpt2(), Experiment.load("owt_gpt2").train, text_of("scaling")
    assert size.flops_per_token is not None
    count = trained_tokens(train)
    flops = count * size.flops_per_token
    days = flops / (0.4 * 312e12) / 86400
    assert f"{train.steps:,} steps of {train.batch_tokens:,} tokens" in text
    assert f"D = {count / 1e9:.0f} billion tokens and {flops:.1e}".replace("e+20", "e20") in text
    assert f"would take {days:.0f} days, and eight of them {days / 8:.0f}" in text
    assert f"`owt_gpt2` {count / size.total:,.0f}" in text


def test_the_tokens_per_parameter_of_the_quickstart() -> None:
    experiment = Experiment.load("quickstart")
    size = model_size(experiment.model, 257)
    assert size is not None
    assert f"`quickstart` has {trained_tokens(experiment.train) / size.total:.1f} tokens per parameter" in text_of(
        "scaling"
    )
    assert f"{size.parameters['embedding'] / size.total:.0%} in `quickstart`" in text_of("scaling")


def trained_tokens(train: Train) -> int:
    return train.steps * train.batch_tokens


def test_the_model_for_a_budget() -> None:
    N = math.sqrt(1e18 / (6 * 20))
    assert pytest.approx(1e18) == 6 * N * (20 * N)
    text = f"N = sqrt(1e18 / 120) = {N / 1e6:.0f} million, D = {20 * N / 1e9:.1f} billion tokens"
    assert text in text_of("scaling")
