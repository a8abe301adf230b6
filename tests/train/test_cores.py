"""Windows split among threads: one thread's gradients, the same bits every time, nothing called that must not be."""

from __future__ import annotations

import copy
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.components.optimizer.muon import BatchedMuon
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Model, ModelContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import cores, session
from nanogpt_kit.train.cores import CoreAllocation, ThreadedModel

pytestmark = pytest.mark.usefixtures("with_dropout")
CPU: dict[str, Any] = {"device": "cpu", "world_size": 1, "splits": ("train", "val"), "block_size": 16}
TWO = ("train.threads=2", "train.batch_tokens=112", "train.micro_batch_size=5")  # 5 and 2 windows
VOCAB = 61


@pytest.fixture
def split_however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "MIN_SECONDS_PER_CHUNK", 1e-12)


def chosen(tiny: Path, *overrides: str, precision: str = "fp32", **changes: Any) -> CoreAllocation:
    return CoreAllocation.choose(
        Experiment.load(tiny, overrides), RunContext(precision=precision, **{**CPU, **changes}), 257
    )


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (1, CoreAllocation(1, 1, 1)),
        (2, CoreAllocation(2, 1, 1)),
        (4, CoreAllocation(4, 1, 1)),
        (5, CoreAllocation(3, 1, 1)),
        (1_000_000, CoreAllocation(4, 2, 8)),
    ],
)
def test_windows_are_split_before_operations_are(
    tiny: Path, eight_cores: None, split_however_small: None, windows: int, expected: CoreAllocation
) -> None:
    options = ["model.dropout=0.0", f"train.batch_tokens={16 * windows}", f"train.micro_batch_size={windows}"]
    assert chosen(tiny, *options) == expected
    assert chosen(tiny, *options, "train.threads=1") == CoreAllocation(1, 1, 1)


def test_small_passes_are_not_split(tiny: Path, eight_cores: None) -> None:
    options = ["model.dropout=0.0", "train.batch_tokens=64", "train.micro_batch_size=4"]
    assert chosen(tiny, *options) == CoreAllocation(1, 1, 1)
    assert chosen(tiny, *options, "model.n_embd=384", "model.n_layer=6", "model.block_size=64").chunks == 1  # 1 window
    wide = chosen(tiny, "model.dropout=0.0", "model.n_embd=384", "model.n_layer=6", "train.micro_batch_size=5")
    assert wide.chunks == 3


@pytest.mark.parametrize(("threads", "windows", "taken"), [(5, 12, 4), (6, 12, 6), (7, 12, 6), (16, 5, 15), (3, 4, 2)])
def test_small_models_use_few_threads(
    tiny: Path, split_however_small: None, threads: int, windows: int, taken: int
) -> None:
    options = (f"train.batch_tokens={16 * windows}", f"train.micro_batch_size={windows}", f"train.threads={threads}")
    found = chosen(tiny, "model.dropout=0.0", *options)
    assert found.chunks * found.threads == taken


def test_all_threads_are_used_where_their_number_is_set(
    tiny: Path, eight_cores: None, split_however_small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["model.dropout=0.0", "train.batch_tokens=32", "train.micro_batch_size=2"]
    assert chosen(tiny, *options, "train.threads=6") == CoreAllocation(2, 3, 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert chosen(tiny, *options) == CoreAllocation(2, 4, 8)


DERIVED = """\
from nanogpt_kit.components.mlp.gelu import GELU


class Mine(GELU):
    def build(self, ctx):
        return super().build(ctx)
"""

COUNTING = """\
from torch import nn
from nanogpt_kit.api import MLP


class Counting(MLP):
    def build(self, ctx):
        return Module(ctx.n_embd)


class Module(nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)
"""


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("train.activation_checkpointing=true", "activation checkpointing"),
        ("model.mlp=counting", "h.0.mlp.calls"),
        ("model.attention=flex", "backward"),
        ("model.attention={use='sdpa', backend='flash'}", "settings of the whole process"),
        ("train.threads=1", ""),
    ],
)
def test_unsafe_networks_are_not_split_and_the_reason_is_logged(
    tiny: Path, eight_cores: None, split_however_small: None, option: str, why: str
) -> None:
    (tiny.parent / "counting.py").write_text(COUNTING, encoding="utf-8")
    cores = chosen(tiny, "model.dropout=0.0", "components=['counting.py']", option)
    assert cores.chunks == 1
    assert why in cores.unsplit_reason
    assert cores.unsplit_reason in str(cores)


@pytest.mark.parametrize("option", ["model.mlp=mine", "parallel=ddp", "model.document_mask=true"])
def test_safe_networks_are_split_without_a_message(
    tiny: Path, eight_cores: None, split_however_small: None, option: str
) -> None:
    (tiny.parent / "mine.py").write_text(DERIVED, encoding="utf-8")
    assert chosen(tiny, "model.dropout=0.0", "components=['mine.py']", option).chunks > 1


