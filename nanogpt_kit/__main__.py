"""The command: what `nanogpt-kit` and `python -m nanogpt_kit` run."""

from __future__ import annotations

import os
import sys

# `python -m` puts the current folder first on the path, so a file in it could be imported in place of any library, and
# anyone may have put it there. This package is already imported.
PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] == os.getcwd() != PACKAGE_PARENT:
    del sys.path[0]

import atexit
import io
import logging
import signal
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

# OpenMP's threads spin at barriers, which slows two trainings on the same cores more than 25 times (measured on two
# cores). The variable is read when torch is loaded, so it is set before anything is imported that may do so.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from nanogpt_kit.system.installed_metadata import accept_damaged_metadata

accept_damaged_metadata()  # before pydantic or torch is imported

import click

from nanogpt_kit.cli import main as cli
from nanogpt_kit.cli import output
from nanogpt_kit.cli.completion import COMPLETE
from nanogpt_kit.cli.lines import print_lines
from nanogpt_kit.cli.output import OutputClosed
from nanogpt_kit.core.errors import (
    BUSY,
    DONE,
    FAILED,
    FAILURE,
    INTERRUPTED,
    MISTAKE,
    UNDECIDED,
    WORSE,
    Busy,
    KitError,
    LostRank,
    RunFailed,
    notes_of,
    printable,
)
from nanogpt_kit.launch.processes import end_with_parent
from nanogpt_kit.runs.secrets import hide_in_text
from nanogpt_kit.system import signals
from nanogpt_kit.system.garbage_collection import keep_imports
from nanogpt_kit.system.terminal import wrap_lines


class ConsoleHandler(logging.Handler):
    """Prints log lines through rich's console, so that they do not mix with a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        import rich

        if not rich.get_console().stderr:  # reconfigured, it forgets the table or bar that is shown
            rich.reconfigure(stderr=True)
        console, text = rich.get_console(), printable(self.format(record))
        console.out(wrap_lines(text, console.width) if console.is_terminal else text, highlight=False)


def main() -> None:
    """Runs the command line and exits."""
    output.replace_standard_streams()
    keep_imports()
    logger = logging.getLogger("nanogpt_kit")
    logger.addHandler(ConsoleHandler())
    logger.setLevel(logging.INFO)
    code = INTERRUPTED
    with suppress(KeyboardInterrupt):  # a signal before the command started, or after it ended
        for signum in signals.available_signals():
            if signal.getsignal(signum) != signal.SIG_IGN:  # a shell's background job ignores Ctrl-C
                signal.signal(signum, raise_keyboard_interrupt)  # so that unfinished work is cleaned up
        end_with_parent()
        code = run_command()
        error = output.stdout_error()
        if error is not None and code in (DONE, FAILED, UNDECIDED, WORSE):
            lost = "part of the output is lost; redirect it to another disk"
            click.echo(f"standard output: {error.strerror}: {lost}", err=True)
    exit_process(code)


def run_command() -> int:
    """Runs the command line in this process and reports its errors. Returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        code = cli(standalone_mode=False, complete_var=COMPLETE)
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        print_lines(message.getvalue().rstrip("\n"), err=True)
        return MISTAKE
    except KitError as error:
        report_error(f"error: {error}" if len(error.faults) == 1 else f"{len(error.faults)} errors:\n{error}", error)
        return BUSY if isinstance(error, Busy) else MISTAKE
    except LostRank as error:  # torch's message may help, but another rank reports the reason
        if not error.terminated:
            report_error(f"run failed: {error}\n{error.__cause__}", error, delay=3.0)
        return FAILED
    except RunFailed as error:
        report_error(f"run failed: {error}", error)
        return FAILED
    except (click.Abort, KeyboardInterrupt) as error:
        reason = error.__cause__ or error  # an Abort is raised from a KeyboardInterrupt
        while not notes_of(reason) and isinstance(reason.__context__, KeyboardInterrupt):
            reason = reason.__context__  # another signal came while the first one was handled
        if not notes_of(reason):
            reason.add_note("interrupted")
        if not rank():
            click.echo(err=True)  # after the ^C of the terminal
            print_notes(reason)
        return INTERRUPTED
    except OutputClosed:
        return DONE
    except OSError as error:
        if error.filename != "standard output":  # `main` reports that one: a full disk behind a redirection
            report_error(f"failed: {error}", error)
        return FAILED
    except Exception as error:  # a bug: Python prints the traceback
        record_failure(error)
        raise
    return code if type(code) is int else DONE  # a verb that exits with a code, such as a verdict


def report_error(message: str, error: Exception, delay: float = 0.0) -> None:
    """Prints the message on stderr.

    Ranks other than 0 wait first, as does one with a `delay`: the first that fails ends the others, so that only its
    message is printed.
    """
    try:
        time.sleep(delay + bool(rank()))
    except KeyboardInterrupt:
        return  # another rank was first
    record_failure(error)
    message = hide_in_text(message)
    print_lines(f"rank {rank()}: {message}" if rank() else message, err=True)
    print_notes(error)


def print_notes(error: BaseException) -> None:
    """Prints what a user can do next. The lines are never wrapped, since commands in them are copied."""
    for note in notes_of(error):
        click.echo(printable(hide_in_text(note)), err=True)


def record_failure(error: Exception) -> None:
    """Writes a record of the error, if the process that started this one requested it."""
    if FAILURE in os.environ:
        from nanogpt_kit.runs.status import record_failure  # imported here since pydantic loads slowly

        record_failure(error)


def rank() -> int:
    """The rank of this process in its run."""
    return int(os.environ.get("RANK", "0"))


def raise_keyboard_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def exit_process(code: int) -> NoReturn:
    """Ends this process with that exit code, skipping Python's teardown in two cases where it would change the code.

    After a KeyboardInterrupt inside an `exec`, which dataclasses call when modules are imported, `python -m` ends by
    SIGINT even if the exception was caught. And threads of torch's process groups may abort the process in teardown.
    """

    def end_now(*_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError, RuntimeError):  # closed before Python started, or in use
                stream.flush()
        os._exit(code)

    skips_teardown = code == INTERRUPTED or int(os.environ.get("WORLD_SIZE", "1")) > 1
    for signum in signals.available_signals():  # the outcome is known: a late signal changes neither it nor the output
        signal.signal(signum, end_now if skips_teardown else signal.SIG_IGN)
    if skips_teardown:
        atexit._run_exitfuncs()
        end_now()
    sys.exit(code)


if __name__ == "__main__":
    main()
