"""Signals that ask a run to save and end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.errors import FAILED, LostRank
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.train.stop import StopSignals

pytestmark = pytest.mark.usefixtures("with_dropout")
posix = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP and SIGUSR1")


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of this process, put back afterwards."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals() if number not in (9, 19)}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_the_first_signal_asks_for_a_stop_and_sets_its_name(name: str, handlers: None) -> None:
    with StopSignals() as stop:
        signal.raise_signal(getattr(signal, name))
        assert stop.name == name


@posix
@pytest.mark.parametrize("first", ["SIGHUP", "SIGUSR1"])
def test_signals_of_a_closed_terminal_or_slurm_do_not_interrupt_saving(first: str, handlers: None) -> None:
    with StopSignals() as stop:
        for name in (first, first, "SIGHUP", "SIGTERM"):
            signal.raise_signal(getattr(signal, name))
        assert stop.name == first
        with pytest.raises(KeyboardInterrupt):  # somebody insists
            signal.raise_signal(signal.SIGINT)


@posix
def test_under_nohup_a_hangup_is_ignored(handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.name == ""
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@posix
@pytest.mark.parametrize("names", [[], ["SIGTERM"]])
def test_a_rank_that_is_terminated_when_it_lost_another_one_leaves_the_report_to_that_one(
    names: list[str], handlers: None, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    """Its connections close a moment before the signal of the launcher arrives, or a moment after."""

    def lose_rank(**_: object) -> None:
        with StopSignals():
            for name in names:
                signal.raise_signal(getattr(signal, name))
            raise LostRank("another process of the run was lost")

    monkeypatch.setattr("nanogpt_kit.__main__.cli", lose_rank)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answer = command("run")
    assert answer.code == FAILED
    assert ("was lost" in answer.err) != bool(names)


ENDLESS = ["train.steps=1000000", "schedule=constant", "checkpoint.every_steps=1000000", "evaluate.every_steps=1000000"]


@posix
def test_a_run_whose_terminal_is_closed_saves(tiny: Path) -> None:
    """Closing it sends SIGHUP, and from then on everything that is written to it fails."""
    pty = pytest.importorskip("pty")
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), *ENDLESS])
    shown = b""
    while not re.search(rb"\b[1-9][0-9]*/1,?000,?000", shown):  # the progress bar
        shown += os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130, shown
    folder = find_run("tiny").folder
    assert folder.status().state == "interrupted"
    assert [int(path.name[-8:]) for path in folder.checkpoints.glob("step-*")] == [folder.status().step]


@posix
@pytest.mark.slow
def test_nohup_keeps_a_run_alive(tiny: Path) -> None:
    command = ["nohup", sys.executable, "-m", "nanogpt_kit", "run", str(tiny), *ENDLESS, "train.steps=400"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 1/"):
            break
    process.send_signal(signal.SIGHUP)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    assert find_run("tiny").folder.status().state == "finished"
