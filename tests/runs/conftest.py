"""What the tests of run folders share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

HOLD = """
import sys
from pathlib import Path
from nanogpt_kit.runs.lock import Lock

with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder() -> Callable[[Path], AbstractContextManager[subprocess.Popen[str]]]:
    """`holder(path)`: another process that holds the lock until its input ends, or it is killed."""

    @contextmanager
    def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
            process.kill()

    return holding


def git(where: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, and a user who likes their diffs in colour."""
    config = {
        "user.name": "n",
        "user.email": "e",
        "color.ui": "always",
        "diff.noprefix": "true",
        "init.defaultBranch": "m",
    }
    (tmp_path / "gitconfig").write_text("")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for key, value in config.items():
        git(tmp_path, "config", "--global", key, value)
    top = tmp_path / "repository"
    (top / "deep").mkdir(parents=True)
    for name in ("kept.py", "changed.py", "deleted.py", "staged.py", "deep/moved.py", "run.sh"):
        (top / name).write_text(f"print({name!r})\n")
    (top / "data.bin").write_bytes(bytes(range(256)))
    (top / ".gitignore").write_text("*.log\nruns/\n")
    git(top, "init", "--quiet")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "first")
    return top
