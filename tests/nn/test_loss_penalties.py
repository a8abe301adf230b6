"""Label smoothing and z-loss: torch's own by float64 logits, in the pass that computes the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt_kit.components.loss.cross_entropy import CrossEntropy
from nanogpt_kit.core.kinds import LayerContext
from nanogpt_kit.nn import loss as loss_module
from nanogpt_kit.nn.loss import linear_cross_entropy, regularized_cross_entropy
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.testing.conformance import ignore_torch_warnings

N, C, V, ROWS = 14, 5, 11, 16  # tokens, features, words, rows of the weight with the padding
IGNORED = -1
CHUNKS = {"at once": ROWS * N, "by single tokens": 1, "by threes": 3 * ROWS}
SOFTCAP = 3.0
NUMBERS = {
    "label smoothing": {"label_smoothing": 0.3},
    "z-loss": {"z_loss": 0.2},
    "both": {"label_smoothing": 0.15, "z_loss": 0.07},
}
CONTEXT = LayerContext(n_embd=C, n_head=1, n_kv_head=1, head_dim=C, n_layer=2, block_size=7, dropout=0.0, bias=True)

by_softcap = pytest.mark.parametrize("softcap", [None, SOFTCAP])
by_numbers = pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)


@pytest.fixture(params=CHUNKS.values(), ids=CHUNKS)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most logits at a time."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", request.param)
    return int(request.param)


def features() -> Tensor:
    return torch.randn(2, N // 2, C, generator=torch.Generator().manual_seed(1), requires_grad=True)


def head() -> Tensor:
    return torch.randn(ROWS, C, generator=torch.Generator().manual_seed(2), requires_grad=True)


def words(*ignored: int) -> Tensor:
    targets = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(3))
    targets[list(ignored)] = IGNORED
    return targets.view(2, N // 2)


def torchs_own(
    x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, what label smoothing adds, what z-loss adds), by float64 logits that are written out."""
    logits = x.double().flatten(0, 1) @ weight[:V].double().T
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    options = {"ignore_index": IGNORED, "reduction": "sum"}
    loss = F.cross_entropy(logits, targets.flatten(), **options)
    smoothed = F.cross_entropy(logits, targets.flatten(), label_smoothing=label_smoothing, **options)
    z = torch.logsumexp(logits, dim=1)[targets.flatten() != IGNORED]
    return loss, smoothed - loss, z_loss * z.square().sum()


def gradients(objective: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [gradient.double() for gradient in torch.autograd.grad(objective, leaves)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 2e-6) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).detach().abs().max()) <= tolerance * max(1.0, float(other.detach().abs().max()))


@by_softcap
@pytest.mark.parametrize("ignored", [[], [0, 3, 4, 5, N - 1], list(range(N))], ids=["none", "some", "all"])
@by_numbers
def test_each_penalty_and_the_gradient_of_their_sum_are_torchs_own(
    chunk: int, numbers: dict[str, float], ignored: list[int], softcap: float | None
) -> None:
    x, weight, targets = features(), head(), words(*ignored)
    found = regularized_cross_entropy(x, weight, targets, V, softcap, **numbers)
    loss, smoothing, z = torchs_own(x, weight, targets, softcap, **numbers)
    expected = {"label_smoothing": smoothing, "z_loss": z}
    assert list(found.extras) == list(numbers)
    assert_close([found.loss, *found.extras.values()], [loss, *(expected[name] for name in numbers)])
    mine = gradients(7 * found.objective, x, weight)
    assert_close(mine, gradients(7 * (loss + smoothing + z), x, weight))
    assert bool(mine[1].any()) == (len(ignored) < N)


@by_softcap
@by_numbers
def test_the_loss_beside_them_is_the_plain_one_to_the_bit(
    chunk: int, numbers: dict[str, float], softcap: float | None
) -> None:
    x, weight, targets = features(), head(), words(2, 3)
    found = regularized_cross_entropy(x, weight, targets, V, softcap, **numbers)
    assert torch.equal(found.loss, linear_cross_entropy(x, weight, targets, V, softcap).detach())
    assert torch.equal(found.objective, found.loss + sum(found.extras.values()))
    assert not any(value.requires_grad for value in (found.loss, *found.extras.values()))
    assert all((value.dtype, value.shape) == (torch.float32, ()) for value in (*found[:2], *found.extras.values()))


@by_softcap
def test_padding_changes_nothing_and_gets_no_gradient(chunk: int, softcap: float | None) -> None:
    x, weight, targets = features(), head(), words(3)
    before = regularized_cross_entropy(x, weight, targets, V, softcap, **NUMBERS["both"])
    expected = gradients(before.objective, x, weight)
    with torch.no_grad():
        weight[V:] = 50.0
    after = regularized_cross_entropy(x, weight, targets, V, softcap, **NUMBERS["both"])
    found = gradients(after.objective, x, weight)
    assert_close([after.loss, *after.extras.values()], [before.loss, *before.extras.values()], tolerance=0)
    assert_close(found, expected, tolerance=0)
    assert not found[1][V:].any()