def test_processes_and_gpus_split_by_themselves(tiny: Path, eight_cores: None, split_however_small: None) -> None:
    assert chosen(tiny, "model.dropout=0.0", world_size=2).chunks == 1
    assert chosen(tiny, "model.dropout=0.0", device="cuda") == CoreAllocation(1, 8, 8)


class Alone:
    """As `single` spreads a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.threads: set[int] = set()

    def __call__(self, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        self.threads.add(threading.get_ident())
        if (ids == VOCAB - 1).all():
            raise MemoryError("no room for this share")
        more = {} if segments is None else {"segments": segments}
        loss: Tensor = self.model(ids, targets, **more)
        return loss

    sync: Any = None
    clip: Any = None


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    options = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "position": "rope", "weight_tying": True}
    component: Any = Registry.installed().load(Model, "gpt").model_validate(options)
    built: nn.Module = component.build(ModelContext(vocab_size=VOCAB))
    return built


def gradients(model: nn.Module, spread: Any, batch: list[Tensor | None], passes: int = 3) -> list[Tensor]:
    """The loss and all gradients, added up over some passes."""
    model.zero_grad()
    for _ in range(passes):
        loss = spread(*batch)
        (loss / 7).backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [loss.detach(), *(gradient.clone() for gradient in found)]


@pytest.mark.parametrize("with_segments", [False, True])
@pytest.mark.parametrize("chunks", [2, 3, 4])
@pytest.mark.parametrize("windows", [1, 2, 7])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_chunks_have_the_gradients_of_the_whole(
    model: nn.Module, with_segments: bool, chunks: int, windows: int, precision: torch.dtype
) -> None:
    ids = torch.randint(0, VOCAB - 1, (windows, 12))
    segments = torch.randint(0, 2, (windows, 12)).cumsum(dim=1) if with_segments else None
    batch = [ids, ids.roll(-1, 1), segments]
    other = copy.deepcopy(model)
    shared, counted = ThreadedModel(Alone(model), model, chunks), Alone(other)
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        found, expected = gradients(model, shared, batch), gradients(other, counted, batch)
        again = gradients(model, shared, batch)
    close = {"rtol": 2e-2, "atol": 2e-2} if precision == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    for one, same, whole in zip(found, again, expected, strict=True):
        torch.testing.assert_close(one, whole, **close)
        assert torch.equal(one, same)  # in whatever order threads were done


def test_threads_split_the_batch_unless_parameters_have_hooks(model: nn.Module) -> None:
    ids = torch.randint(0, VOCAB - 1, (4, 12))
    alone = Alone(model)
    shared = ThreadedModel(alone, model, 2)
    first = gradients(model, shared, [ids, ids], passes=1)
    assert alone.threads == {threading.get_ident()}  # a compiler would be at work now
    second = gradients(model, shared, [ids, ids], passes=1)
    assert len(alone.threads) == 2
    alone.threads.clear()
    handle = next(model.children()).register_forward_hook(lambda *_: None)
    watched = gradients(model, shared, [ids, ids], passes=1)
    assert alone.threads == {threading.get_ident()}
    handle.remove()
    for one, other, third in zip(first, second, watched, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def test_a_parameter_without_a_part_in_the_loss_gets_no_gradient(model: nn.Module) -> None:
    model.register_parameter("idle", nn.Parameter(torch.ones(3)))
    ids = torch.randint(0, VOCAB - 1, (4, 12))
    gradients(model, ThreadedModel(Alone(model), model, 2), [ids, ids])
    assert model.get_parameter("idle").grad is None


def test_what_is_frozen_meanwhile_gets_no_gradient_and_what_is_freed_gets_its_own(model: nn.Module) -> None:
    ids = torch.randint(0, VOCAB - 1, (4, 12))
    shared, other = ThreadedModel(Alone(model), model, 2), copy.deepcopy(model)
    gradients(model, shared, [ids, ids])
    for trained in (False, True):
        for one in (model, other):
            next(iter(one.h)).requires_grad_(trained)  # type: ignore[arg-type, call-overload]
        found, expected = gradients(model, shared, [ids, ids]), gradients(other, Alone(other), [ids, ids])
        for share, whole in zip(found, expected, strict=True):
            torch.testing.assert_close(share, whole, rtol=1e-4, atol=1e-5)


def test_hooks_of_parameters_see_whole_gradients(model: nn.Module) -> None:
    ids = torch.randint(0, VOCAB - 1, (4, 12))
    shared, seen = ThreadedModel(Alone(model), model, 2), []
    gradients(model, shared, [ids, ids], passes=1)
    weight: Any = next(model.parameters())
    weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad.clone()))
    _, found, *_ = gradients(model, shared, [ids, ids], passes=1)
    (told,) = seen
    assert torch.equal(told, found)


class Looped(nn.Module):
    """A layer that is used again and again, and two parameters whose gradients are one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 32)
        self.layer = nn.Linear(32, 32)
        self.a, self.b = (nn.Parameter(torch.zeros(32)) for _ in range(2))

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(6):
            x = self.layer(x)
        if ids[0, 0] == 0:  # of a later share
            x = x + (self.a + self.b)
        return x.float().square().sum()


