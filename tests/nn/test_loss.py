"""The loss from features is torch's own from plain logits, by chunks or at once, and by chunks it stays small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt_kit.nn import loss as loss_module
from nanogpt_kit.nn.loss import linear_cross_entropy

B, T, C, V, ROWS = 2, 7, 5, 11, 16  # V words, ROWS of weight with the padding
N = B * T
IGNORED = -1
CHUNKS = {"at once": ROWS * N, "by single tokens": 1, "by threes": 3 * ROWS, "all but one": (N - 1) * ROWS}
SOFTCAP = 3.0


@pytest.fixture(params=CHUNKS.values(), ids=CHUNKS)
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most logits at a time. N tokens fit in at once; else neither 3 nor N - 1 of them divide N."""
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", request.param)
    return int(request.param)


@pytest.fixture
def by_threes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", CHUNKS["by threes"])


def features(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, T, C, generator=torch.Generator().manual_seed(1), dtype=dtype, requires_grad=True)


def head(rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, C, generator=torch.Generator().manual_seed(2), dtype=dtype, requires_grad=True)


def words(*ignored: int) -> Tensor:
    targets = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(3))
    targets[list(ignored)] = IGNORED
    return targets.view(B, T)


def plain(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """Torch's cross-entropy of logits that are written out, in float64."""
    logits = torch.einsum("btc,vc->btv", x.double(), weight[:V].double())
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def with_gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def assert_close(one: tuple[Tensor, ...], other: tuple[Tensor, ...], tolerance: float = 2e-6) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [1.0, 7.0])
@pytest.mark.parametrize("softcap", [None, SOFTCAP])
@pytest.mark.parametrize("ignored", [[], [0, 3, 4, 5, N - 1], list(range(N))], ids=["none", "some", "all"])
def test_loss_and_gradients_are_those_of_plain_logits(
    chunk: int, ignored: list[int], softcap: float | None, scale: float
) -> None:
    x, weight, targets = features(), head(), words(*ignored)
    loss = linear_cross_entropy(x, weight, targets, V, softcap)
    expected = plain(x, weight, targets, softcap)
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    assert_close(with_gradients(loss * scale, x, weight), with_gradients(expected * scale, x, weight))
    assert (loss.item() == 0) == (len(ignored) == N)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this torch has none")
@pytest.mark.parametrize("ignored", [[], [2, 3]], ids=["none", "some"])
def test_loss_and_gradients_are_those_of_torchs_own_function(chunk: int, ignored: list[int]) -> None:
    x, weight, targets = features(), head(V), words(*ignored)
    options = {"ignore_index": IGNORED, "reduction": "sum"}
    expected = F.linear_cross_entropy(x.flatten(0, 1), weight, targets.flatten(), **options)
    assert_close(
        with_gradients(linear_cross_entropy(x, weight, targets, V), x, weight), with_gradients(expected, x, weight)
    )


@pytest.mark.parametrize("softcap", [None, SOFTCAP])
def test_padded_rows_change_nothing_and_get_no_gradient(chunk: int, softcap: float | None) -> None:
    x, weight, targets = features(), head(), words(3)
    before = with_gradients(linear_cross_entropy(x, weight, targets, V, softcap), x, weight)
    with torch.no_grad():
        weight[V:] = 50.0
    after = with_gradients(linear_cross_entropy(x, weight, targets, V, softcap), x, weight)
    assert_close(after, before, tolerance=0)
    assert (after[2][V:] == 0).all()
    assert (after[2][:V] != 0).any(dim=1).all()


def test_large_logits_stay_finite(chunk: int) -> None:
    x, weight = features(), head()
    got = with_gradients(linear_cross_entropy(1e4 * x, weight, words(), V), x, weight)
    assert_close(got, with_gradients(plain(1e4 * x, weight, words()), x, weight), tolerance=1e-4)


