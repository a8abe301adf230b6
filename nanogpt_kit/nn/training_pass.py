"""Which windows of which step a thread computes: what dropout masks depend on, besides the layer and the element.

The trainer enters a pass around the forward and backward pass of each micro-batch, and each thread that computes some
of its windows enters the part of that pass that it computes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from nanogpt_kit.nn.dropout_masks import row_keys
from nanogpt_kit.nn.splitmix import hash_of_sequence


class TrainingPass:
    """A forward and backward pass over consecutive windows of the batch of all ranks.

    A layer may be called several times in it: each call has its own masks. What the backward pass computes again,
    to save memory, has the calls of the forward pass.
    """

    _of_thread = threading.local()
    _whole: ClassVar[TrainingPass | None] = None  # of any thread: for some devices autograd has its own threads

    def __init__(self, seed: int, step: int, first_window: int, n_windows: int) -> None:
        self.seed, self.step = seed, step
        self.first_window, self.n_windows = first_window, n_windows
        self.calls: Counter[int] = Counter()  # so far, by layer
        self.repeated: Counter[int] = Counter()  # of them, in the backward pass
        self.is_repetition = False  # its calls are those that are repeated
        self.is_part = False

    def part(self, first: int, n_windows: int) -> TrainingPass:
        """The pass over some of its windows, of which `first` is the first, counted from 0."""
        part = TrainingPass(self.seed, self.step, self.first_window + first, n_windows)
        part.is_part = True
        return part

    def seed_generator(self, device: str) -> None:
        """Makes what fused kernels of a GPU draw by themselves a function of the seed, the step and the windows, too.

        On a CPU nothing draws but components that do so by themselves, whose random state checkpoints keep.
        """
        if device != "cpu":
            seed = hash_of_sequence(self.seed, self.step, self.first_window) >> 1
            torch.get_device_module(device).manual_seed(seed)

    @classmethod
    def current(cls) -> TrainingPass | None:
        """The pass that this thread is in; None outside training."""
        mine: TrainingPass | None = getattr(cls._of_thread, "current", None)
        return mine or (cls._whole if in_backward() else None)

    @contextmanager
    def entered(self) -> Iterator[None]:
        before = getattr(self._of_thread, "current", None), TrainingPass._whole
        self._of_thread.current = self
        if not self.is_part:
            TrainingPass._whole = self
        try:
            yield
        finally:
            self._of_thread.current = before[0]
            if not self.is_part:
                TrainingPass._whole = before[1]

    def next_keys(self, layer: int, rows: int) -> Any:
        """(rows, 2) uint32: the keys of the rows of the mask of a layer's next call; see `row_keys`."""
        key = hash_of_sequence(self.seed, self.step, layer, self.next_call(layer))
        return row_keys(key, self.first_window, self.n_windows, rows)

    def next_call(self, layer: int) -> int:
        """The index of a layer's call that begins now."""
        counts, total = self.calls, 0
        if in_backward() and not self.is_repetition:
            counts, total = self.repeated, self.calls[layer]
        index = counts[layer]
        counts[layer] += 1
        return index % total if total else index

    @contextmanager
    def repeated_from(self, calls: Counter[int]) -> Iterator[None]:
        """While entered, in the backward pass, calls continue from those that there were at some time before."""
        if not in_backward():
            yield
            return
        again = self.part(0, self.n_windows)
        again.calls, again.is_repetition = Counter(calls), True
        with again.entered():
            yield


def in_backward() -> bool:
    """Whether this thread is computing a backward pass."""
    return torch._C._current_graph_task_id() != -1


def with_repeatable_calls(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function to be computed now, and again in the backward pass of the pass that this thread is in."""
    current = TrainingPass.current()
    if current is None:
        return function
    calls = Counter(current.calls)

    def repeatable(*args: Any, **kwargs: Any) -> Any:
        with current.repeated_from(calls):
            return function(*args, **kwargs)

    return repeatable
