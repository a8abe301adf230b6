"""NorMuon against the algorithms of the papers, written out for one matrix after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from nanogpt_kit_optimizers import whole_matrices
from nanogpt_kit_optimizers.normuon import NorMuon, polar_factors_of_parts, scales_of_parts, warm_momentum
from nanogpt_kit_optimizers.polar_express import COEFFICIENTS
from nanogpt_kit_optimizers.schedule_free import ScheduleFree
from torch import Tensor, nn

from nanogpt_kit.testing.optimizer import OptimizerConformance

SHAPES = {"tall": (7, 5), "tall_2": (7, 5), "wide": (4, 9), "square": (6, 6), "tall_3": (7, 5), "wide_2": (4, 9)}
FUSED = {"equal": (4, 4, 4), "fewer_keys": (6, 2, 2), "equal_2": (4, 4, 4), "wide_values": (3, 3, 11)}  # rows


class TestNorMuon(OptimizerConformance):
    component = NorMuon(lr=3e-3)


class TestNorMuonAsItsAuthors(OptimizerConformance):
    component = NorMuon(adjust="original", cautious=False, momentum_warmup_steps=0)


class TestNorMuonWithoutNesterovAndDecay(OptimizerConformance):
    component = NorMuon(lr=3e-3, nesterov=False, weight_decay=0.0, others=ScheduleFree(lr=1e-2))


def matrices(shapes: dict[str, tuple[int, int]] = SHAPES) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return {name: nn.Parameter(torch.randn(shape, generator=generator).double()) for name, shape in shapes.items()}


def gradients_of(of: dict[str, nn.Parameter], steps: int = 12) -> list[list[Tensor]]:
    """Of all sizes, and with rows of all sizes, as those of a model are."""
    generator = torch.Generator().manual_seed(4)
    gradients = []
    for _ in range(steps):
        drawn = [torch.randn(p.shape, generator=generator).double() for p in of.values()]
        gradients.append([10.0 ** -(i % 4) * torch.logspace(0, -1, len(g))[:, None] * g for i, g in enumerate(drawn)])
    return gradients


def optimizer_of(
    of: dict[str, nn.Parameter], rows: Sequence[tuple[int, ...] | None] | None = None, **options: Any
) -> torch.optim.Optimizer:
    keys = {"role": "matrix", "lr_multiplier": 1.0, "group": None, "total_steps": 9}
    return NorMuon(**options).build(
        [{"params": [*of.values()], "names": [*of], "rows": list(rows or [None] * len(of)), **keys}]
    )


def take_steps(optimizer: torch.optim.Optimizer, of: dict[str, nn.Parameter], gradients: list[list[Tensor]]) -> None:
    for step in gradients:
        for parameter, gradient in zip(of.values(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def polar_express(matrix: Tensor, iterations: int) -> Tensor:
    """On the singular values themselves."""
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / (1.01 * values.norm() + 1e-7)
    for index in range(iterations):
        a, b, c = COEFFICIENTS[min(index, 7)]
        values = a * values + b * values**3 + c * values**5
    return u @ torch.diag(values) @ v


@pytest.mark.parametrize("cautious", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_each_matrix_is_updated_as_the_authors_code_does(adjust: str, nesterov: bool, cautious: bool) -> None:
    lr, last, start, warmup, beta2, decay, eps = 0.02, 0.9, 0.7, 8, 0.8, 0.3, 1e-6
    ours = matrices()
    gradients = gradients_of(ours)
    momenta = {"momentum": last, "momentum_start": start, "momentum_warmup_steps": warmup, "nesterov": nesterov}
    more = {"beta2": beta2, "weight_decay": decay, "eps": eps, "cautious": cautious, "adjust": adjust}
    take_steps(optimizer_of(ours, lr=lr, **momenta, **more, iterations=6), ours, gradients)
    for number, (name, parameter) in enumerate(matrices().items()):
        w, (m, n) = parameter.detach(), SHAPES[name]
        momentum, squares = torch.zeros(m, n).double(), [0.0] * m
        for t, step in enumerate(gradients):
            beta1 = start + (last - start) * min(1.0, t / warmup)
            momentum = beta1 * momentum + (1 - beta1) * step[number]
            o = polar_express((1 - beta1) * step[number] + beta1 * momentum if nesterov else momentum, 6)
            normed = torch.empty_like(o)
            for row in range(m):
                squares[row] = beta2 * squares[row] + (1 - beta2) * sum(x * x for x in o[row].tolist()) / n
                normed[row] = o[row] / (math.sqrt(squares[row]) + eps)
            scale = 0.2 * math.sqrt(max(m, n)) if adjust == "match_rms_adamw" else math.sqrt(max(1, m / n))
            update = scale * normed * (o.norm() / normed.norm())
            decayed = torch.where((update * w >= 0) | (not cautious), w, 0.0)
            w = w - lr * update - lr * decay * decayed
        torch.testing.assert_close(ours[name].detach(), w, rtol=1e-9, atol=1e-10)


def test_an_update_has_the_size_that_the_paper_gives_it() -> None:
    """Algorithm 1: lr 0.2 sqrt(m n) divided by the norm, so that the root mean square is 0.2 lr."""
    ours, before = matrices(), matrices()
    take_steps(optimizer_of(ours, lr=0.01, weight_decay=0.0, iterations=9), ours, gradients_of(ours, 1))
    for name, start in before.items():
        moved = ours[name].detach() - start.detach()
        assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=1e-4)


def test_rows_that_were_large_before_become_smaller_than_those_that_were_not() -> None:
    means = torch.tensor([[1.0, 4.0]])
    running = torch.tensor([[4.0, 4.0]])
    scales = scales_of_parts(means, running.rsqrt(), (2,), 3, {"adjust": "original"})
    sizes = (means.sqrt() * running.rsqrt() * scales)[0]
    assert (sizes[1] / sizes[0]).item() == pytest.approx(2.0)
    assert sizes.norm().item() == pytest.approx(math.sqrt(5))  # the norm that they had


@pytest.mark.parametrize("eps", [1e-8, 1e-20, 1e-35])
def test_rows_without_a_gradient_remain(eps: float) -> None:
    """In fp32, in which the square of 1 / eps may not exist."""
    matrix = nn.Parameter(torch.ones(4, 6))
    gradient = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    gradient[1] = 0
    optimizer = optimizer_of({"matrix": matrix}, eps=eps, weight_decay=0.0)
    for scale in (1.0, 0.0, 1.0):
        take_steps(optimizer, {"matrix": matrix}, [[scale * gradient]])
    assert matrix.isfinite().all()
    assert matrix[1].tolist() == [1.0] * 6
    assert (matrix[0] != 1).all()


def test_queries_keys_and_values_are_updated_as_three_matrices() -> None:
    fused = matrices({name: (sum(rows), 5) for name, rows in FUSED.items()})
    apart = {
        f"{name}.{index}": nn.Parameter(part.clone())
        for name, rows in FUSED.items()
        for index, part in enumerate(fused[name].detach().split(rows))
    }
    gradients = gradients_of(fused)
    split = [
        [part for one, rows in zip(step, FUSED.values(), strict=True) for part in one.split(rows)] for step in gradients
    ]
    for adjust in ("match_rms_adamw", "original"):
        take_steps(optimizer_of(fused, [*FUSED.values()], adjust=adjust), fused, gradients)
        take_steps(optimizer_of(apart, adjust=adjust), apart, split)
    for name, rows in FUSED.items():
        for index, part in enumerate(fused[name].detach().split(rows)):
            torch.testing.assert_close(part, apart[f"{name}.{index}"].detach(), rtol=1e-9, atol=1e-10)


def products_of_a_step(optimizer: torch.optim.Optimizer, of: dict[str, nn.Parameter]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        take_steps(optimizer, of, gradients_of(of, 1))
    return sum(event.count for event in profiled.key_averages() if event.key in ("aten::bmm", "aten::baddbmm"))


def test_matrices_of_one_shape_are_multiplied_together() -> None:
    one, many, mixed = matrices({"a": (7, 5)}), matrices(dict.fromkeys("abcdefg", (7, 5))), matrices()
    of_one = products_of_a_step(optimizer_of(one), one)
    assert of_one == 3 * 6
    assert products_of_a_step(optimizer_of(many), many) == of_one
    assert products_of_a_step(optimizer_of(mixed), mixed) == len(set(SHAPES.values())) * of_one


def test_large_matrices_are_updated_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts, one_by_one = matrices(), matrices(), matrices()
    take_steps(optimizer_of(whole), whole, gradients_of(whole))
    monkeypatch.setattr(whole_matrices, "BATCH_ELEMENTS", 2 * 7 * 5 + 1)
    take_steps(optimizer_of(parts), parts, gradients_of(parts))
    monkeypatch.setattr(whole_matrices, "BATCH_ELEMENTS", 1)
    take_steps(optimizer_of(one_by_one), one_by_one, gradients_of(one_by_one))
    for name, parameter in whole.items():
        torch.testing.assert_close(parts[name], parameter, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(one_by_one[name], parameter, rtol=1e-9, atol=1e-10)


def test_a_rank_may_have_none_of_the_matrices() -> None:
    """Where fewer are exchanged than there are ranks."""
    for rows in ((12,), (4, 4, 4), (8, 2, 2)):
        assert polar_factors_of_parts(torch.zeros(0, 12, 5), rows, 6).shape == (0, 12, 5)


def test_the_warmup_of_the_momentum_continues_in_a_resumed_run() -> None:
    ours = matrices()
    built, resumed = (optimizer_of(one, momentum_warmup_steps=10) for one in (ours, matrices()))
    take_steps(built, ours, gradients_of(ours, 3))
    resumed.load_state_dict(built.state_dict())
    assert warm_momentum(resumed.param_groups[0]) == pytest.approx(0.88)


def test_a_momentum_below_its_start_is_not_raised() -> None:
    group = {"updates": 0, "momentum": 0.5, "momentum_start": 0.85, "momentum_warmup_steps": 10}
    assert warm_momentum(group) == 0.5
    assert warm_momentum({**group, "momentum": 0.95}) == pytest.approx(0.85)
    assert warm_momentum({**group, "momentum": 0.95, "updates": 5}) == pytest.approx(0.90)
    assert warm_momentum({**group, "momentum": 0.95, "momentum_warmup_steps": 0}) == pytest.approx(0.95)


def test_all_but_matrices_go_to_the_other_optimizer() -> None:
    gain, stack, flat = (nn.Parameter(torch.zeros(shape)) for shape in ((3,), (2, 6, 4), (6, 4)))
    groups = [{"params": [gain], "role": "vector"}, {"params": [stack, flat], "role": "matrix"}]
    built = NorMuon(lr=0.5, others={"use": "adamw", "lr": 0.25}).build(
        [{**group, "lr_multiplier": 1.0} for group in groups]
    )
    found = [(group["lr"], group["params"], group.get("slot")) for group in built.param_groups]
    assert found == [(0.5, [flat], None), (0.25, [gain], "others"), (0.25, [stack], "others")]
