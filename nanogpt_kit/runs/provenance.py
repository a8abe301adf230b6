"""Where a run came from: command, code, data, machine."""

from __future__ import annotations

import getpass
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.secrets import masked, masked_patch

MAX_UNTRACKED_BYTES = 1_000_000  # a larger untracked file is data, not code: it is named, not copied
LIBRARIES = ("torch", "numpy", "pydantic", "safetensors")


def collect(experiment: Experiment, data: dict[str, Any], hardware: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """provenance.json, and the patch from the commit to the code that ran (empty where nothing differed)."""
    git, patch = code_state(Path.cwd())
    entries = {experiment.entry_of(part) for _, part in experiment.parts()}
    versions = {entry.distribution: entry.version for entry in sorted(entries, key=lambda entry: entry.distribution)}
    values = {
        "command": masked(shlex.join(sys.argv)),
        "folder": str(Path.cwd()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": experiment.train.seed,
        "fingerprint": experiment.fingerprint(),
        "components": {
            ".".join(map(str, key)): experiment.entry_of(part).qualified for key, part in experiment.parts()
        },
        "distributions": {**versions, **{name: metadata.version(name) for name in LIBRARIES}},
        "git": git,
        "data": data,
        "machine": {
            "host": platform.node(),
            "user": user(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            **hardware,
        },
    }
    return values, masked_patch(patch)


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def code_state(folder: Path) -> tuple[dict[str, Any] | None, bytes]:
    """The commit of the repository around `folder`, and a patch from it to the working tree, untracked files too."""
    try:
        top = Path(git(folder, "rev-parse", "--show-toplevel").decode().strip())
        commit = git(top, "rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):  # no repository, or no git
        return None, b""
    try:
        left_out, patch = difference(top)
    except (OSError, subprocess.CalledProcessError) as error:  # a run matters more than the story of its code
        return {"commit": commit, "dirty": f"unknown: {error}"}, b""
    return {"commit": commit, "dirty": bool(patch or left_out), "untracked_left_out": left_out}, patch


def difference(top: Path) -> tuple[list[str], bytes]:
    """What is too large to copy, and the patch from HEAD to everything else in the working tree."""
    with tempfile.TemporaryDirectory() as scratch:  # an index and objects of our own: the user's stay as they are
        objects = git(top, "rev-parse", "--git-path", "objects").decode().strip()
        aside = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((top / objects).resolve()),
        }
        git(top, "read-tree", "HEAD", env=aside)
        git(top, "add", "--update", env=aside)
        listed = git(top, "ls-files", "--others", "--exclude-standard", "-z", env=aside)  # what is merely staged too
        untracked = os.fsdecode(listed).split("\0")[:-1]
        files = [name for name in untracked if not name.endswith("/")]  # else a repository within this one
        small = [name for name in files if (top / name).lstat().st_size <= MAX_UNTRACKED_BYTES]
        if small:
            names = os.fsencode("\0".join(small))  # by standard input: a command line has an end
            add = ("--literal-pathspecs", "add", "--pathspec-from-file=-", "--pathspec-file-nul")
            git(top, *add, env=aside, given=names)
        patch = git(top, "diff-index", "--cached", "--binary", "HEAD", env=aside)  # `diff` obeys the user's colours
    return sorted(set(untracked) - set(small)), patch


def git(folder: Path, *words: str, env: dict[str, str] | None = None, given: bytes = b"") -> bytes:
    command, env = ["git", "-C", str(folder), *words], {**os.environ, **(env or {})}
    return subprocess.run(command, check=True, capture_output=True, input=given, env=env).stdout
