"""The numbers of the worked examples on the pages of concepts from schedules to scaling, computed again.

Each test computes them by formulas or by torch, asks the kit where a page says what it does, and finds the same numbers
in the text of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_kit import Experiment
from nanogpt_kit.api import KVCache, OrderContext, Sampler
from nanogpt_kit.comparison.intervals import Sample, look_alpha, seeds_to_decide
from nanogpt_kit.core.sections import Train
from nanogpt_kit.data.batches import evaluation_batches
from nanogpt_kit.data.split import Split
from nanogpt_kit.nn.flops import ModelSize, model_size
from nanogpt_kit.train.compile_decision import Seconds, Work, decide

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts"


def text_of(name: str) -> str:
    """The text of a page with single spaces."""
    return " ".join((CONCEPTS / f"{name}.md").read_text(encoding="utf-8").split())


def row(page: str, first: str) -> list[str]:
    """The cells after the first one of the row of a table that begins with it."""
    lines = (CONCEPTS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def rounded(values: Sequence[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]


# Schedules

STEPS = (0, 1, 2, 3, 8, 12, 16, 19)
LENGTH, WARMUP = 20, 3
AFTER_WARMUP: dict[str, Callable[[int], float]] = {
    "constant": lambda step: 1.0,
    "cosine": lambda step: 0.1 + 0.9 * (1 + math.cos(math.pi * (step - WARMUP) / (LENGTH - WARMUP))) / 2,
    "linear": lambda step: (LENGTH - step) / (LENGTH - WARMUP),
    "wsd": lambda step: min(1.0, (LENGTH - step) / 4),
    "inverse_sqrt": lambda step: math.sqrt((WARMUP + 1) / (step + 1)),
}


@pytest.mark.parametrize("name", AFTER_WARMUP)
def test_the_multipliers_of_a_schedule(name: str) -> None:
    expected = [(step + 1) / (WARMUP + 1) if step < WARMUP else AFTER_WARMUP[name](step) for step in STEPS]
    options = [f"train.steps={LENGTH}", f"schedule={name}", f"schedule.warmup_steps={WARMUP}"]
    if name == "cosine":
        options.append("schedule.final_fraction=0.1")
    (schedule,) = Experiment.load("quickstart", options).schedules
    assert [schedule.multiplier(step, LENGTH) for step in STEPS] == pytest.approx(expected)
    assert row("schedules", f"`{name}`") == rounded(expected, 3)


def test_the_steps_of_the_table_of_schedules_and_the_cosine_in_prose() -> None:
    assert row("schedules", "step") == [str(step) for step in STEPS]
    progress = (8 - WARMUP) / (LENGTH - WARMUP)
    half = (1 + math.cos(math.pi * progress)) / 2
    text = f"(8 - 3) / (20 - 3) = {progress:.3f}, half a cosine there is (1 + cos({progress:.3f} π)) / 2 = {half:.3f}"
    assert text in text_of("schedules")
    assert f"0.1 + 0.9 * {half:.3f} = {0.1 + 0.9 * half:.3f}" in text_of("schedules")


# Precision


@pytest.mark.parametrize("value", ["0.1", "1.001", "257", "70,000", "0.00000001"])
def test_the_values_in_16_bits(value: str) -> None:
    exact = float(value.replace(",", ""))
    names = {"infinity": math.inf, "0": 0.0}
    fp32, bf16, fp16 = row("precision", value)
    for written, dtype in ((bf16, torch.bfloat16), (fp16, torch.float16)):
        shown = names[written] if written in names else float(written.replace(",", ""))
        assert torch.tensor(exact, dtype=torch.float32).to(dtype).item() == shown, dtype
    assert float(fp32.replace(",", "")) == exact


def test_a_thousand_small_updates_in_two_formats() -> None:
    left = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight, update = torch.ones((), dtype=dtype), torch.tensor(0.001, dtype=dtype)
        for _ in range(1000):
            weight = weight - update
        left[dtype] = weight.item()
    assert f"In fp32 the result is {left[torch.float32]:.7f} instead of 0" in text_of("precision")
    assert left[torch.bfloat16] == 1
    assert "In bf16 it is 1: next to 1 the format has steps of 1/256 below and 1/128 above" in text_of("precision")
    one = torch.ones((), dtype=torch.bfloat16)
    below, above = (torch.nextafter(one, torch.tensor(to, dtype=torch.bfloat16)).item() for to in (0.0, 2.0))
    assert (1 - below, above - 1) == (1 / 256, 1 / 128)


def test_a_sum_of_ones_in_bf16_stops() -> None:
    total = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(1000):
        total = total + 1
    assert f"In bf16 the sum stops at {total.item():.0f}" in text_of("precision")


def test_the_scaled_gradient_in_fp16() -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaled = (torch.tensor(1e-8) * scaler.get_scale()).half()
    text = text_of("precision")
    assert f"Multiply the loss by {scaler.get_scale():,.0f}" in text
    assert f"becomes {scaled.item():.6f}" in text
    assert f"again: {scaled.float().item() / scaler.get_scale():.13f}." in text
    assert (scaler.get_backoff_factor(), scaler.get_growth_factor()) == (0.5, 2.0)
    assert f"after {scaler.get_growth_interval():,} good steps" in text
    assert torch.tensor(2.9e-8).half() == 0 < torch.tensor(3.1e-8).half()  # "smaller than 0.00000003 is 0"


# Compiling

EAGER, COMPILED, COLD, WARM = 0.0421, 0.0240, 29.0, 3.0


def test_the_steps_from_which_compiling_pays() -> None:
    text = text_of("compiling")
    assert f"29 s / (0.0421 s - 0.0240 s) = {COLD / (EAGER - COMPILED):,.0f} steps" in text
    assert f"3 s / (0.0421 s - 0.0240 s) = {WARM / (EAGER - COMPILED):,.0f} steps" in text


@pytest.mark.parametrize(
    ("steps", "gain", "cost", "known"),
    [
        (1500, 0.4 * 1500 * EAGER, 4 * 7, Seconds()),
        (3000, 0.4 * 3000 * EAGER, 4 * 7, Seconds()),
        (300, 300 * (EAGER - COMPILED), WARM, Seconds(cold=COLD, warm=WARM, eager=EAGER, compiled=COMPILED)),
    ],
)
def test_the_decisions_to_compile(steps: int, gain: float, cost: float, known: Seconds) -> None:
    decision = decide(Work(steps), known, EAGER, gain=0.4, blocks=4)
    _, shown_gain, shown_cost, answer = row("compiling", f"{steps:,}")
    assert (shown_gain, shown_cost) == (f"{gain:.0f} s", f"{cost:.0f} s")
    assert decision.why.startswith(f"saves {gain:.0f} of ")
    assert f"costs {cost:.0f} s" in decision.why
    assert answer == ("compiled" if decision.compiles else "eager")


def test_the_bytes_that_fusion_saves() -> None:
    numbers, operations = 1_000_000, 3  # the sum, the ReLU, the square
    eager, fused = (4 * numbers * passes for passes in (2 * operations, 2))
    assert row("compiling", "eager: sum, ReLU, square")[-1] == f"{eager // 10**6} million"
    assert row("compiling", "fused into one loop")[-1] == f"{fused // 10**6} million"


# DDP and FSDP


def test_the_mean_over_ranks() -> None:
    ranks = [[2.0, 4.0], [6.0]]
    means = [sum(losses) / len(losses) for losses in ranks]
    sums = [sum(losses) for losses in ranks]
    text = text_of("ddp-and-fsdp")
    assert f"({means[0]:g} + {means[1]:g}) / 2 = {sum(means) / 2:g} wrong" in text
    assert f"({sums[0]:g} + {sums[1]:g}) / 3 = {sum(sums) / 3:g} right" in text


@pytest.mark.parametrize("ranks", [1, 4, 8])
def test_the_memory_of_each_rank(ranks: int) -> None:
    parameters = gpt2().total
    assert f"{parameters:,} parameters" in text_of("ddp-and-fsdp")
    ddp, fsdp = row("ddp-and-fsdp", str(ranks))
    assert ddp == f"{16 * parameters / 1e9:.2f} GB"
    assert ranks == 1 or fsdp == f"{16 * parameters / ranks / 1e9:.2f} GB"


def gpt2() -> ModelSize:
    size = model_size(Experiment.load("owt_gpt2").model, 50257)
    assert size is not None
    return size


# Checkpoints


@pytest.mark.parametrize("step", [0, 1, 700])
def test_the_windows_of_a_step(step: int) -> None:
    order = Experiment.load("quickstart").order
    ctx = OrderContext(n_tokens=10_000, block_size=64, seed=1337, first_window=4 * step, batch_windows=4)
    starts = order.starts(step, ctx)
    assert ", ".join(map(str, starts)) in row("checkpoints-and-resume", str(step))


def test_the_epoch_of_a_step_by_counting() -> None:
    windows = 10_000 // 64 - 1
    epoch = position = 0
    for _ in range(4 * 700):
        position += 1
        if position == windows:
            epoch, position = epoch + 1, 0
    text = text_of("checkpoints-and-resume")
    assert f"have {windows} windows an epoch" in text
    assert f"window 2,800 of the run, which is window {position} of epoch {epoch}." in text
    assert f"{epoch} epochs have {epoch * windows:,}." in text


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
