"""The processes of a run, and what they tell each other: torchrun's, or those of `--nproc`; mostly there is but one."""

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

PATIENCE = timedelta(hours=2)  # of one process for the others, as while another node prepares its data


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its own machine
    local_size: int = 1  # processes on that machine

    @classmethod
    def of_environment(cls) -> World:
        """As torchrun says."""
        said = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        return cls(*(int(os.environ.get(name, default)) for name, default in said))

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """While entered, the processes can talk. Raises KitError where they do not find each other, LostRank later."""
        if self.size == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=PATIENCE, rank=self.rank, world_size=self.size)
        except (ValueError, RuntimeError) as error:
            raise KitError(f"rank {self.rank} of {self.size} finds no others: {error}") from None
        try:
            yield
        except RuntimeError as error:
            if not self.lost(error):
                raise
            raise self.lost_rank() from error
        dist.destroy_process_group()  # after a failure it could wait for those that are gone

    def broadcast(self, value: Any) -> Any:
        """On every rank what rank 0 has given here."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def all_gather(self, value: Any) -> list[Any]:
        """On every rank what each has given here, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def most(self, value: int) -> int:
        """On every rank the largest that one has given here."""
        if self.size == 1:
            return value
        said = torch.tensor(value)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return int(said)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """In place, over all ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def require_same(self, facts: dict[str, Any]) -> None:
        """Raises KitError on every rank where one was given other facts than rank 0."""
        told = self.all_gather(facts)
        for rank, others in enumerate(told):
            for name, value in others.items():
                if value != told[0][name]:
                    raise KitError(f"rank {rank} has {name} {value}, and rank 0 {told[0][name]}; all need the same")

    def lost_rank(self, step: int | None = None) -> LostRank:
        """To be raised from what torch said, which helps to find the fault, but is not the reason to report."""
        at = "" if step is None else f" at step {step}"
        return LostRank(f"another process of the run was lost (rank {self.rank} of {self.size} noticed it{at})")

    def lost(self, error: BaseException) -> bool:
        """Whether an error says that another process has gone.

        This is the one place that reads a message: torch raises plain RuntimeErrors for what gloo and NCCL report, in
        the middle of a backward pass as in a collective, and they carry nothing else to know them by.
        """
        words = ("gloo", "closed by peer", "NCCL", "reset by peer", "TCPStore")
        return self.size > 1 and (
            isinstance(error, dist.DistError)
            or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
        )
