"""Optimizers, against torch's own and against what was published."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt_kit.components.optimizer import muon
from nanogpt_kit.components.optimizer.adamw import AdamW
from nanogpt_kit.components.optimizer.muon import Muon
from nanogpt_kit.components.optimizer.sgd import SGD
from nanogpt_kit.core.kinds import load_entry
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.nn.threads import limited_threads
from nanogpt_kit.testing.optimizer import SHAPES, OptimizerConformance

OPTIONS = {"lr": 3e-3, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.3}


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return {role: nn.Parameter(torch.randn(shape, generator=generator)) for role, shape in SHAPES.items()}


def groups(of: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": [p], "names": [role], "role": role, "lr_multiplier": 1.0} for role, p in of.items()]


def take_steps(optimizer: torch.optim.Optimizer, of: dict[str, nn.Parameter], gradients: list[list[Tensor]]) -> None:
    for step in gradients:
        for parameter, gradient in zip(of.values(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def drawn_gradients() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [[torch.randn(shape, generator=generator) for shape in SHAPES.values()] for _ in range(20)]


def test_adamw_is_torchs_with_decay_on_all_but_vectors() -> None:
    ours, theirs = parameters(), parameters()
    decayed = [parameter for parameter in theirs.values() if parameter.ndim >= 2]
    spared = [parameter for parameter in theirs.values() if parameter.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed}, {"params": spared, "weight_decay": 0.0}], **OPTIONS, fused=False, foreach=False
    )
    gradients = drawn_gradients()
    take_steps(AdamW(**OPTIONS).build(groups(ours)), ours, gradients)
    take_steps(reference, theirs, gradients)
    for role in SHAPES:
        torch.testing.assert_close(ours[role], theirs[role], rtol=1e-6, atol=1e-7)


def test_adamw_without_gradient_shrinks_matrices_and_spares_vectors() -> None:
    ours, before = parameters(), parameters()
    take_steps(AdamW(**OPTIONS).build(groups(ours)), ours, [[torch.zeros_like(p) for p in ours.values()]])
    for role, parameter in ours.items():
        factor = 1.0 if role == "vector" else 1 - OPTIONS["lr"] * OPTIONS["weight_decay"]
        torch.testing.assert_close(parameter, before[role] * factor)


def test_adamw_keeps_what_the_loop_reads_of_a_group() -> None:
    built = AdamW(**OPTIONS).build([{**group, "lr_multiplier": 0.5} for group in groups(parameters())])
    assert [group["role"] for group in built.param_groups] == list(SHAPES)
    assert {group["lr"] for group in built.param_groups} == {3e-3}  # its own peak; the loop applies the multiplier
    assert {group["lr_multiplier"] for group in built.param_groups} == {0.5}


def test_adamw_does_not_change_the_groups_it_is_given() -> None:
    given = groups(parameters())
    AdamW().build(given)
    assert [set(group) for group in given] == [{"params", "names", "role", "lr_multiplier"}] * len(SHAPES)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"betas": (0.9, 1.0)}, {"eps": -1.0}, {"weight_decay": -0.1}])
def test_adamw_refuses_options_out_of_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdamW(**wrong)


class TestAdamW(OptimizerConformance):
    component = AdamW(lr=3e-3)


class TestSGD(OptimizerConformance):
    component = SGD(lr=0.02)


class TestSGDPlain(OptimizerConformance):
    component = SGD(lr=0.02, momentum=0.0, nesterov=True, weight_decay=0.1)


class TestMuon(OptimizerConformance):
    component = Muon(lr=3e-3)


class TestMuonAdjustedAsOriginally(OptimizerConformance):
    component = Muon(adjust="original")


class TestMuonWithSGD(OptimizerConformance):
    component = Muon(lr=3e-3, adjust="original", nesterov=False, others=SGD(lr=0.02))


def test_every_built_in_passes_the_suite() -> None:
    tested = {type(case.component) for case in OptimizerConformance.__subclasses__() if case.__module__ == __name__}
    assert {
        load_entry(entry)
        for entry in Registry.installed().of_kind("optimizer")
        if entry.distribution == KIT_DISTRIBUTION
    } <= tested


def test_sgd_is_torchs_with_decay_on_all_but_vectors() -> None:
    options = {"lr": 0.03, "momentum": 0.8, "nesterov": True}
    ours, theirs = parameters(), parameters()
    decayed = [parameter for parameter in theirs.values() if parameter.ndim >= 2]
    spared = [parameter for parameter in theirs.values() if parameter.ndim < 2]
    reference = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.3}, {"params": spared}], **options, foreach=False
    )
    gradients = drawn_gradients()
    take_steps(SGD(**options, weight_decay=0.3).build(groups(ours)), ours, gradients)
    take_steps(reference, theirs, gradients)
    for role in SHAPES:
        torch.testing.assert_close(ours[role], theirs[role], rtol=1e-6, atol=1e-7)


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Newton-Schulz with Jordan's coefficients, on singular values: each goes through the quintic, in fp64."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ torch.diag(values) @ v


MATRICES = {"tall": (7, 5), "tall_2": (7, 5), "wide": (4, 9), "square": (6, 6), "tall_3": (7, 5), "wide_2": (4, 9)}
LONG = {"wide": (3, 13), "tall": (16, 4), "wide_2": (3, 13)}


def matrices(shapes: dict[str, tuple[int, int]] = MATRICES) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def gradients_of(of: dict[str, nn.Parameter], steps: int = 20) -> list[list[Tensor]]:
    """Of all sizes, as those of a model are."""
    generator = torch.Generator().manual_seed(4)
    return [
        [10.0 ** -(number % 4) * torch.randn(p.shape, generator=generator) for number, p in enumerate(of.values())]
        for _ in range(steps)
    ]


def for_matrices(of: dict[str, nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return Muon(**options).build([{"params": list(of.values()), "role": "matrix", "lr_multiplier": 1.0}])


@pytest.fixture
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "product_dtype", lambda device: torch.float32)


@pytest.fixture
def in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "product_dtype", lambda device: torch.bfloat16)


def distance(of: dict[str, nn.Parameter], other: dict[str, nn.Parameter], before: dict[str, nn.Parameter]) -> float:
    """The largest of a matrix from the other, as a share of how far it went."""
    return max(((of[name] - other[name]).norm() / (of[name] - start).norm()).item() for name, start in before.items())


@pytest.mark.usefixtures("in_fp32")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_muon_is_the_published_update_of_every_matrix(adjust: str, nesterov: bool) -> None:
    lr, momentum, decay = 0.02, 0.9, 0.3
    ours = matrices()
    gradients = gradients_of(ours)
    options = {"lr": lr, "momentum": momentum, "weight_decay": decay}
    take_steps(for_matrices(ours, **options, adjust=adjust, nesterov=nesterov), ours, gradients)
    for number, (name, parameter) in enumerate(matrices().items()):
        expected, buffer = parameter.detach().double(), torch.zeros(MATRICES[name], dtype=torch.float64)
        A, B = expected.shape
        scale = 0.2 * max(A, B) ** 0.5 if adjust == "match_rms_adamw" else max(1.0, A / B) ** 0.5
        for step in gradients:
            gradient = step[number].double()
            buffer = momentum * buffer + (1 - momentum) * gradient
            update = orthogonal((1 - momentum) * gradient + momentum * buffer if nesterov else buffer, steps=5)
            expected = expected * (1 - lr * decay) - lr * scale * update
        torch.testing.assert_close(ours[name].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("in_bf16")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("shapes", [MATRICES, LONG], ids=["short", "long"])
def test_muon_is_torchs_up_to_the_rounding_of_bf16(
    shapes: dict[str, tuple[int, int]], adjust: str, nesterov: bool
) -> None:
    ours, theirs = matrices(shapes), matrices(shapes)
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "nesterov": nesterov}
    gradients = gradients_of(ours)
    take_steps(for_matrices(ours, **options, adjust=adjust), ours, gradients)
    take_steps(torch.optim.Muon(theirs.values(), **options, adjust_lr_fn=adjust), theirs, gradients)
    assert distance(ours, theirs, matrices(shapes)) < 0.003


@pytest.mark.parametrize("shapes", [MATRICES, LONG], ids=["short", "long"])
def test_muon_moves_matrices_in_bf16_much_as_in_fp32(
    shapes: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(muon, "product_dtype", lambda device, dtype=dtype: dtype)
        ended[dtype] = matrices(shapes)
        take_steps(for_matrices(ended[dtype]), ended[dtype], gradients_of(ended[dtype]))
    assert 0 < distance(*ended.values(), matrices(shapes)) < 0.01


def test_muon_leaves_the_rest_to_adamw() -> None:
    ours, theirs = parameters(), parameters()
    built = Muon(others=AdamW(**OPTIONS)).build(groups(ours))
    reference = AdamW(**OPTIONS).build([group for group in groups(theirs) if group["role"] != "matrix"])
    gradients = drawn_gradients()
    take_steps(built, ours, gradients)
    take_steps(reference, theirs, gradients)
    for role in ("embedding", "head", "vector"):
        torch.testing.assert_close(ours[role], theirs[role], rtol=1e-6, atol=1e-7)


class Products(TorchDispatchMode):
    """Counts the products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] += name in ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "einsum")
        return func(*args, **(kwargs or {}))


