"""The numbers of the worked examples on the pages of concepts from schedules to checkpoints, computed again.

Each test computes them by formulas or by torch, asks the kit where a page says what it does, and finds the same numbers
in the text of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from nanogpt_kit import Experiment
from nanogpt_kit.api import OrderContext
from nanogpt_kit.train.compile_decision import Seconds, Work, decide
from tests.handbook.concept_pages import gpt2, rounded, row, text_of

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
