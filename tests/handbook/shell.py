"""A reader at a shell: commands of a page in one folder, with what a shell keeps between them, and no network."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import launcher

from tests.first_hour.newcomer import Newcomer
from tests.handbook.pages import ROOT

TIMEOUT = 600  # seconds for one command
# Variables, functions and the folder outlive a command, as in one shell
SESSION = """\
. {state}/variables 2>/dev/null
cd "$(cat {state}/folder)" || exit
set -o pipefail
trap '__code=$?; declare -p >{state}/variables; declare -f >>{state}/variables; pwd >{state}/folder; exit $__code' EXIT
"""
# Asks the server that imported the kit once (tests/forked) for a command, and ends with its exit code
CLIENT = """\
#!{python} -SE
import json, os, socket, sys
words, folder = ["-m", "nanogpt_kit", *sys.argv[1:]], os.getcwd()
request = dict(words=words, folder=folder, environment=dict(os.environ), session=False)
message = json.dumps(request).encode("utf-8", "surrogateescape")
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [len(message).to_bytes(4, "big")], [0, 1, 2])
connection.sendall(message)
connection.recv(4)  # the process id
code = int.from_bytes(connection.recv(4), "big", signed=True)
sys.exit(code if code >= 0 else 128 - code)
"""
MODULES = {"pip": "pip", "pytest": "pytest", "torchrun": "torch.distributed.run", "tensorboard": "tensorboard.main"}
# Commands that stay in the foreground: what they get besides, and how the line begins that says that they listen
SERVERS = {"tensorboard": ("--port 0", "TensorBoard ")}
PIP = {  # a plugin's wheel is built with what is installed
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # pip reads 0 as `--no-build-isolation`
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


@dataclass(frozen=True)
class Printed:
    """What a command did."""

    command: str
    code: int
    output: str  # of both streams

    def __str__(self) -> str:
        return f"$ {self.command}\n{self.output}[exit code {self.code}]"


def forking_commands(folder: Path) -> Path:
    """A folder of commands that run the code of this repository without a new interpreter, which takes two seconds."""
    for name, text in {
        "nanogpt-kit": CLIENT.format(python=sys.executable, address=launcher.address()),
        "python": f'#!/bin/sh\nexec env PYTHONPATH="{ROOT}" "{sys.executable}" "$@"\n',
    }.items():
        write_program(folder / name, text)
    for tool in ("taplo", "tombi"):
        (folder / tool).symlink_to(Path(sys.executable).with_name(tool))
    return folder


def write_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def receives_ctrl_c() -> None:
    """In the new process: a shell that starts the tests in the background has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Shell:
    """Commands that are typed one after the other, the first of them in `folder`.

    `threads` is the number of threads of each; None leaves it to the kit. `commands` is the folder of the commands of
    an environment, or the one of `forking_commands`.
    """

    def __init__(self, commands: Path, folder: Path, state: Path, threads: int | None = 1) -> None:
        self.commands, self.state = commands, state
        self.folder = folder
        for path in (state, folder.parent / "home"):
            path.mkdir(exist_ok=True)
        (state / "folder").write_text(f"{folder}\n", encoding="utf-8")
        self.environment = {**Newcomer(commands, folder).environment(), **PIP}
        if threads is None:
            del self.environment["OMP_NUM_THREADS"]
        else:
            self.environment["NANOGPT_KIT_CALIBRATION"] = "off"
        self._link_modules()

    def _link_modules(self) -> None:
        """The commands of other distributions, which run modules of this environment."""
        for name, module in MODULES.items():
            if not (self.commands / name).exists():
                text = f'#!/bin/sh\nexec "{self.commands}/python" -P -m {module} "$@"\n'
                write_program(self.commands / name, text)

    @property
    def current_folder(self) -> Path:
        return Path((self.state / "folder").read_text(encoding="utf-8").strip())

    def run(self, command: str, until: str | None = None) -> Printed:
        """Runs a command to its end; with `until` it gets Ctrl-C when it prints a line that begins so.

        A server is asked for a page before it is stopped, and its exit code is 0 where it answers.
        """
        program = "" if "\n" in command.strip() else shlex.split(command, comments=True)[0]
        if program in SERVERS:
            arguments, line = SERVERS[program]
            return self._serve(command, f"{command.partition('  #')[0].strip()} {arguments}", line)
        with self._start(command) as process:
            assert process.stdout
            lines: list[str] = []
            for printed in process.stdout if until else ():
                lines.append(printed)
                if printed.startswith(until or ""):
                    os.killpg(process.pid, signal.SIGINT)
                    break
            output = "".join([*lines, self._rest(process)])
        return Printed(command, process.returncode, output)

    def _start(self, command: str) -> subprocess.Popen[str]:
        """As the leader of a process group: Ctrl-C reaches every process of a command."""
        script = SESSION.format(state=shlex.quote(str(self.state))) + command + "\n"
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=receives_ctrl_c,
        )

    def _rest(self, process: subprocess.Popen[str]) -> str:
        try:
            return process.communicate(timeout=TIMEOUT)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"{process.communicate()[0]}\n[stopped after {TIMEOUT} seconds]\n"

    def _serve(self, command: str, changed: str, beginning: str) -> Printed:
        with self._start(changed) as process:
            assert process.stdout
            lines, answered = [], False
            for line in process.stdout:
                lines.append(line)
                if line.startswith(beginning):
                    (address,) = [word for word in line.split() if word.startswith("http://")]
                    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                    with suppress(OSError), opener.open(address, timeout=60) as answer:
                        answered = answer.status == 200
                    break
            os.killpg(process.pid, signal.SIGINT)
            lines.append(self._rest(process))
        return Printed(command, 0 if answered else process.returncode or 1, "".join(lines))