def test_without_gradients_the_loss_is_the_same_and_nothing_more_is_computed(by_threes: None) -> None:
    x, weight, targets = features(), head(), words(3)
    with torch.no_grad(), Watch() as watch:
        loss = linear_cross_entropy(x, weight, targets, V)
    assert not loss.requires_grad
    torch.testing.assert_close(loss.double(), plain(x, weight, targets), rtol=1e-5, atol=0)
    assert watch.products == -(-N // 3), "one product a chunk, that of the logits"


@pytest.mark.parametrize("softcap", [None, SOFTCAP])
def test_what_is_frozen_gets_no_gradient_and_the_other_its_own(chunk: int, softcap: float | None) -> None:
    x, weight, targets = features(), head(), words(3)
    expected = with_gradients(plain(x, weight, targets, softcap), x, weight)
    linear_cross_entropy(x, weight.detach(), targets, V, softcap).backward()
    linear_cross_entropy(x.detach(), weight, targets, V, softcap).backward()
    assert_close((x.grad, weight.grad), expected[1:])
    assert not linear_cross_entropy(x.detach(), weight.detach(), targets, V, softcap).requires_grad


def test_a_frozen_side_costs_no_product(by_threes: None) -> None:
    x, weight, targets = features(), head(), words(3)
    products = {}
    for name, sides in {
        "both": (x, weight),
        "features": (x, weight.detach()),
        "weight": (x.detach(), weight),
    }.items():
        with Watch() as watch:
            linear_cross_entropy(*sides, targets, V).backward()
        products[name] = watch.products
    chunks = -(-N // 3)
    assert products == {"both": 3 * chunks, "features": 2 * chunks, "weight": 2 * chunks}


def test_gradients_add_up_over_several_backward_passes(chunk: int) -> None:
    x, weight, targets = features(), head(), words(3)
    expected = with_gradients(plain(x, weight, targets), x, weight)
    loss = linear_cross_entropy(x, weight, targets, V)
    loss.backward(retain_graph=True)
    (2 * loss).backward()
    assert_close((x.grad / 3, weight.grad / 3), expected[1:])


@pytest.mark.parametrize("softcap", [None, SOFTCAP])
@pytest.mark.parametrize("features_in_short", [False, True], ids=["fp32 features", "bf16 features"])
def test_under_autocast_chunks_are_as_near_as_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, features_in_short: bool
) -> None:
    x, weight, targets = features(torch.bfloat16 if features_in_short else torch.float32), head(), words(3)
    exact = with_gradients(plain(x, weight, targets, softcap), x, weight)
    errors = []
    for limit in (CHUNKS["at once"], CHUNKS["by threes"]):
        monkeypatch.setattr(loss_module, "CHUNK_LOGITS", limit)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = linear_cross_entropy(x, weight, targets, V, softcap)
        got = with_gradients(loss, x, weight)
        assert [part.dtype for part in got] == [torch.float32, x.dtype, torch.float32]
        errors.append([float((a.double() - b).norm() / b.norm()) for a, b in zip(got, exact, strict=True)])
    for at_once, chunked in zip(*errors, strict=True):
        assert 0 < at_once < 5e-3, "so bfloat16 it is"
        assert at_once / 3 < chunked < 1.1 * at_once + 1e-6


def test_under_fp16_the_loss_scale_reaches_the_gradients(chunk: int) -> None:
    x, weight, targets = features(), head(), words(3)
    expected = with_gradients(plain(x, weight, targets), x, weight)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = linear_cross_entropy(x, weight, targets, V)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaler.scale(loss).backward()
    got = (loss.detach(), x.grad / 2.0**10, weight.grad / 2.0**10)
    for a, b in zip(got, expected, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 3e-3


class Watch(TorchDispatchMode):
    """What the operations within allocate, counted rather than measured: the largest tensor, the peak of all that
    live at a time, the matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.peak = self.products = 0  # elements, bytes, calls
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                held = StorageWeakRef(storage)
                self.live[held.cdata] = (held, storage.nbytes())
                self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
        self.live = {key: held for key, held in self.live.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


@pytest.mark.parametrize("softcap", [None, SOFTCAP])
def test_by_chunks_no_tensor_holds_all_logits_and_the_peak_falls_to_a_third(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None
) -> None:
    tokens, size, vocabulary, rows, limit = 512, 24, 8_150, 8_192, 2**18
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, size, generator=generator, requires_grad=True)
    weight = torch.randn(rows, size, generator=generator, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    seen, results = {}, {}
    for way, logits in {"at once": tokens * rows, "by chunks": limit}.items():
        monkeypatch.setattr(loss_module, "CHUNK_LOGITS", logits)
        with Watch() as watch:
            loss = linear_cross_entropy(x, weight, targets, vocabulary, softcap)
            results[way] = with_gradients(loss, x, weight)
        seen[way] = watch
    assert seen["at once"].largest >= tokens * vocabulary, "or this test sees nothing"
    assert seen["by chunks"].largest <= limit
    assert seen["by chunks"].peak <= seen["at once"].peak / 3
    assert_close(results["by chunks"], results["at once"], tolerance=1e-5)


class LargestOfType(TorchDispatchMode):
    """The most elements of a result, by its type."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements[tensor.dtype] = max(self.elements.get(tensor.dtype, 0), tensor.numel())
        return result


@pytest.mark.parametrize("softcap", [None, SOFTCAP])
def test_in_bf16_only_a_block_of_logits_is_in_fp32(monkeypatch: pytest.MonkeyPatch, softcap: float | None) -> None:
    tokens, size, rows, chunk = 96, 2, 8_192, 32  # 16,384 weights, fewer than the logits of a block
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", chunk * rows)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, size, generator=generator, requires_grad=True)
    weight = torch.randn(rows, size, generator=generator, requires_grad=True)
    targets = torch.randint(0, rows, (tokens,), generator=generator)
    with LargestOfType() as largest, torch.autocast("cpu", dtype=torch.bfloat16):
        linear_cross_entropy(x, weight, targets, rows, softcap).backward()
    assert largest.elements[torch.bfloat16] == chunk * rows
    assert largest.elements[torch.float32] == chunk // loss_module.BLOCKS * rows


@pytest.mark.parametrize(
    ("rows", "device", "size", "block"),
    [(50_304, "cpu", 768, 96), (50_304, "cuda", 5_376, 672), (256_000, "cpu", 131, 17), (2**26, "cpu", 1, 1)],
)
def test_large_chunks_are_multiples_of_a_tile_and_larger_on_a_gpu(
    rows: int, device: str, size: int, block: int
) -> None:
    assert loss_module.chunk_and_block(rows, device) == (size, block)


def test_a_chunk_is_smaller_than_a_batch_of_gpt2() -> None:
    assert loss_module.CHUNK_LOGITS * 10 < 8 * 1024 * 50_304


PEAK = """\
import sys

import torch

from nanogpt_kit.nn import loss as loss_module

way, path = sys.argv[1:]
if way == "at once":
    loss_module.CHUNK_LOGITS = 2**62


def resident(what):
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith(what))  # MiB


torch.manual_seed(0)
x = torch.randn(8, 1024, 768, requires_grad=True)
weight = torch.nn.Parameter(torch.randn(50_304, 768) * 0.02)
targets = torch.randint(0, 50_257, (8, 1024))
(x[:, :2] @ weight[:64].T).sum().backward()  # torch's own buffers
x.grad = weight.grad = None
before = resident("VmRSS")
loss = loss_module.linear_cross_entropy(x, weight, targets, 50_257) / targets.numel()
loss.backward()
peak = resident("VmHWM") - before
torch.save({"peak": peak, "loss": loss.detach(), "x": x.grad, "weight": weight.grad}, path)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read where Linux tells it")
def test_head_and_loss_of_a_gpt2_batch_take_a_third_of_the_memory_or_less(tmp_path: Path) -> None:
    found = {}
    for way in ("at once", "by chunks"):
        path = tmp_path / f"{way}.pt"
        subprocess.run([sys.executable, "-c", PEAK, way, str(path)], check=True)
        found[way] = torch.load(path)
    one, other = found["at once"], found["by chunks"]
    assert one["peak"] > 8 * 1024 * 50_304 * 4 / 2**20, "the logits alone"
    assert other["peak"] <= one["peak"] / 3
    for name in ("loss", "x", "weight"):
        difference = (one[name].double() - other[name].double()).abs().max() / one[name].abs().max()
        assert difference < 1e-5, name


@pytest.mark.parametrize("target", [-100, 11, 12, 16])
@pytest.mark.parametrize("chunk", [2**25, 32], ids=["plain", "chunked"])
def test_a_target_outside_the_vocabulary_is_refused_either_way(
    monkeypatch: pytest.MonkeyPatch, chunk: int, target: int
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", chunk)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        linear_cross_entropy(torch.randn(4, 5), torch.randn(16, 5), torch.tensor([3, target, 2, 1]), 11)