@by_numbers
def test_without_gradients_the_values_are_the_same(chunk: int, numbers: dict[str, float]) -> None:
    x, weight, targets = features(), head(), words(3, 4)
    with torch.no_grad():
        found = regularized_cross_entropy(x, weight, targets, V, None, **numbers)
    expected = regularized_cross_entropy(x, weight, targets, V, None, **numbers)
    assert not found.objective.requires_grad
    assert_close([found.objective, *found.extras.values()], [expected.objective, *expected.extras.values()])


@by_numbers
def test_under_autocast_values_and_gradients_are_as_near_as_the_plain_loss(
    chunk: int, numbers: dict[str, float]
) -> None:
    x, weight, targets = features(), head(), words(3)
    loss, smoothing, z = torchs_own(x, weight, targets, None, **numbers)
    exact = [loss + smoothing + z, *gradients(loss + smoothing + z, x, weight)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = regularized_cross_entropy(x, weight, targets, V, None, **numbers)
    assert all(value.dtype == torch.float32 for value in (*found[:2], *found.extras.values()))
    for one, other in zip([found.objective, *gradients(found.objective, x, weight)], exact, strict=True):
        assert 0 < float(((one - other).norm() / other.norm()).detach()) < 6e-3


def test_under_fp16_the_loss_scale_reaches_the_gradients(chunk: int) -> None:
    x, weight, targets = features(), head(), words(3)
    expected = gradients(sum(torchs_own(x, weight, targets, None, **NUMBERS["both"])), x, weight)
    with torch.autocast("cpu", dtype=torch.float16):
        found = regularized_cross_entropy(x, weight, targets, V, None, **NUMBERS["both"])
    for one, other in zip(gradients(2.0**10 * found.objective, x, weight), expected, strict=True):
        assert float((one / 2.0**10 - other).norm() / other.norm()) < 3e-3


class Operations(TorchDispatchMode):
    """The operations within, by name, and the elements of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.append(func.name())
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result

    def count(self, *names: str) -> int:
        return sum(self.names.count(f"aten::{name}") for name in names)


def operations_of(loss: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Operations:
    with Operations() as watched:
        objective = TrainingLoss.of(loss(x, weight, targets, V, SOFTCAP)).objective
        torch.autograd.grad(objective, [x, weight])
    return watched


def test_by_default_the_operations_are_those_of_the_plain_loss(chunk: int) -> None:
    arguments = features(), head(), words(3)
    component = operations_of(CrossEntropy().build(CONTEXT), *arguments)
    assert component.names == operations_of(linear_cross_entropy, *arguments).names
    assert isinstance(CrossEntropy().build(CONTEXT)(*arguments, V, None), Tensor)


def test_penalties_cost_no_other_product_and_no_other_sum_of_exponentials(chunk: int) -> None:
    arguments = features(), head(), words(3)
    plain = operations_of(linear_cross_entropy, *arguments)
    both = operations_of(CrossEntropy(**NUMBERS["both"]).build(CONTEXT), *arguments)
    for one in (("mm", "addmm"), ("logsumexp", "_log_softmax"), ("exp", "exp_"), ("_softmax",)):
        assert both.count(*one) == plain.count(*one), one
    assert plain.count("mm", "addmm") >= 3


def test_by_chunks_no_tensor_holds_more_logits_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", CHUNKS["by threes"])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 7, 2, generator=generator, requires_grad=True)  # 28 elements, fewer than those of a chunk
    weight = torch.randn(ROWS, 2, generator=generator, requires_grad=True)
    watched = operations_of(CrossEntropy(**NUMBERS["both"]).build(CONTEXT), x, weight, words(3))
    assert watched.largest == CHUNKS["by threes"]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@ignore_torch_warnings
def test_compiled_it_computes_the_same(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    for logits in (CHUNKS["at once"], CHUNKS["by threes"]):
        monkeypatch.setattr(loss_module, "CHUNK_LOGITS", logits)
        torch._dynamo.reset()
        module, (x, weight, targets) = CrossEntropy(**NUMBERS["both"]).build(CONTEXT), (features(), head(), words(3))
        eager = module(x, weight, targets, V, SOFTCAP)
        compiled = torch.compile(module, fullgraph=True, backend=backend)(x, weight, targets, V, SOFTCAP)
        assert isinstance(compiled, TrainingLoss)
        assert list(compiled.extras) == ["label_smoothing", "z_loss"]
        assert_close([*compiled[:2], *compiled.extras.values()], [*eager[:2], *eager.extras.values()])
        assert_close(gradients(compiled.objective, x, weight), gradients(eager.objective, x, weight))


def test_no_smoothing_and_no_z_loss_are_no_extras() -> None:
    x, weight, targets = features(), head(), words(3)
    found = regularized_cross_entropy(x, weight, targets, V)
    assert found.extras == {}
    assert torch.equal(found.objective, linear_cross_entropy(x, weight, targets, V))
