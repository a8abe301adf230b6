"""A call that is made only if something takes long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def call_if_slow(seconds: float, function: Callable[..., object], *arguments: object) -> Iterator[None]:
    """Calls `function`, in another thread, once the block has taken `seconds`."""
    timer = threading.Timer(seconds, function, arguments)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
