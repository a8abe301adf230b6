"""Processes that encode: a `ProcessPoolExecutor` whose workers inherit nothing and end with this process.

In contrast to the standard library's: workers import nothing from the current folder and do not run the caller's script
again; the output of a tokenizer in a worker stays out of this command's output; a Ctrl-C reaches this process alone;
and a worker that was killed is reported with its exit code.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.queues import SimpleQueue
from types import ModuleType, TracebackType
from typing import Any, Generic, TypeVar

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data.chunks import TextChunk
from nanogpt_kit.data.encoders import EncoderRecipe
from nanogpt_kit.system import signals

Result = TypeVar("Result")

ENVIRONMENT = {  # of a worker
    "PYTHONSAFEPATH": "1",  # nothing is imported from the current folder, which anybody may have filled
    "OMP_NUM_THREADS": "1",  # one core for each worker
    "TOKENIZERS_PARALLELISM": "false",
}

_recipe: EncoderRecipe  # in a worker: how to make its encoder


class WorkerPool(Generic[Result]):
    """`work(chunk, encoder)` in `count` processes, each with an encoder made from `recipe`."""

    def __init__(self, count: int, recipe: EncoderRecipe, work: Callable[[TextChunk, Encoder], Result]) -> None:
        self.work = work
        self.processes: list[SpawnProcess] = []
        context = IsolatedContext(self.processes)
        self.recipes: SimpleQueue[EncoderRecipe] = context.SimpleQueue()
        self.executor = ProcessPoolExecutor(count, context, initializer=init_worker, initargs=(self.recipes,))
        # Not as an argument: this process would wait for each worker to import the kit before it starts the next one,
        # since a pipe holds less than a vocabulary.
        threading.Thread(target=send_recipe, args=(self.recipes, recipe, count), daemon=True).start()
        self.starting = [self.executor.submit(load_encoder) for _ in range(count)]

    def __enter__(self) -> WorkerPool[Result]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Raises RunFailed where a worker died."""
        if not isinstance(error, BrokenProcessPool):
            for process in self.processes:
                process.kill()  # what they hold is also here
        self.executor.shutdown(cancel_futures=True)
        self.recipes.close()  # ends `send_recipe`, where a worker ended before it had its recipe
        if isinstance(error, BrokenProcessPool):
            raise RunFailed(f"a process that tokenizes has ended unexpectedly{self._exit_code()}") from None

    def is_ready(self) -> bool:
        """True once a worker has its encoder. Raises the error of one that could not make it."""
        started = [start for start in self.starting if start.done()]
        for start in started:
            start.result()
        return bool(started)

    def submit(self, chunk: TextChunk) -> Future[Result]:
        return self.executor.submit(run_in_worker, self.work, chunk)

    def _exit_code(self) -> str:
        """The exit code of the worker that ended first, for a message; the executor sends SIGTERM to the others."""
        codes = [process.exitcode for process in self.processes if process.exitcode not in (None, 0, -signal.SIGTERM)]
        hint = "; perhaps memory ran out" if -9 in codes else ""
        return f", with exit code {codes[0]}{hint}" if codes else ""


def send_recipe(recipes: SimpleQueue[EncoderRecipe], recipe: EncoderRecipe, count: int) -> None:
    """Puts the recipe into the queue once for each worker, and ends when the queue is closed."""
    with suppress(OSError, TypeError):  # TypeError: closed between two writes
        for _ in range(count):
            recipes.put(recipe)


class IsolatedProcess(SpawnProcess):
    """A process that starts with the ENVIRONMENT and without the caller's `__main__`."""

    def start(self) -> None:
        with isolated_start(), signals.held_group_signals():
            super().start()


class IsolatedContext(SpawnContext):
    """Makes isolated processes, and adds each to `processes`."""

    def __init__(self, processes: list[SpawnProcess]) -> None:
        super().__init__()
        self.processes = processes

    def Process(self, *args: Any, **options: Any) -> SpawnProcess:  # type: ignore[override]
        process = IsolatedProcess(*args, **options)
        self.processes.append(process)
        return process


@contextmanager
def isolated_start() -> Iterator[None]:
    """While entered, a process starts with the ENVIRONMENT and an empty `__main__`.

    Otherwise multiprocessing would run the caller's script again in each worker, and a script that prepares data
    without `if __name__ == "__main__"` would prepare it again in each.
    """
    main, before = sys.modules["__main__"], {name: os.environ.get(name) for name in ENVIRONMENT}
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


# --- in a worker ---


def init_worker(recipes: SimpleQueue[EncoderRecipe]) -> None:
    global _recipe
    signals.ignore_group_signals()
    os.dup2(2, 1)  # to stderr, so that the output of a tokenizer stays out of the command's output
    threading.Thread(target=end_with_parent, daemon=True).start()
    _recipe = recipes.get()


def end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker was started by another process"
    parent.join()
    os._exit(1)


def load_encoder() -> None:
    worker_encoder()


@functools.cache
def worker_encoder() -> Encoder:
    try:
        return _recipe.make()
    except BaseException as error:  # of a plugin's code, perhaps
        raise RunFailed(
            f"the tokenizer cannot be restored in another process: {type(error).__name__}: {error}"
        ) from None


def run_in_worker(work: Callable[[TextChunk, Encoder], Result], chunk: TextChunk) -> Result:
    """Errors of a plugin become RunFailed: not every exception survives the way to another process."""
    encoder = worker_encoder()
    try:
        return work(chunk, encoder)
    except KitError:
        raise
    except BaseException as error:  # SystemExit, too, which would end the command silently
        raise RunFailed(f"the tokenizer failed: {type(error).__name__}: {error}") from None
