"""The processes of a run (torchrun's, or those of `--nproc`) and their collectives. Usually there is only one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from nanogpt_kit.core.errors import KitError, LostRank

COLLECTIVE_TIMEOUT = timedelta(hours=2)  # one process may wait while another node prepares its data
# Process groups, kept until the process ends. The destructor of a gloo group joins its threads while it holds Python's
# lock, and a thread that is about to release its last tensor waits for that lock: with torch 2.13 a rank hung there
# after its run had finished, in one of seven runs on a loaded machine.
KEPT_GROUPS: list[Any] = []


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its own machine
    local_size: int = 1  # processes on that machine

    @classmethod
    def of_environment(cls) -> World:
        """The processes that torchrun has started; without it there is one."""
        variables = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        return cls(*(int(os.environ.get(name, default)) for name, default in variables))

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """While entered, collectives work. Raises KitError where ranks cannot reach each other, LostRank later."""
        if self.size == 1:
            yield
            return
        if device == "cuda" and not dist.is_nccl_available():
            raise KitError(
                f"{self.size} processes on GPUs need NCCL, and this torch is built without it, as all for Windows are; "
                "train in one process, or on Linux"
            )
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT, rank=self.rank, world_size=self.size)
        except (ValueError, RuntimeError) as error:
            raise KitError(f"rank {self.rank} of {self.size} could not reach the other ranks: {error}") from None
        KEPT_GROUPS.append(dist.group.WORLD)
        try:
            yield
        except RuntimeError as error:
            if not self.is_lost_rank_error(error):
                raise
            raise self.lost_rank_error() from error
        dist.destroy_process_group()  # not after a failure: it could wait for processes that are gone

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on every rank."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def of_first_rank(self, value: float) -> float:
        """The number of rank 0, on every rank; faster than `broadcast`."""
        if self.size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(number, src=0)
        return float(number)

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all ranks in their order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def max(self, value: int) -> int:
        """The largest value of all ranks, on every rank."""
        if self.size == 1:
            return value
        largest = torch.tensor(int(value))
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def sum(self, scalars: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The sums of scalars over all ranks, by their names, which are the same on all; in one all-reduce."""
        if self.size == 1:
            return scalars
        together = torch.stack([*scalars.values()])
        dist.all_reduce(together)
        return dict(zip(scalars, together, strict=True))

    def require_same(self, facts: dict[str, Any]) -> None:
        """Raises KitError on every rank if the facts of one differ from those of rank 0."""
        gathered = self.all_gather(facts)
        for rank, facts_there in enumerate(gathered):
            for name, value in facts_there.items():
                if value != gathered[0][name]:
                    raise KitError(
                        f"rank {rank} has {name} {value}, and rank 0 {gathered[0][name]}; all ranks need the same"
                    )

    def lost_rank_error(self, step: int | None = None) -> LostRank:
        """The error to raise from torch's error, which helps to find the fault but is not its cause."""
        at = "" if step is None else f" at step {step}"
        return LostRank(f"another process of the run was lost (rank {self.rank} of {self.size} noticed it{at})")

    def is_lost_rank_error(self, error: BaseException) -> bool:
        """Whether torch raised this error because another process has gone.

        Only the message shows it: torch raises plain RuntimeErrors for what gloo and NCCL report, in the middle of a
        backward pass as in a collective.
        """
        words = ("gloo", "closed by peer", "NCCL", "reset by peer", "TCPStore")
        return self.size > 1 and (
            isinstance(error, dist.DistError)
            or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
        )
