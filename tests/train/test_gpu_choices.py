"""What training decides for a GPU, as far as the choice shows without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist
from torch import nn

from nanogpt_kit.bench import rounds
from nanogpt_kit.bench.training import TimedTrainer
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.nn.parallel import ParallelModel
from nanogpt_kit.train import compile as compiling
from nanogpt_kit.train import memory, session, setup
from nanogpt_kit.train.compile import CompileChoice, Trial
from nanogpt_kit.train.world import World


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_freed_memory_is_kept_where_the_tensors_of_a_step_are_the_hosts(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(setup, "keep_freed_memory", lambda: kept.append(True))
    ctx = RunContext(device=device, precision="fp32", world_size=1, splits=("train", "val"), block_size=16)
    with setup.machine_settings(Experiment.load(tiny), ctx, 257):
        pass
    assert bool(kept) == (device == "cpu")


@pytest.mark.parametrize(
    ("windows", "fitting", "expected"), [(512, 37, 37), (512, 36, 35), (8, 7, 4), (8, 8, 8), (10, 4, 4), (5, 1, 1)]
)
def test_micro_batches_that_auto_chooses_are_as_equal_as_they_can_be(
    monkeypatch: pytest.MonkeyPatch, windows: int, fitting: int, expected: int
) -> None:
    monkeypatch.setattr(memory, "largest_micro_batch", lambda windows, step, device, processes: min(windows, fitting))
    options: Any = SimpleNamespace(micro_batch_size="auto", seed=1)
    progress: Any = SimpleNamespace(micro_batch_size=0)
    precision: Any = SimpleNamespace(device="cpu")
    model = nn.Linear(2, 2)
    size = memory.choose_micro_batch_size(options, windows, Mock(), model, precision, World(), progress)
    assert size == expected
    assert size <= fitting
    assert -(-windows // size) == -(-windows // min(windows, fitting)), "no more micro-steps than with the largest"
    options.micro_batch_size = fitting
    assert memory.choose_micro_batch_size(options, windows, Mock(), model, precision, World(), progress) == min(
        windows, fitting
    ), "what the experiment sets is kept"


@pytest.mark.parametrize("stay_local", [True, False])
def test_ranks_compile_without_a_reduction_where_none_is_owed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, stay_local: bool
) -> None:
    lasts: list[bool] = []
    sync = ParallelModel.sync

    def watched(model: ParallelModel, last: bool) -> Any:
        lasts.append(last)
        return sync(model, last)

    monkeypatch.setattr(ParallelModel, "sync", watched)
    monkeypatch.setattr(ParallelModel, "gradients_stay_local", stay_local)
    monkeypatch.setattr(compiling, "compiler_obstacle", lambda device: None)
    monkeypatch.setattr(CompileChoice, "apply", lambda choice, *_, **__: choice)
    monkeypatch.setattr(Trial, "seconds", lambda *_: pytest.fail("nothing is timed where the mode is set"))
    options = ["callback=[]", "train.compile=default", "train.steps=2", "train.batch_tokens=64", "train.threads=1"]
    session.run(Experiment.load(tiny, [*options, "evaluate.every_steps=2", "checkpoint.every_steps=2"]))
    warm_up, steps = lasts[:-4], lasts[-4:]
    assert steps == [False, True] * 2
    assert len(warm_up) == 2
    assert any(warm_up) != stay_local


def test_several_gpu_processes_without_nccl_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's builds for Windows have none."""
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: pytest.fail("it connects"))
    with pytest.raises(KitError, match=r"^2 processes .* NCCL.*torch .*; .*one process"), World(size=2).joined("cuda"):
        pass


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_between_rounds_a_gpu_has_no_cached_memory_of_the_other_process(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("free"))
    timed: Any = SimpleNamespace(trainer=SimpleNamespace(precision=SimpleNamespace(device=device)))
    timed.time_steps = lambda count: calls.append(count) or 0.25 * count
    timed.time_round = lambda count: TimedTrainer.time_round(timed, count)
    monkeypatch.setattr(rounds, "_timed", timed)
    assert rounds.time_steps(8) == 2.0
    assert calls == ([1, 8, "free"] if device == "cuda" else [8]), "what was freed is allocated again before the clock"
