"""AdEMAMix against algorithm 1 of its paper, written out in fp64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from nanogpt_kit_optimizers.ademamix import AdEMAMix, slow_mean
from torch import Tensor

from nanogpt_kit.testing.optimizer import OptimizerConformance

LR, ALPHA, DECAY, EPS = 0.01, 3.0, 0.1, 1e-8
TOTAL = 9


class TestAdEMAMix(OptimizerConformance):
    component = AdEMAMix(lr=3e-3)


class TestAdEMAMixWithoutAFastMean(OptimizerConformance):
    component = AdEMAMix(lr=3e-3, betas=(0.0, 0.95, 0.99))


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def group_of(parameter: Tensor, role: str = "matrix") -> dict[str, Any]:
    keys = {"role": role, "lr_multiplier": 1.0, "group": None, "total_steps": TOTAL}
    return {"params": [parameter], "names": ["weight"], "rows": [None], **keys}


def by_hand(start: Tensor, gradients: list[Tensor], betas: tuple[float, float, float], decay: float) -> Tensor:
    """The paper's schedulers and update; with beta1 = 0 the half-life of the slow mean grows from zero."""
    beta1, beta2, beta3 = betas
    theta, m1, m2, nu = start, *(torch.zeros_like(start) for _ in range(3))
    for t, g in enumerate(gradients, start=1):
        a = t / TOTAL
        alpha = min(a * ALPHA, ALPHA)
        if beta1:
            low, high = math.log(beta1), math.log(beta3)
            slow = min(math.exp(low * high / ((1 - a) * high + a * low)), beta3)
        else:
            slow = 0.5 ** (1 / (a * math.log(0.5) / math.log(beta3)))
        m1, m2 = beta1 * m1 + (1 - beta1) * g, slow * m2 + (1 - slow) * g
        nu = beta2 * nu + (1 - beta2) * g**2
        mean, square = m1 / (1 - beta1**t), nu / (1 - beta2**t)
        theta = theta - LR * ((mean + alpha * m2) / (square.sqrt() + EPS) + decay * theta)
    return theta


@pytest.mark.parametrize("betas", [(0.8, 0.9, 0.99), (0.0, 0.9, 0.99)])
@pytest.mark.parametrize("role", ["matrix", "vector"])
def test_updates_follow_algorithm_1_of_the_paper(betas: tuple[float, float, float], role: str) -> None:
    start, gradients = draw(5, 3, seed=1), [draw(5, 3, seed=10 + step) for step in range(TOTAL)]
    parameter = torch.nn.Parameter(start.clone())
    optimizer = AdEMAMix(lr=LR, betas=betas, alpha=ALPHA, weight_decay=DECAY).build([group_of(parameter, role)])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = by_hand(start, gradients, betas, DECAY if role == "matrix" else 0.0)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)
    assert ("fast" in optimizer.state[parameter]) == (betas[0] > 0)


def test_a_parameter_that_had_no_gradient_counts_its_own_steps() -> None:
    """Its means began later, so they are corrected later."""
    start, gradients = draw(5, 3, seed=1), [draw(5, 3, seed=10 + step) for step in range(TOTAL)]
    late, steady = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    group = group_of(late)
    both = {**group, "params": [late, steady], "names": ["late", "steady"], "rows": [None, None]}
    optimizer = AdEMAMix(lr=LR, betas=(0.8, 0.9, 0.99), alpha=ALPHA, weight_decay=DECAY).build([both])
    for step, gradient in enumerate([gradients[0], *gradients]):
        late.grad = gradient.clone() if step else None
        steady.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(
        late.detach(), by_hand(start, gradients, (0.8, 0.9, 0.99), DECAY), rtol=1e-10, atol=1e-12
    )


def test_the_slow_mean_has_its_last_values_from_the_end_of_the_run_on() -> None:
    betas = (0.9, 0.999, 0.9999)
    assert slow_mean(1000, 1000, 5.0, betas) == (5.0, 0.9999)
    assert slow_mean(1500, 1000, 5.0, betas) == (5.0, 0.9999)
    alpha, decay = slow_mean(500, 1000, 5.0, betas)
    half_lives = [math.log(0.5) / math.log(one) for one in (0.9, decay, 0.9999)]
    assert alpha == 2.5
    assert half_lives[1] == pytest.approx((half_lives[0] + half_lives[2]) / 2)


def test_its_memory_depends_on_the_fast_mean() -> None:
    assert AdEMAMix().state_copies() == 3
    assert AdEMAMix(betas=(0.0, 0.999, 0.9999)).state_copies() == 2
