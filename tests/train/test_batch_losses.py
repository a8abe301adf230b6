"""Evaluation computes whole batches in threads: the loss has the same bits for any number of threads and ranks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import ModelContext
from nanogpt_kit.data.batches import Batch, evaluation_batches
from nanogpt_kit.data.split import Split
from nanogpt_kit.train import batch_losses
from nanogpt_kit.train.batch_losses import BatchLosses
from nanogpt_kit.train.precision import Precision

VOCABULARY = 61


@pytest.fixture
def experiment(tiny: Path) -> Experiment:
    return Experiment.load(tiny, ["model.dropout=0.3", "model.n_layer=1"])


@pytest.fixture
def module(experiment: Experiment) -> nn.Module:
    torch.manual_seed(3)
    return experiment.model.build(ModelContext(vocab_size=VOCABULARY)).eval()


def batches(windows: int = 3, **ranks: int) -> Iterator[Batch]:
    ids = np.random.default_rng(5).integers(0, VOCABULARY, 16 * 20 + 7).astype(np.uint16)
    return evaluation_batches(Split(ids, np.zeros(1, np.int64), False), 16, windows, **ranks)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_has_the_same_bits_for_any_number_of_threads(
    module: nn.Module, experiment: Experiment, precision: str
) -> None:
    of_threads = [
        list(BatchLosses(module, experiment.model, Precision(precision, "cpu"), threads).of(batches()))
        for threads in (1, 2, 5)
    ]
    assert of_threads[0] == of_threads[1] == of_threads[2]
    with torch.no_grad(), Precision(precision, "cpu").autocast():
        plain = [module(batch.ids, batch.targets).item() for batch in batches()]
    assert of_threads[0] == pytest.approx(plain, rel=2e-3 if precision == "bf16" else 1e-6)


def test_the_batches_of_two_ranks_are_those_of_one(module: nn.Module, experiment: Experiment) -> None:
    losses = BatchLosses(module, experiment.model, Precision("fp32", "cpu"), 2)
    alone = list(losses.of(batches()))
    ranks = [list(losses.of(batches(rank=rank, world_size=2))) for rank in range(2)]
    together = [loss for pair in zip(*ranks, strict=True) for loss in pair]
    assert together[: len(alone)] == alone
    assert not any(together[len(alone) :])


def test_batches_are_computed_at_once_by_threads_of_one_core_each(
    module: nn.Module, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, counts = threading.Barrier(2, timeout=20), set()
    real = BatchLosses.loss_of

    def meet(self: BatchLosses, batch: Batch) -> float:
        both.wait()  # breaks where one thread would compute both
        counts.add(torch.get_num_threads())
        return real(self, batch)

    monkeypatch.setattr(BatchLosses, "loss_of", meet)
    assert len(list(BatchLosses(module, experiment.model, Precision("bf16", "cpu"), 2).of(batches(11)))) == 2
    assert counts == {1}


def test_where_one_thread_computes_it_is_this_one(
    module: nn.Module, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_pool = list(BatchLosses(module, experiment.model, Precision("bf16", "cpu"), 2).of(batches()))
    monkeypatch.setattr(batch_losses, "single_threads", lambda *_: pytest.fail("it starts threads"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert list(BatchLosses(module, experiment.model, Precision("bf16", "cpu"), 1).of(batches())) == of_pool


def test_large_batches_are_computed_in_parts_that_fit_the_caches(
    module: nn.Module, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = BatchLosses(module, experiment.model, Precision("fp32", "cpu"), 1)
    whole = list(losses.of(batches(11)))
    sizes = []
    module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))  # which also ends the threads
    monkeypatch.setattr(batch_losses, "UNIT_TOKENS", 70)
    assert list(losses.of(batches(11))) == pytest.approx(whole, rel=1e-6)
    assert sizes == [4, 4, 3, 4, 4, 2]


class Counter(nn.Module):
    """A module that must not be called by two threads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return self.weight + self.calls


def test_a_model_that_keeps_state_is_evaluated_by_one_thread_in_order(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_losses, "evaluation_hazard", lambda *_: "its forward pass changes calls")
    losses = BatchLosses(Counter(), experiment.model, Precision("fp32", "cpu"), 4)
    assert list(losses.of(batches())) == [1, 2, 3, 4, 5, 6, 7]


def test_training_finds_no_weights_that_evaluation_has_cast(module: nn.Module, experiment: Experiment) -> None:
    precision = Precision("bf16", "cpu")
    list(BatchLosses(module, experiment.model, precision, 2).of(batches()))
    (batch, *_) = batches()
    with precision.autocast():
        module(batch.ids, batch.targets).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
