"""Whether two threads may make two calls concurrently: both are made and compared, on a CPU.

A hazard is reported where a call

- changes something that its module holds, as a counter or the buffers of BatchNorm do;
- draws random numbers, as `F.dropout` does: the order of the threads would decide which call gets which;
- changes a setting of the whole process, such as torch's choice of attention kernels;
- gives other results or gradients while the other call is in progress. Both threads then alternate after every call of
  torch's API, so that the answer does not depend on luck: a write to memory that both use is found every time.

State that only larger shapes or later layers reach is not found.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DEPTH = 4  # of objects within objects that are searched for state
PATIENCE_SECONDS = 10.0  # for the other thread's turn, which takes microseconds unless it waits for a lock

Call = Callable[[], Sequence[Tensor | None]]


def hazard_of_calls(holder: object, calls: Sequence[Call]) -> str | None:
    """Why two threads must not make these two calls concurrently; None if they may.

    `holder` is the module that the calls use, or an object that holds it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are the same in any thread then
    try:
        with preserved_random_state():
            before, randomness = collect_state(holder), random_state()
            expected = []
            for call in calls:
                with CallMonitor() as monitor:
                    expected.append(call())
                if monitor.hazard or random_state() != randomness:
                    return monitor.hazard or "it draws random numbers"
                if changed := changed_path(before, collect_state(holder)):
                    return f"its forward pass changes {changed}"
            alternation = Alternation()
            # Without its own setting, a new thread computes its first product with as many threads as there are cores.
            with ThreadPoolExecutor(2, "probe", torch.set_num_threads, (1,)) as pool:
                found = list(pool.map(alternation.run, range(2), calls))
            if alternation.is_stuck:
                return "its threads wait for each other"
            same = all(map(same_results, found, expected)) and not changed_path(before, collect_state(holder))
            return None if same else "its results differ when two threads call it at once"
    finally:
        torch.set_num_threads(threads)


class CallMonitor(TorchFunctionMode):
    """Records a call of torch's API that two threads must not make concurrently, as a hazard."""

    def __init__(self) -> None:
        super().__init__()
        self.hazard = ""
        self.settings = process_settings()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            self.hazard = self.hazard or "it draws random numbers"
        if not same_settings(process_settings(), self.settings):
            self.hazard = self.hazard or "it changes settings of the whole process while it computes"
        return func(*args, **kwargs)


class Alternation:
    """Two threads that alternate: each makes one call of torch's API, then waits until the other has made one."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.running = {0, 1}
        self.turn = 0
        self.is_stuck = False

    def run(self, index: int, call: Call) -> Sequence[Tensor | None]:
        """Runs the call of one thread, interleaved with that of the other."""
        try:
            with AlternateCalls(self, index):
                return call()
        finally:
            with self.condition:
                self.running.discard(index)
                self.condition.notify_all()

    def wait(self, index: int) -> None:
        """Lets the other thread make a call, and waits until it has."""
        other = 1 - index
        with self.condition:
            self.turn = other
            self.condition.notify_all()
            is_mine = self.condition.wait_for(
                lambda: self.turn == index or other not in self.running or self.is_stuck, PATIENCE_SECONDS
            )
            if not is_mine:
                self.is_stuck = True
                self.condition.notify_all()


class AlternateCalls(TorchFunctionMode):
    """Waits for the other thread before each call of torch's API."""

    def __init__(self, alternation: Alternation, index: int) -> None:
        super().__init__()
        self.alternation, self.index = alternation, index

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.alternation.wait(self.index)
        return func(*args, **(kwargs or {}))


def collect_state(holder: object) -> dict[str, tuple[object, object]]:
    """All that an object holds, by path: the object itself (kept alive, so that its id is not reused) and its value."""
    state: dict[str, tuple[object, object]] = {}
    seen: set[int] = set()

    def walk(value: object, path: str, depth: int) -> None:
        if isinstance(value, Tensor):
            content = None if isinstance(value, nn.Parameter) else value.detach().clone()
            state[path] = value, (0 if value.is_inference() else value._version, content)
            return
        state[path] = value, value.tobytes() if isinstance(value, np.ndarray) else None
        if id(value) in seen or depth > DEPTH or isinstance(value, type | FunctionType | ModuleType):
            return
        seen.add(id(value))
        if isinstance(value, dict):
            items = [(str(key), item) for key, item in value.items()]
        elif isinstance(value, list | tuple | set | frozenset | deque):
            items = [(str(index), item) for index, item in enumerate(value)]
        else:
            items = list(getattr(value, "__dict__", {}).items())
        state[path] = value, (state[path][1], len(items))
        for name, item in items:
            if isinstance(value, nn.Module) and name in ("_modules", "_parameters", "_buffers"):
                for child, part in item.items():  # named as by named_modules, and not counted in depth
                    walk(part, f"{path}.{child}".lstrip("."), 0)
            else:
                walk(item, f"{path}.{name}".lstrip("."), depth + 1)

    walk(holder, "", 0)
    return state


def changed_path(before: dict[str, tuple[object, object]], after: dict[str, tuple[object, object]]) -> str:
    """The path of something that has changed, the deepest one; empty where nothing has."""
    changed = [path for path in after if path not in before or not same_entry(before[path], after[path])]
    changed += [path for path in before if path not in after]
    return max(changed, key=lambda path: (path.count("."), bool(path)), default="") or ("the module" if changed else "")


def same_entry(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    if one[0] is not other[0]:
        return False
    if not isinstance(one[0], Tensor):
        return bool(one[1] == other[1])
    (version, content), (later_version, later_content) = one[1], other[1]
    return version == later_version and same_results([content], [later_content])


def same_results(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> bool:
    """Whether all tensors have the same bits; NaN equals NaN."""
    return all(
        a is b or (a is not None and b is not None and torch.equal(a.nan_to_num(), b.nan_to_num()))
        for a, b in zip(one, other, strict=True)
    )


def process_settings() -> tuple[Any, ...]:
    """Settings that all threads share and that code often changes during a call."""
    kernels = torch.backends.cuda
    return (
        warnings.filters,
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        (kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled(), kernels.math_sdp_enabled()),
        kernels.cudnn_sdp_enabled(),
    )


def same_settings(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return one[0] is other[0] and one[1:] == other[1:]


def random_state() -> tuple[bytes, Any, str]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(np.random.get_state(legacy=True))


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores the states of all random number generators afterwards."""
    ours, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(ours)
        np.random.set_state(numpys)
        random.setstate(pythons)
