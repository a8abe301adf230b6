"""Imports a plugin's module into this process: whatever else it does becomes an exception, a line or a trace."""

from __future__ import annotations

import faulthandler
import functools
import importlib
import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.system import signals
from nanogpt_kit.system.late_call import call_if_slow

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE_SECONDS = 2.0  # before it is reported which module is being imported


class FailedImport(Exception):
    """Raised in place of a SystemExit, a call of os._exit, or a KeyboardInterrupt that no signal has caused."""


def import_plugin(module: str, label: str) -> ModuleType:
    """Imports a module. Raises what it raises if that is an Exception, else FailedImport.

    `label` says which component of which distribution needs it, and what to do: in a line after some seconds, and in
    the trace that Python prints if native code ends the process.
    """
    if not faulthandler.is_enabled():
        with suppress(Exception):  # without a standard error
            faulthandler.enable(all_threads=False)
    try:
        with call_if_slow(PATIENCE_SECONDS, logger.info, "importing %s", label), exits_as_exceptions():
            return in_named_frame(importlib.import_module, label)(module)
    except SystemExit as error:
        raise FailedImport(f"SystemExit: {error}" if str(error) else "SystemExit") from error
    except KeyboardInterrupt as error:
        if is_of_user(error):
            raise
        raise FailedImport("KeyboardInterrupt, which no signal has caused") from error


def in_named_frame(function: Callable[P, R], label: str) -> Callable[P, R]:
    """The same function, called from a frame whose file is named `label`: a line of each trace, also of a crash."""
    names: dict[str, Any] = {"function": function}
    exec(compile("def call(*args, **kwargs): return function(*args, **kwargs)", label, "exec"), names)
    return functools.wraps(function)(names["call"])


def name_frame(owner: type, method: str, label: str) -> None:
    """Replaces a method of a class by one that is called from a frame named `label`, unless that was done before."""
    function = getattr(owner, method, None)
    if inspect.isfunction(function) and function.__code__.co_filename != label:
        setattr(owner, method, in_named_frame(with_exits_as_faults(function, label), label))


def with_exits_as_faults(function: Callable[P, R], label: str) -> Callable[P, R]:
    """The same function, whose exits of the process become KitErrors: a run would end without a message."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with exits_as_exceptions():
                return function(*args, **kwargs)
        except SystemExit as error:
            raise KitError(f"{label}: its {function.__name__} exits: SystemExit: {error}") from error

    return call


@contextmanager
def exits_as_exceptions() -> Iterator[None]:
    """Turns calls of os._exit into SystemExit; those of child processes, which copy this one, remain what they are."""
    exit_now, process = os._exit, os.getpid()

    def raise_exit(code: int) -> Any:
        if os.getpid() != process or threading.current_thread() is not thread:
            exit_now(code)
        raise SystemExit(f"os._exit({code})")

    thread = threading.current_thread()
    os._exit = raise_exit  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = exit_now


def is_of_user(error: KeyboardInterrupt) -> bool:
    """Whether a signal has raised it. Python's own handler leaves no frame, so with that one it is assumed."""
    handlers: set[Any] = {signal.getsignal(number) for number in signals.available_signals()}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    codes: set[Callable[..., Any] | None] = {getattr(handler, "__code__", None) for handler in handlers}
    return trace is not None and trace.tb_frame.f_code in codes
