"""Schedule-Free AdamW against the paper's algorithm, which keeps x, y and z, and against the authors' package."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from nanogpt_kit_optimizers.schedule_free import ScheduleFree
from torch import Tensor, nn

from nanogpt_kit import Experiment
from nanogpt_kit.api import KitError
from nanogpt_kit.testing.optimizer import OptimizerConformance

SHAPES = {"matrix": (7, 5), "vector": (5,), "head": (3, 4)}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.02, "weight_decay": 0.0},
    "decayed": {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-4},
    "warm": {"lr": 0.05, "betas": (0.8, 0.95), "warmup_steps": 7, "weight_decay": 0.1},
    "later steps weigh more": {"lr": 0.02, "betas": (0.95, 0.99), "warmup_steps": 3, "r": 2.0, "weight_lr_power": 1.0},
}
RATES = [1.0] * 9 + [0.5] * 3 + [2.0] * 3  # a schedule, of which the average remembers the highest


class TestScheduleFree(OptimizerConformance):
    component = ScheduleFree(lr=3e-2)


class TestScheduleFreeWithWarmup(OptimizerConformance):
    component = ScheduleFree(lr=3e-2, warmup_steps=8, r=1.0, weight_decay=0.0)


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return {name: nn.Parameter(torch.randn(shape, generator=generator).double()) for name, shape in SHAPES.items()}


def gradients() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(shape, generator=generator).double() for shape in SHAPES.values()] for _ in RATES]


def groups(of: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": [p], "names": [name], "role": name, "lr_multiplier": 1.0} for name, p in of.items()]


def take_steps(optimizer: torch.optim.Optimizer, of: dict[str, nn.Parameter], first: int = 0, last: int = 99) -> None:
    peaks = [group.get("peak", group["lr"]) for group in optimizer.param_groups]
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["peak"] = peak
    for rate, step in list(zip(RATES, gradients(), strict=True))[first:last]:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["peak"]
        for parameter, gradient in zip(of.values(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("case", CASES)
def test_x_y_and_z_are_those_of_the_paper(case: str) -> None:
    options = ScheduleFree(**CASES[case])
    ours = parameters()
    built = options.build(groups(ours))
    take_steps(built, ours)
    (beta1, beta2), warmup = options.betas, options.warmup_steps
    for number, (name, parameter) in enumerate(parameters().items()):
        x, y, z, v = (parameter.detach().clone() for _ in range(4))
        v.zero_()
        highest = total = 0.0
        decay = 0.0 if name == "vector" else options.weight_decay
        for t, (rate, step) in enumerate(zip(RATES, gradients(), strict=True), start=1):
            lr = rate * options.lr * (min(1.0, t / warmup) if warmup else 1.0)
            v = beta2 * v + (1 - beta2) * step[number] ** 2
            z = z - lr * step[number] / ((v / (1 - beta2**t)).sqrt() + options.eps) - lr * decay * y
            highest = max(highest, lr)
            weight = t**options.r * highest**options.weight_lr_power
            total += weight
            x = (1 - weight / total) * x + weight / total * z
            y = (1 - beta1) * z + beta1 * x
        torch.testing.assert_close(ours[name].detach(), y, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(built.state[ours[name]]["z"], z, rtol=1e-10, atol=1e-12)
        built.eval()
        torch.testing.assert_close(ours[name].detach(), x, rtol=1e-10, atol=1e-12)
        built.train()


@pytest.mark.skipif(importlib.util.find_spec("schedulefree") is None, reason="the package schedulefree is not here")
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_authors_optimizer(case: str) -> None:
    from schedulefree import AdamWScheduleFree

    options = ScheduleFree(**CASES[case])
    ours, theirs = parameters(), parameters()
    built = options.build(groups(ours))
    given = [
        {"params": [p], "weight_decay": 0.0 if name == "vector" else options.weight_decay} for name, p in theirs.items()
    ]
    more = {key: getattr(options, key) for key in ("lr", "betas", "eps", "warmup_steps", "r", "weight_lr_power")}
    reference = AdamWScheduleFree(given, **more)
    reference.train()
    for optimizer, of in ((built, ours), (reference, theirs)):
        take_steps(optimizer, of)
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-13)
    built.eval()
    reference.eval()
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-13)


def test_an_evaluation_changes_no_bit_of_the_weights_and_leaves_nothing_in_the_state() -> None:
    ours = parameters()
    built = ScheduleFree(lr=0.02).build(groups(ours))
    built.train()
    take_steps(built, ours, 0, 4)
    before = {name: p.detach().clone() for name, p in ours.items()}
    built.eval()
    averaged = {name: p.detach().clone() for name, p in ours.items()}
    built.eval()  # once more changes nothing
    assert all(torch.equal(ours[name], value) for name, value in averaged.items())
    assert not any(torch.equal(before[name], value) for name, value in averaged.items())
    built.train()
    built.train()
    assert all(torch.equal(ours[name], value) for name, value in before.items())
    assert {key for state in built.state.values() for key in state} == {"z", "exp_avg_sq"}


def test_a_parameter_that_was_never_updated_has_one_weight() -> None:
    ours = parameters()
    built = ScheduleFree().build(groups(ours))
    built.eval()
    built.train()
    assert not built.state


@pytest.mark.parametrize(
    ("first", "remedy"), [([0.0], "set a number above 0"), ([0.9, 0.8], r"remove the schedule .* betas\.0")]
)
def test_a_fraction_from_which_x_could_not_be_computed_is_refused(first: list[float], remedy: str) -> None:
    ours = parameters()
    built = ScheduleFree(lr=0.02).build(groups(ours))
    for step, beta1 in enumerate(first):
        for group in built.param_groups:
            group["betas"] = (beta1, 0.999)
        if step < len(first) - 1:
            take_steps(built, ours, step, step + 1)
    with pytest.raises(KitError, match=remedy):
        take_steps(built, ours, len(first) - 1, len(first))


def notes(*schedules: dict[str, Any]) -> tuple[str, ...]:
    tables = {
        "name": "one",
        "dataset": {"use": "text", "source": "text.txt"},
        "tokenizer": "byte",
        "model": {"use": "gpt"},
        "optimizer": "schedule_free",
        "schedule": list(schedules),
        "train": {"steps": 1000, "batch_tokens": 1024},
    }
    return Experiment.model_validate(tables).notes


@pytest.mark.parametrize("schedule", [{"use": "cosine"}, {"use": "linear", "warmup_steps": 10}, {"use": "wsd"}])
def test_a_schedule_that_falls_is_noted(schedule: dict[str, Any]) -> None:
    (note,) = notes(schedule)
    assert note.startswith("schedule: the learning rate falls")
    assert 'schedule = "constant"' in note


@pytest.mark.parametrize("schedule", [{"use": "constant"}, {"use": "constant", "warmup_steps": 20}])
def test_a_constant_one_is_not(schedule: dict[str, Any]) -> None:
    assert notes(schedule) == ()


def test_the_schedule_of_another_option_is_not_either() -> None:
    decay = {"use": "cosine", "target": "optimizer.weight_decay"}
    assert notes({"use": "constant"}, decay) == ()