def test_layers_used_again_have_the_same_bits_in_bf16_too() -> None:
    torch.manual_seed(0)
    model = Looped()
    shared = ThreadedModel(Alone(model), model, 2)
    ids = torch.randint(1, VOCAB - 1, (6, 64))
    ids[3:] = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = gradients(model, shared, [ids, ids], passes=2)
        for _ in range(100):
            assert all(map(torch.equal, gradients(model, shared, [ids, ids], passes=2), first))
    assert isinstance(model.a.grad, Tensor)
    assert isinstance(model.b.grad, Tensor)
    assert model.a.grad.data_ptr() != model.b.grad.data_ptr()


def test_the_error_of_any_chunk_is_raised(model: nn.Module) -> None:
    shared = ThreadedModel(Alone(model), model, 2)
    fine = torch.zeros(4, 12, dtype=torch.int64)
    for rows in (slice(0, 2), slice(2, 4)):
        shared(fine, fine)
        broken = fine.clone()
        broken[rows] = VOCAB - 1
        with pytest.raises(MemoryError, match="no room for this share"):
            shared(broken, fine)


def run(tiny: Path, *overrides: str, resume: str | None = None) -> RunFolder:
    return session.run(Experiment.load(tiny, ["callback=[]", "sample.num_samples=0", *TWO, *overrides]), resume=resume)


def losses(folder: RunFolder) -> list[float]:
    return [
        line["train/loss"] for line in map(json.loads, folder.metrics.read_text().splitlines()) if "train/loss" in line
    ]


def test_a_split_run_is_logged_exact_and_resumes_bit_for_bit(
    tiny: Path, split_however_small: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "nanogpt_kit.train.summary")
    whole = run(tiny)
    assert "batch: split in 2 parts, a thread for each" in [record.message for record in caplog.records]
    machine = json.loads((whole.path / "provenance.json").read_text())["machine"]
    assert (machine["threads"], machine["chunks"]) == (2, 2)
    part = run(tiny, "train.steps=10", "schedule.use=constant")
    assert losses(run(tiny)) == losses(whole)
    one = losses(run(tiny, "train.threads=1"))
    assert one != losses(whole)  # other sums,
    assert one == pytest.approx(losses(whole), rel=1e-3)  # of the same gradients, with the same dropout
    reference = run(tiny, "train.steps=14", "schedule.use=constant")
    resumed = run(tiny, "train.steps=14", "schedule.use=constant", resume=str(part.path))
    assert losses(resumed) == losses(reference)


def test_the_threads_of_a_run_share_the_step_of_muon_and_it_resumes_bit_for_bit(
    tiny: Path, split_however_small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = ("optimizer=muon", "train.steps=14", "schedule.use=constant")
    part = run(tiny, *alike, "train.steps=10")
    found: list[set[int]] = []
    update = BatchedMuon.update

    def noted(self: BatchedMuon, *arguments: Any) -> None:
        found[-1].add(threading.get_ident())
        if len(found[-1]) == 1:  # the thread with the first call waits until another one has a call too
            deadline = time.monotonic() + 20
            while len(found[-1]) == 1 and time.monotonic() < deadline:
                time.sleep(0.001)
        update(self, *arguments)

    def updates(self: BatchedMuon, threads: int = 1) -> Any:
        found.append(set())
        return all_updates(self, threads)

    all_updates = BatchedMuon.updates
    monkeypatch.setattr(BatchedMuon, "update", noted)
    monkeypatch.setattr(BatchedMuon, "updates", updates)
    whole = run(tiny, *alike)
    assert [len(threads) for threads in found] == [2] * 14
    assert losses(run(tiny, *alike, resume=str(part.path))) == losses(whole)


def test_watching_changes_nothing_in_a_split_run(tiny: Path, split_however_small: None) -> None:
    watched = run(tiny, 'train.watch=["updates", "activations", "attention"]', "train.log_every_steps=1")
    assert losses(watched) == losses(run(tiny, "train.log_every_steps=1"))
    metrics = json.loads(watched.metrics.read_text().splitlines()[3])
    assert {"activations/max_0", "attention/max_logit_1"} < set(metrics)


def test_the_first_compiled_pass_is_computed_in_turn_after_uncompiled_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 5)
    shared, turns = ThreadedModel(Alone(model), model, 2), []
    real = ThreadedModel.run_all

    def note(self: ThreadedModel, calls: Any, in_turn: bool) -> list[Any]:
        turns.append(in_turn)
        return real(self, calls, True)

    monkeypatch.setattr(ThreadedModel, "run_all", note)
    monkeypatch.setattr(Alone, "__call__", lambda self, ids, targets: model(ids.float()).sum())
    ids = torch.zeros(4, 3, dtype=torch.int64)
    for _ in range(2):
        shared(ids, ids)
    model._compiled_call_impl = model._call_impl  # as nn.Module.compile does
    for _ in range(2):
        shared(ids, ids)
    assert turns == [True, False, True, False]
