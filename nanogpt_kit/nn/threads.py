"""Independent calls, made by several threads of this process at once on a CPU.

Each thread computes its operations with one thread of OpenMP, so the threads wait for each other once, not after every
operation: see docs/decisions/muon-on-threads.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

import torch

_limit: int | None = None  # threads that a run may use; None: as many as torch uses for an operation


def concurrent_threads() -> int:
    """The number of threads that may compute at once."""
    return _limit or torch.get_num_threads()


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """While entered, `count` threads may compute at once, whatever number torch uses for an operation."""
    global _limit
    before, _limit = _limit, count
    try:
        yield
    finally:
        _limit = before


def call_concurrently(calls: Iterable[Callable[[], object]], threads: int) -> None:
    """Makes all calls, by this thread and others, each as soon as a thread is free, in their order.

    Then raises the first error of those that were raised. A call may itself use this function.
    """
    remaining, errors = iter(list(calls)), list[Exception]()

    def make_calls() -> None:
        for call in remaining:  # a list's iterator gives each element to one thread
            try:
                call()
            except Exception as error:
                errors.append(error)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    others = [pool(threads - 1).submit(make_calls) for _ in range(threads - 1)]
    try:
        make_calls()
    finally:
        # Others that have not begun find no call left. Waiting for them within one of their calls would never end
        wait([other for other in others if not other.cancel()])
        torch.set_num_threads(before)
    if errors:
        raise errors[0]


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "concurrent-calls", torch.set_num_threads, (1,))


os.register_at_fork(after_in_child=pool.cache_clear)  # a child process has none of the threads
