"""The command: what `nanogpt-kit` and `python -m nanogpt_kit` run."""

from __future__ import annotations

import os
import sys

# `python -m` puts the current folder first on the path: what lies there would be imported in place of any library, and
# somebody else may have filled it. This package is imported already.
PACKAGED_IN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] == os.getcwd() != PACKAGED_IN:
    del sys.path[0]

import atexit
import io
import logging
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

# OpenMP's threads spin at barriers; two trainings on the same cores then slow each other more than 25 times (measured
# on two cores). It is read when torch is loaded, so it is set before anything else.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click

from nanogpt_kit.cli import main as cli
from nanogpt_kit.cli import output
from nanogpt_kit.cli.output import OutputClosed
from nanogpt_kit.core import signals
from nanogpt_kit.core.errors import (
    BUSY,
    DONE,
    FAILED,
    FAILURE,
    INTERRUPTED,
    MISTAKE,
    Busy,
    KitError,
    LostRank,
    RunFailed,
    printable,
)
from nanogpt_kit.launch.processes import end_with_parent
from nanogpt_kit.runs.secrets import hide_in_text


class OnConsole(logging.Handler):
    """Log lines go through rich's console, which keeps them apart from a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        import rich

        rich.reconfigure(stderr=True)
        rich.get_console().out(printable(self.format(record)), highlight=False)


def main() -> None:
    output.install()
    logger = logging.getLogger("nanogpt_kit")
    logger.addHandler(OnConsole())
    logger.setLevel(logging.INFO)
    code = INTERRUPTED
    with suppress(KeyboardInterrupt):  # a signal before or after the command's own work
        for number in signals.available():
            if signal.getsignal(number) != signal.SIG_IGN:  # a shell's background job ignores Ctrl-C
                signal.signal(number, interrupt)  # so that what was begun is cleared away
        end_with_parent()
        code = exit_code()
        fault = output.fault()
        if fault is not None and code in (DONE, FAILED):
            words = f"standard output: {fault.strerror}: not all that was printed is there; send it elsewhere"
            click.echo(words, err=True)
    end(code)


def end(code: int) -> NoReturn:
    """Ends this process with that exit code, which Python's own teardown would change in two cases.

    Where a KeyboardInterrupt came out of an `exec`, as dataclasses call it while modules are imported, `python -m` ends
    by SIGINT even if it was caught. And torch's threads of a process group may abort the process meanwhile.
    """
    if code == INTERRUPTED or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        with suppress(KeyboardInterrupt):  # another signal
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed before Python began
                stream.flush()
        os._exit(code)
    sys.exit(code)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def exit_code() -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return MISTAKE
    except KitError as error:
        tell(f"error: {error}" if len(error.faults) == 1 else f"{len(error.faults)} errors:\n{error}", error)
        return BUSY if isinstance(error, Busy) else MISTAKE
    except RunFailed as error:
        lost = isinstance(error, LostRank)  # then what torch says of it is of interest, but not the reason
        tell(f"run failed: {error}" + (f"\n{error.__cause__}" if lost else ""), error, patience=3 * lost)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        if not rank():
            click.echo("interrupted", err=True)
        return INTERRUPTED
    except OutputClosed:
        return DONE
    except OSError as error:  # writing to stdout: a full disk behind a redirection
        if error.filename != "standard output":  # which `main` reports
            tell(f"failed: {error}", error)
        return FAILED
    except Exception as error:  # a fault of the program: Python prints where
        leave_failure(error)
        raise
    return DONE


def tell(message: str, error: Exception, patience: float = 0.0) -> None:
    """On stderr. Of several processes the one that failed first is heard, and ends the others, which wait a little."""
    try:
        time.sleep(patience + bool(rank()))
    except KeyboardInterrupt:
        return  # another was heard
    leave_failure(error)
    message = printable(hide_in_text(message))
    click.echo(f"rank {rank()}: {message}" if rank() else message, err=True)


def leave_failure(error: Exception) -> None:
    """For the process that started this one, where it asks."""
    if FAILURE in os.environ:
        from nanogpt_kit.runs.status import leave_failure as leave  # here, since pydantic takes its time to load

        leave(error)


def rank() -> int:
    """Of this process among those of a run."""
    return int(os.environ.get("RANK", "0"))


if __name__ == "__main__":
    main()
