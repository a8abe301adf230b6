"""An environment over that of the command: what is installed there, and a target besides. It is removed again."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType

from nanogpt_kit import __version__
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.system.process_session import kill_session
from nanogpt_kit.system.signals import available_signals

KEPT_VERSIONS = ("torch",)  # what must not change when a missing library is installed: it is what the command runs with
ERROR_LINE = re.compile(r"\s*(ERROR|[\w.]*Error): ")  # of pip, or of a build backend; hints follow
SEEN_FROM = "environment_of_the_command.pth"


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal; None where the time limit was exceeded."""

    code: int | None
    output: str

    @property
    def last_line(self) -> str:
        return next((line.strip() for line in reversed(self.output.splitlines()) if line.strip()), "")


@dataclass(frozen=True)
class IsolatedEnvironment:
    folder: Path
    python: Path

    @property
    def work(self) -> Path:
        """The current folder of its processes."""
        return self.folder / "work"

    def run(self, arguments: Sequence[str], seconds: float, **variables: str) -> Ended:
        """Runs its Python, which has no other import path than its own, with the time limit. Ends all of its processes.

        Runs, prepared data, consents and temporary files are in its folder.
        """
        forgotten = ("PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS", "NANOGPT_KIT_FAILURE", "NANOGPT_KIT_PARENT")
        inherited = {name: value for name, value in os.environ.items() if name not in forgotten}
        own = {
            "NANOGPT_KIT_RUNS": self.folder / "runs",
            "NANOGPT_KIT_DATA": self.folder / "data",
            "XDG_STATE_HOME": self.folder / "state",
            "TMPDIR": self.folder / "tmp",
        }
        texts = {name: str(path) for name, path in own.items()}
        with tempfile.TemporaryFile(dir=self.folder) as output:
            process = subprocess.Popen(
                [self.python, "-P", *arguments],
                cwd=self.work,
                env={**inherited, **texts, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that the processes that it starts can be killed with it
            )
            try:
                code: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                kill_session(process)
            output.seek(0)
            return Ended(code, output.read().decode("utf-8", "replace"))

    def install(self, *words: str) -> None:
        """`pip install WORDS`, by the pip of the command. Raises KitError with the error that it prints."""
        kept = [KIT_DISTRIBUTION, *KEPT_VERSIONS]
        constraints = self.folder / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version_of(name)}\n" for name in kept), encoding="utf-8")
        pip = ["--python", str(self.python), "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
        run_pip([*pip, "--constraint", str(constraints), *words])


def version_of(distribution: str) -> str:
    return __version__ if distribution == KIT_DISTRIBUTION else metadata.version(distribution)


def run_pip(words: Sequence[str], cwd: Path | None = None) -> None:
    """Raises KitError with the error that pip prints."""
    done = subprocess.run([sys.executable, "-m", "pip", *words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        if "No module named pip" in done.stderr:
            raise KitError(f"pip is missing: {shlex.quote(sys.executable)} -m ensurepip")
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if ERROR_LINE.match(line)] or lines or ["no message"]
        raise KitError(f"pip failed: {errors[-1].strip()}")


@contextmanager
def isolated_environment() -> Iterator[IsolatedEnvironment]:
    """A new one, which has what the command itself can import, in the same order, and nothing else."""
    with interrupts(), tempfile.TemporaryDirectory(prefix="ngk-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        for part in ("work", "tmp", "state"):
            (folder / part).mkdir()
        builder = venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt")
        context = builder.ensure_directories(folder / "venv")
        builder.create(folder / "venv")
        paths = [path or os.getcwd() for path in sys.path]
        lines = [f"import site; site.addsitedir({path!r})\n" for path in paths if not is_of_python(path)]
        variables = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        site = Path(sysconfig.get_path("purelib", "venv", variables))
        (site / SEEN_FROM).write_text("".join(lines), encoding="utf-8")
        yield IsolatedEnvironment(folder, Path(context.env_exe))


@contextmanager
def interrupts() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does: nothing is left behind."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    previous = {number: signal.signal(number, stop) for number in available_signals(("SIGTERM", "SIGHUP"))}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_of_python(path: str) -> bool:
    """Whether it belongs to the interpreter itself, which the new environment shares."""
    folders = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    own = {*folders, *(folder / "lib-dynload" for folder in folders)}
    return Path(path) in own or path.endswith(".zip")
