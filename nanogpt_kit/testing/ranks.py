"""Several processes for a test: forks of this one, which communicate through gloo."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which optimizers import: here, once for all forks
import torch.distributed as dist

from nanogpt_kit.launch.processes import free_port

PATIENCE_SECONDS = 60.0  # for all ranks, which take a second


class RankError(AssertionError):
    """What went wrong on a rank, or that some did not finish."""


def run_on_ranks(world_size: int, function: Callable[[int], Any], joined: bool = True) -> list[Any]:
    """What `function(rank)` returns on each of `world_size` ranks; one alone is this process, without a process group.

    Where they are not `joined`, the function joins them itself, as a run does by the environment that torchrun sets.
    Raises RankError where a rank raises, or does not finish because it waits for another one.
    """
    if world_size == 1:
        try:
            return [function(0)]
        except Exception as error:
            raise RankError(f"with 1 process: {type(error).__name__}: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(world_size)]
        port = free_port()
        children = [fork_rank(rank, world_size, port, function, file, joined) for rank, file in enumerate(files)]
        unfinished = wait_for(children)
        answers = [torch.load(file, weights_only=False) if file.exists() else "it was killed" for file in files]
    failures = [
        f"rank {rank} of {world_size}: {one}"
        for rank, (one, child) in enumerate(zip(answers, children, strict=True))
        if isinstance(one, str) and child not in unfinished
    ]
    if unfinished and not failures:  # else these wait for one that failed
        failures = [f"{len(unfinished)} of {len(children)} ranks did not finish: one waits for another"]
    if failures:
        raise RankError(failures[0])
    return [one["returned"] for one in answers if isinstance(one, dict)]


def fork_rank(rank: int, world_size: int, port: int, function: Callable[[int], Any], file: Path, joined: bool) -> int:
    """The id of a child process that writes to `file` what the function returns, or a sentence about its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, of which the child uses none
        child = os.fork()
    if child:
        return child
    answer: Any
    try:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if joined:
            dist.init_process_group("gloo", rank=rank, world_size=world_size)
        answer = {"returned": function(rank)}
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        answer = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    torch.save(answer, file)
    os._exit(0)


def wait_for(children: list[int]) -> set[int]:
    """Returns when all processes have ended. Those that take too long are ended, and returned."""
    waiting, deadline = set(children), time.monotonic() + PATIENCE_SECONDS
    while waiting:
        waiting -= {child for child in waiting if os.waitpid(child, os.WNOHANG)[0]}
        if waiting and time.monotonic() > deadline:
            for child in waiting:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            break
        time.sleep(0.01)
    return waiting
