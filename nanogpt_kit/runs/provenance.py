"""Where a run came from: command, code, data, machine."""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.secrets import hide_in_command, hide_in_patch

MOST_BYTES = 10_000_000  # a larger file is data, not code: it is named, not copied
MOST_NAMES = 100  # of files that were left out; their count is complete
NAMES_SHOWN = 3
LIBRARIES = ("torch", "numpy", "pydantic", "safetensors")


def collect(experiment: Experiment, data: dict[str, Any], hardware: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """provenance.json, and the patch from the commit to the code that ran (empty where nothing differed)."""
    git, patch = code_state(Path.cwd(), source_places(experiment))
    entries = {experiment.entry_of(part) for _, part in experiment.parts()}
    versions = {entry.distribution: entry.version for entry in sorted(entries, key=lambda entry: entry.distribution)}
    values = {
        "command": hide_in_command(sys.argv),
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
    return values, hide_in_patch(patch)


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def left_out(origin: dict[str, Any]) -> str:
    """Of the working tree, for people: a count and the first names; empty where nothing was left out."""
    git = origin["git"] or {}
    count, first = git.get("left_out_count", 0), git.get("left_out", [])[:NAMES_SHOWN]
    if not count:
        return ""
    shown = ", ".join(ascii(name)[1:-1] if not name.isprintable() else name for name in first)
    files = "1 file" if count == 1 else f"{count:,} files"
    return f"{files} that no commit has, or too large ({shown}{', ...' if count > len(first) else ''})"


def source_places(experiment: Experiment) -> list[Path]:
    """The code of a run: its component files, and the packages (or modules) that its other components come from."""
    places = [path.absolute() for path in experiment.component_files]
    targets = {experiment.entry_of(part).target for _, part in experiment.parts()}
    for name in {"nanogpt_kit", *(target.partition(":")[0].partition(".")[0] for target in targets)}:
        module = sys.modules.get(name)
        folders = list(getattr(module, "__path__", ()))  # several, of a namespace package
        places += map(Path, folders or filter(None, [getattr(module, "__file__", None)]))
    return [Path(os.path.realpath(place)) for place in places]


def code_state(folder: Path, sources: Sequence[Path]) -> tuple[dict[str, Any] | None, bytes]:
    """The commit of the repository around `folder`, and a patch from it to the code in the working tree.

    The patch contains every change of a file of the commit, and of new files, staged or not, those below `sources`:
    others may be keys, passwords or data. Those are named.
    """
    try:
        top = Path(os.path.realpath(os.fsdecode(git(folder, "rev-parse", "--show-toplevel").removesuffix(b"\n"))))
        commit = git(top, "rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):  # no repository, or no git
        return None, b""
    try:
        left_out, patch = difference(top, sources)
    except (OSError, subprocess.CalledProcessError) as error:  # a run matters more than the record of its code
        return {"commit": commit, "dirty": f"unknown: {error}"}, b""
    count = len(left_out)
    state = {
        "commit": commit,
        "dirty": bool(patch or left_out),
        "left_out": left_out[:MOST_NAMES],
        "left_out_count": count,
    }
    return state, patch


def difference(top: Path, sources: Sequence[Path]) -> tuple[list[str], bytes]:
    """What is left out, and the patch from HEAD to everything else in the working tree."""
    with tempfile.TemporaryDirectory() as scratch:  # an index and objects of our own: the user's stay as they are
        objects, index = (top / git_path(top, name) for name in ("objects", "index"))
        aside = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects.resolve()),
        }
        if index.exists():  # its times spare reading every file
            shutil.copy2(index, f"{scratch}/index")
        else:
            git(top, "read-tree", "HEAD", env=aside)
        git(top, "update-index", "-q", "--refresh", env=aside)
        changed = names(git(top, "diff-files", "--name-only", "--ignore-submodules=dirty", "-z", env=aside))
        untracked = names(git(top, "ls-files", "--others", "--exclude-standard", "-z", env=aside))
        code = [name for name in untracked if is_source(top, name, sources)]
        taken = [name for name in (*changed, *code) if size(top / name) <= MOST_BYTES]
        gone = [name for name in taken if is_behind_link(top / name)]
        for option, these in (("--force-remove", gone), ("--remove", sorted({*taken} - {*gone}))):
            given = os.fsencode("".join(f"{name}\0" for name in these))  # a command line has an end
            git(top, "update-index", "--add", option, "-z", "--stdin", env=aside, given=given)
        # A file that was only moved is not new: the commit has its content
        added = git(top, "diff-index", "--cached", "-M100%", "--diff-filter=A", "--name-only", "-z", "HEAD", env=aside)
        new = [name for name in names(added) if not is_source(top, name, sources)]
        given = os.fsencode("".join(f"{name}\0" for name in new))
        git(top, "update-index", "--force-remove", "-z", "--stdin", env=aside, given=given)
        differing = names(git(top, "diff-index", "--cached", "--name-only", "-z", "HEAD", env=aside))
        large = [name for name in differing if size(top / name) > MOST_BYTES]
        without = [f":(top,exclude,literal){name}" for name in large]
        # not by `diff`, which obeys the user's colours
        patch = git(top, "diff-index", "--cached", "--binary", "HEAD", "--", *without, env=aside)
        others = names(git(top, "diff-files", "--name-only", "--ignore-submodules=untracked", "-z", env=aside))
    return sorted({*untracked, *new, *large, *others} - set(code)), patch


def is_source(top: Path, name: str, sources: Sequence[Path]) -> bool:
    """Whether it is Python code that is one of `sources` or below one of them, itself and not through a link."""
    path = top / name
    if path.suffix != ".py" or "site-packages" in Path(name).parts or not 0 <= size(path) <= MOST_BYTES:
        return False
    return any(source in (path, *path.parents) for source in sources)


def is_behind_link(path: Path) -> bool:
    """Whether one of its folders is a link: what git tracked there is gone."""
    return os.path.realpath(path.parent) != str(path.parent)


def size(path: Path) -> int:
    """In bytes; -1 of what is not a regular file, or was deleted."""
    try:
        found = path.lstat()
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def git_path(top: Path, name: str) -> str:
    return os.fsdecode(git(top, "rev-parse", "--git-path", name).removesuffix(b"\n"))


def names(listed: bytes) -> list[str]:
    return os.fsdecode(listed).split("\0")[:-1]


def git(folder: Path, *words: str, env: dict[str, str] | None = None, given: bytes = b"") -> bytes:
    """What a git command prints. It runs no hook of the repository, and writes no index beside the user's."""
    quiet = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", "-c", "core.splitIndex=false")
    command = ["git", "-C", str(folder), *quiet, *words]
    return subprocess.run(
        command, check=True, capture_output=True, input=given, env={**os.environ, **(env or {})}
    ).stdout
