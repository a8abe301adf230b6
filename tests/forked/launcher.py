"""Starts `python -m nanogpt_kit`, `python script.py` and `python -Pc code` by forking a process that imported torch.

`install` puts a Popen in place of subprocess.Popen that hands such commands to a server, which forks itself for each.
The command runs in a separate process with the working directory, environment, streams and session that Popen was asked
for; it can be killed, and its exit status is the real one. A new session takes its input as its terminal where that is
one. What the command starts with subprocess is forked as well. Everything else (other programs, other options of the
interpreter such as a plain `-c`, a `preexec_fn`) is started as usual, and so is all of a test that takes the fixture
`real_processes`: for claims about imports, or about the death of a parent.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

RealPopen = subprocess.Popen
EXECUTABLE = sys.executable
ADDRESS = "NANOGPT_KIT_TEST_LAUNCHER"  # environment: the socket of the server
PARENT = "NANOGPT_KIT_PARENT"  # environment: the process that a command ends with
PRELOADED = (
    "torch",
    "torch.distributed",
    "torch.distributed.fsdp",
    "torch._dynamo",
    "nanogpt_kit.__main__",
    "nanogpt_kit.train.session",
)
OPTIONAL = ("nanogpt_kit.sweep.session", "torch.utils.tensorboard")
REFUSED = ("PYTHONIOENCODING", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONHASHSEED", "TORCH_LOGS")


class ForkedPopen(RealPopen):  # type: ignore[type-arg]
    """subprocess.Popen, except that commands of nanogpt-kit are forked from the server."""

    connection: socket.socket | None = None

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _close_fds, pass_fds, cwd, env, _startupinfo, _creationflags, shell, *streams = rest
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, _, gid, gids, uid, umask, session, group = streams
        words = command_words(args)
        environment = dict(os.environ if env is None else {os.fsdecode(k): os.fsdecode(v) for k, v in env.items()})
        special = preexec_fn or pass_fds or shell or executable or (gid, gids, uid, umask) != (None, None, None, -1)
        if words is None or special or group not in (None, -1) or not is_served(environment):
            super()._execute_child(args, executable, preexec_fn, *rest)
            return
        request = {
            "words": words,
            "folder": os.fspath(cwd) if cwd is not None else os.getcwd(),
            "environment": environment,
            "session": bool(session),
        }
        given = [fd if fd != -1 else default for fd, default in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2))]
        self.connection = socket.socket(socket.AF_UNIX)
        try:
            self.connection.connect(address())
            message = json.dumps(request).encode("utf-8", "surrogateescape")
            socket.send_fds(self.connection, [len(message).to_bytes(4, "big")], given)
            self.connection.sendall(message)
            self.pid = int.from_bytes(received(self.connection, 4), "big")
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        if self.connection is None:
            return super()._internal_poll(*args, **kwargs)  # type: ignore[misc]
        if self.returncode is None:
            self._receive(0.0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.connection is None:
            return super()._wait(timeout)  # type: ignore[misc]
        if self.returncode is None and not self._receive(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def _receive(self, timeout: float | None) -> bool:
        """Waits for the exit status. False where it has not come in time."""
        assert self.connection is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            if not selector.select(timeout):
                return False
        self.returncode = int.from_bytes(received(self.connection, 4), "big", signed=True)
        self.connection.close()
        return True


def command_words(args: Any) -> list[str] | None:
    """The words after `python`: `-m nanogpt_kit ...`, `script.py ...` or `-Pc code ...`; None for all others."""
    words = [os.fsdecode(word) for word in args] if isinstance(args, list | tuple) else []
    if words[:1] != [EXECUTABLE]:
        return None
    words = words[2:] if words[1:2] == ["-P"] else words[1:]
    return words if words[:2] == ["-m", "nanogpt_kit"] or words[0] == "-Pc" or words[0].endswith(".py") else None


def is_served(environment: dict[str, str]) -> bool:
    """Whether a forked process can be what a new interpreter would be in this environment."""
    folders = environment.get("PYTHONPATH", "").split(os.pathsep)
    address()
    return not any(name in environment for name in REFUSED) and {f for f in folders if f} <= set(IMPORT_PATH)


def address() -> str:
    """Of the server's socket; the first caller starts the server, which ends with this process."""
    if not SOCKETS:
        folder = tempfile.mkdtemp(prefix="nanogpt-kit-launcher-")
        SOCKETS.append(str(Path(folder) / "socket"))
        IMPORT_PATH.extend(part for part in sys.path if part)
        environment = {**os.environ, ADDRESS: SOCKETS[0], "PYTHONPATH": os.pathsep.join(IMPORT_PATH)}
        server = RealPopen([EXECUTABLE, "-P", __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert server.stdout is not None
        server.stdout.readline()
        atexit.register(server.communicate)  # closes its standard input, and so ends it
    return SOCKETS[0]


SOCKETS: list[str] = []  # the one that is used, once it is known
IMPORT_PATH: list[str] = []  # of the server


def received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the launcher has ended")
        data += part
    return data


def install() -> None:
    """Where processes can be forked: on Linux and macOS."""
    if hasattr(os, "fork"):
        subprocess.Popen = ForkedPopen  # type: ignore[misc]


def serve() -> None:
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    for name in OPTIONAL:
        with suppress(ImportError):
            importlib.import_module(name)
    del sys.modules["nanogpt_kit.__main__"]  # each command executes it
    gc.freeze()  # memory that no child's garbage collector touches stays shared
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKETS[0])
    listener.listen(64)
    wake, signal_end = os.pipe()
    os.set_blocking(signal_end, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(signal_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    for source in (listener, wake, 0):
        selector.register(source, selectors.EVENT_READ)
    children: dict[int, tuple[socket.socket, bool]] = {}  # pid -> who asked for it, whether it ends with that
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj == 0:  # who started this server has ended
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                os.unlink(SOCKETS[0])
                os.rmdir(os.path.dirname(SOCKETS[0]))
                os._exit(0)
            elif key.fileobj is listener:
                connection, _ = listener.accept()
                pid, with_parent = fork(connection, listener, selector)
                children[pid] = connection, with_parent
                selector.register(connection, selectors.EVENT_READ, pid)
                connection.sendall(pid.to_bytes(4, "big"))
            elif key.fileobj == wake:
                os.read(wake, 4096)
            elif isinstance(key.fileobj, socket.socket):  # the end of who asked
                selector.unregister(key.fileobj)
                if children.get(key.data, (None, False))[1]:
                    os.kill(key.data, signal.SIGKILL)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            connection, _ = children.pop(pid)
            if connection in selector.get_map():
                selector.unregister(connection)
            with suppress(OSError):
                connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
            connection.close()


def fork(connection: socket.socket, listener: socket.socket, selector: selectors.BaseSelector) -> tuple[int, bool]:
    size, fds, _, _ = socket.recv_fds(connection, 4, 3)
    request = json.loads(received(connection, int.from_bytes(size, "big")).decode("utf-8", "surrogateescape"))
    with_parent = PARENT in request["environment"]
    if with_parent:  # its parent is this process; the connection ends with the process that it is meant to end with
        request["environment"][PARENT] = str(os.getpid())
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        return pid, with_parent
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        os.closerange(3, 256)
        become(request)
    finally:
        os._exit(70)
    raise AssertionError


def become(request: dict[str, Any]) -> None:
    """In the forked process: what a new interpreter would be, and its command."""
    if request["session"]:
        os.setsid()
        if os.isatty(0):
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    gc.enable()
    os.environ.clear()
    os.environ |= request["environment"]
    time.tzset()
    os.chdir(request["folder"])
    raw = io.FileIO(0, closefd=False), io.FileIO(1, "w", closefd=False), io.FileIO(2, "w", closefd=False)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(raw[0]), "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw[1]), "utf-8", "strict", line_buffering=os.isatty(1))
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw[2]), "utf-8", "backslashreplace", line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    command, *words = request["words"][request["words"][0] == "-m" :]
    code = words.pop(0) if command == "-Pc" else None
    sys.argv = ["-c" if code else command, *words]
    import torch

    from nanogpt_kit.system.folders import available_cores

    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    torch.set_num_threads(int(threads) if threads.isdecimal() and int(threads) else len(available_cores()))
    status = 0
    try:
        if code is not None:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), main.__dict__)
        elif command.endswith(".py"):
            runpy.run_path(command, run_name="__main__")
        else:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status == 1 and isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 120
    os._exit(status)


if __name__ == "__main__":
    SOCKETS.append(os.environ.pop(ADDRESS))
    IMPORT_PATH.extend(sys.path)
    install()
    serve()
