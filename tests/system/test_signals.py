"""Signals that a terminal sends to all processes of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nanogpt_kit.system.signals import held_group_signals

CHILD = """
import signal
print("started", flush=True)
input()
from nanogpt_kit.system.signals import ignore_group_signals
ignore_group_signals()
print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot hold signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_process_that_is_still_starting_does_not_end_by_them(name: str, real_processes: None) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with held_group_signals():
        child = subprocess.Popen([sys.executable, "-c", CHILD], **pipes)  # type: ignore[call-overload]
    assert child.stdout.readline() == "started\n"
    child.send_signal(getattr(signal, name))
    rest, _ = child.communicate("go\n", timeout=60)
    assert (rest, child.returncode) == ("[]\n", 0)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
