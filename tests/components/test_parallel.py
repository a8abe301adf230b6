"""The built-in parallels pass their suite; what fsdp asks of torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from nanogpt_kit.api import RunContext
from nanogpt_kit.components.parallel.ddp import DDP
from nanogpt_kit.components.parallel.fsdp import FSDP
from nanogpt_kit.components.parallel.single import Single
from nanogpt_kit.nn.sharded import is_sharded, reshard
from nanogpt_kit.nn.training_loss import TrainingLoss
from nanogpt_kit.testing.parallel import ParallelConformance, SmallModel, T


class TestSingle(ParallelConformance):
    component = Single()
    processes = 1


class TestDDP(ParallelConformance):
    component = DDP()


class TestDDPInOneProcess(ParallelConformance):
    component = DDP(bucket_mb=1)
    processes = 1


class TestFSDP(ParallelConformance):
    component = FSDP()


class TestFSDPThatStaysGathered(ParallelConformance):
    component = FSDP(reshard_after_forward=False)
    processes = 3


@pytest.fixture
def two_fake_ranks() -> Iterator[RunContext]:
    """This process as the first of two whose collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield RunContext(device="cpu", precision="fp32", world_size=2, splits=(), block_size=T)
    dist.destroy_process_group()


def test_fsdp_shards_over_the_device_of_the_run(two_fake_ranks: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mesh torch takes the GPUs of the machine, also where the run is on its CPU."""
    module = "torch.distributed.fsdp._fully_shard._fully_shard._init_default_mesh"
    monkeypatch.setattr(module, lambda: pytest.fail("torch chooses the device"))
    model = SmallModel()
    FSDP().wrap(model, two_fake_ranks)
    assert {parameter.device_mesh.device_type for parameter in model.parameters()} == {"cpu"}  # type: ignore[attr-defined]


def test_what_the_backward_pass_begins_with_stays_gathered(two_fake_ranks: RunContext) -> None:
    model = SmallModel()
    parallel = FSDP().wrap(model, two_fake_ranks)
    ids = torch.zeros(2, T, dtype=torch.int64)
    TrainingLoss.of(parallel(ids, ids)).objective.detach()
    weights = {"head": model.lm_head.weight, "block": model.h[0].up.weight}
    assert {name: is_sharded(weight) for name, weight in weights.items()} == {"head": False, "block": True}
    reshard(model)
    assert is_sharded(model.lm_head.weight)
