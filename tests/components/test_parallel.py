"""The built-in parallels pass their suite."""

from nanogpt_kit.components.parallel.ddp import DDP
from nanogpt_kit.components.parallel.fsdp import FSDP
from nanogpt_kit.components.parallel.single import Single
from nanogpt_kit.testing.parallel import ParallelConformance


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