def products(optimizer: torch.optim.Optimizer, of: dict[str, nn.Parameter]) -> int:
    with Products() as counted:
        take_steps(optimizer, of, gradients_of(of, steps=1))
    return counted.counts.total()


def test_muon_multiplies_all_matrices_of_one_shape_at_once() -> None:
    one, many, mixed = matrices({"a": (7, 5)}), matrices(dict.fromkeys("abcdefg", (7, 5))), matrices()
    assert products(torch.optim.Muon(many.values()), many) == 7 * 3 * 5  # the counter sees what there is
    assert products(for_matrices(one), one) == 3 * 5
    assert products(for_matrices(many), many) == 3 * 5
    assert products(for_matrices(mixed), mixed) == len(set(MATRICES.values())) * 3 * 5


FUSED = {"equal": (4, 4, 4), "fewer_keys": (6, 2, 2), "equal_2": (4, 4, 4), "wide_values": (3, 3, 11)}  # rows


def fused_and_apart() -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Matrices of 5 columns that are several in one, and their parts by themselves."""
    fused = matrices({name: (sum(rows), 5) for name, rows in FUSED.items()})
    apart = {
        f"{name}.{index}": nn.Parameter(part.clone())
        for name, rows in FUSED.items()
        for index, part in enumerate(fused[name].detach().split(rows))
    }
    return fused, apart


def for_fused(of: dict[str, nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    keys = {"role": "matrix", "lr_multiplier": 1.0, "group": None, "total_steps": 9}
    return Muon(**options).build([{"params": [*of.values()], "names": [*of], "rows": [FUSED[n] for n in of], **keys}])


@pytest.mark.parametrize("precision", ["in_fp32", "in_bf16"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
def test_muon_updates_queries_keys_and_values_as_torchs_does_three_matrices(
    adjust: str, nesterov: bool, precision: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(precision)
    fused, apart = fused_and_apart()
    before = {name: p.detach().clone() for name, p in apart.items()}
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "nesterov": nesterov}
    gradients = gradients_of(fused)
    split = [
        [part for one, rows in zip(step, FUSED.values(), strict=True) for part in one.split(rows)] for step in gradients
    ]
    take_steps(for_fused(fused, **options, adjust=adjust), fused, gradients)
    if precision == "in_fp32":  # torch's is in bf16 always
        reference = for_matrices(apart, **options, adjust=adjust)
    else:
        reference = torch.optim.Muon(apart.values(), **options, adjust_lr_fn=adjust)
    take_steps(reference, apart, split)
    found = {
        f"{name}.{index}": part
        for name, rows in FUSED.items()
        for index, part in enumerate(fused[name].detach().split(rows))
    }
    assert distance(found, apart, before) < (1e-5 if precision == "in_fp32" else 0.004)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [(12,), (4, 4, 4), (8, 2, 2)])
def test_a_rank_may_have_none_of_the_matrices(rows: tuple[int, ...]) -> None:
    """Where fewer are exchanged than there are ranks."""
    group = Muon().build([{"params": [nn.Parameter(torch.zeros(12, 5))], "role": "matrix"}]).param_groups[0]
    assert muon.orthogonalize_parts(torch.zeros(0, 12, 5), rows, group).shape == (0, 12, 5)


def test_muon_multiplies_the_parts_of_one_size_at_once() -> None:
    fused, _ = fused_and_apart()
    assert products(for_fused(fused), fused) == (1 + 2 + 2) * 3 * 5  # 4 4 4 twice; 6, 2 2; 3 3, 11


@pytest.mark.usefixtures("in_fp32")
def test_muon_takes_large_matrices_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = matrices(), matrices()
    take_steps(for_matrices(whole), whole, gradients_of(whole))
    monkeypatch.setattr(muon, "BATCH_ELEMENTS", 2 * 7 * 5 + 1)  # two tall ones, the third; one of the others
    built = for_matrices(parts)
    assert products(built, parts) == (2 + 2 + 1) * 3 * 5
    parts = matrices()
    take_steps(for_matrices(parts), parts, gradients_of(parts))
    assert distance(parts, whole, matrices()) < 1e-4


@pytest.mark.parametrize("precision", ["in_fp32", "in_bf16"])
@pytest.mark.parametrize("threads", [2, 3])
def test_muon_moves_matrices_the_same_with_any_number_of_threads(
    threads: int, precision: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(precision)
    alone, divided = parameters(), parameters()
    gradients = drawn_gradients()
    with limited_threads(1):
        take_steps(Muon().build(groups(alone)), alone, gradients)
    with limited_threads(threads):
        take_steps(Muon().build(groups(divided)), divided, gradients)
    assert all(torch.equal(divided[role], parameter) for role, parameter in alone.items())
    alone, divided = fused_and_apart()[0], fused_and_apart()[0]
    before = {name: p.detach().clone() for name, p in alone.items()}
    gradients = gradients_of(alone)
    with limited_threads(1):
        take_steps(for_fused(alone), alone, gradients)
    with limited_threads(threads):
        take_steps(for_fused(divided), divided, gradients)
    assert distance(divided, alone, before) < 1e-5  # type: ignore[arg-type]


def test_muon_keeps_nothing_of_a_matrix_without_gradient_and_moves_its_equals() -> None:
    ours, others = matrices(), matrices()
    gradients, names = gradients_of(ours), list(ours)
    idle, at = ours["tall_2"], names.index("tall_2")
    built = for_matrices(ours)
    for step in gradients:
        for name, gradient in zip(names, step, strict=True):
            ours[name].grad = None if ours[name] is idle else gradient.clone()
        built.step()
    del others["tall_2"]
    take_steps(for_matrices(others), others, [step[:at] + step[at + 1 :] for step in gradients])
    assert idle not in built.state
    assert torch.equal(idle, matrices()["tall_2"])
    assert all(torch.equal(ours[name], other) for name, other in others.items())


@pytest.mark.parametrize("kind", [muon.BatchedMuon, torch.optim.Muon])
def test_muon_goes_on_from_its_checkpoint_to_the_bit_and_from_torchs(kind: type[torch.optim.Muon]) -> None:
    whole = matrices()
    gradients = gradients_of(whole)
    options = {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.2, "nesterov": False, "ns_steps": 3}
    first = kind(whole.values(), **options, adjust_lr_fn="original")
    take_steps(first, whole, gradients[:9])
    resumed = {name: nn.Parameter(p.detach().clone()) for name, p in whole.items()}
    second = muon.BatchedMuon(resumed.values())  # its options are in the checkpoint
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(first, whole, gradients[9:])
    take_steps(second, resumed, gradients[9:])
    assert second.state_dict()["param_groups"] == first.state_dict()["param_groups"]
    for name, parameter in whole.items():
        momentum, expected = (o.state[p]["momentum_buffer"] for o, p in ((second, resumed[name]), (first, parameter)))
        if kind is muon.BatchedMuon:
            assert torch.equal(resumed[name], parameter)
            assert torch.equal(momentum, expected)
        else:  # whose products are rounded otherwise
            torch.testing.assert_close(momentum, expected)
    assert distance(resumed, whole, matrices()) < 0.02


@pytest.mark.parametrize("made", ["matrices", "fused"])
def test_muon_moves_matrices_in_parts_as_whole_ones(tmp_path: Path, made: str) -> None:
    from torch import distributed
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    starts, built_for = {"matrices": (matrices, for_matrices), "fused": (lambda: fused_and_apart()[0], for_fused)}[made]
    whole = starts()
    gradients = gradients_of(whole)
    take_steps(built_for(whole), whole, gradients)
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        spread = {name: nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for name, p in starts().items()}
        laid_out = [[distribute_tensor(gradient, mesh, [Shard(0)]) for gradient in step] for step in gradients]
        built = built_for(spread)
        take_steps(built, spread, laid_out)
        for name, parameter in spread.items():
            momentum = built.state[parameter]["momentum_buffer"]
            assert isinstance(momentum, DTensor)
            assert momentum.placements == (Shard(0),)
            if made == "matrices":
                assert torch.equal(parameter.full_tensor(), whole[name])
            else:  # whose parts' scales are rounded otherwise
                torch.testing.assert_close(parameter.full_tensor(), whole[name].detach(), rtol=0, atol=1e-5)
    finally:
        distributed.destroy_process_group()


def test_muon_leaves_what_is_no_matrix_of_two_dimensions_to_the_other() -> None:
    kernel = nn.Parameter(torch.randn(4, 3, 2))
    built = Muon().build([{"params": [kernel], "role": "matrix", "lr_multiplier": 1.0}])
    (only,) = built.parts
    assert isinstance(only, torch.optim.AdamW)


def test_muon_updates_flat_matrices_and_leaves_stacks_of_them_to_the_others() -> None:
    flat, stack = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(3, 6, 4))
    built = Muon(lr=0.5, others=AdamW(lr=0.25)).build(
        [{"params": [stack, flat], "role": "matrix", "lr_multiplier": 1.0}]
    )
    assert [(group["lr"], group["params"]) for group in built.param_groups] == [(0.5, [flat]), (0.25, [stack])]
