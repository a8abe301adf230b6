"""Records the code that a run executes: a commit, and a patch from it to the working tree, which stays unchanged."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nanogpt_kit.runs.record import AnyText, RecordPart

MAX_BYTES = 10_000_000  # a larger file is data, not code: it is named, not copied
MAX_NAMES = 100  # of files that were left out; their count is complete
NAMES_SHOWN = 3


class GitState(RecordPart):
    """The commit of a run's code, and whether the working tree differed from it."""

    commit: str  # its hash
    dirty: bool | AnyText  # "unknown: ..." where git failed
    left_out: Annotated[tuple[AnyText, ...], Field(strict=False)] = ()  # of dirty.patch; the first MAX_NAMES
    left_out_count: int = Field(0, ge=0)  # number of files that are left out

    def describe_left_out(self) -> str:
        """A count and the first names, for people; empty where the patch is complete."""
        if not self.left_out_count:
            return ""
        first = self.left_out[:NAMES_SHOWN]
        shown = ", ".join(ascii(name)[1:-1] if not name.isprintable() else name for name in first)
        files = "1 file" if self.left_out_count == 1 else f"{self.left_out_count:,} files"
        more = ", ..." if self.left_out_count > len(first) else ""
        return f"{files} not in the commit or too large ({shown}{more})"


def code_state(folder: Path, sources: Sequence[Path]) -> tuple[GitState | None, bytes]:
    """The commit of the repository around `folder`, and a patch from it to the code in the working tree.

    The patch contains all changes of files of the commit, and those new files, staged or not, that are below `sources`:
    others may be keys, passwords or data, and are only named.
    """
    try:
        found = run_git(folder, "rev-parse", "--show-toplevel", "HEAD").removesuffix(b"\n")
        named, _, commit = os.fsdecode(found).rpartition("\n")
        top = Path(os.path.realpath(named))
    except (OSError, subprocess.CalledProcessError):  # no repository, or no git
        return None, b""
    try:
        left_out, patch = patch_from_head(top, sources)
    except (OSError, subprocess.CalledProcessError) as error:  # provenance must never stop a run
        return GitState(commit=commit, dirty=f"unknown: {error}"), b""
    dirty = bool(patch or left_out)
    state = GitState(commit=commit, dirty=dirty, left_out=tuple(left_out[:MAX_NAMES]), left_out_count=len(left_out))
    return state, patch


def patch_from_head(top: Path, sources: Sequence[Path]) -> tuple[list[str], bytes]:
    """Names of files that are left out, and the patch from HEAD to everything else in the working tree."""
    with tempfile.TemporaryDirectory() as scratch:  # an index and objects of our own: those of the user stay unchanged
        objects, index = (top / name for name in git_paths(top, "objects", "index"))
        own = {
            "GIT_INDEX_FILE": f"{scratch}/index",
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects.resolve()),
        }
        if index.exists():  # its time stamps save reading every file
            shutil.copy2(index, f"{scratch}/index")
        else:
            run_git(top, "read-tree", "HEAD", env=own)
        run_git(top, "update-index", "-q", "--refresh", env=own)
        changed = split_names(run_git(top, "diff-files", "--name-only", "--ignore-submodules=dirty", "-z", env=own))
        untracked = split_names(run_git(top, "ls-files", "--others", "--exclude-standard", "-z", env=own))
        code = [name for name in untracked if is_source(top, name, sources)]
        included = [name for name in (*changed, *code) if regular_file_size(top / name) <= MAX_BYTES]
        gone = [name for name in included if is_behind_link(top / name)]
        update_index(top, ["--add", "--force-remove"], gone, own)
        update_index(top, ["--add", "--remove"], sorted({*included} - {*gone}), own)
        # A file that was only moved is not new: the commit contains it
        added = run_git(
            top, "diff-index", "--cached", "-M100%", "--diff-filter=A", "--name-only", "-z", "HEAD", env=own
        )
        new = [name for name in split_names(added) if not is_source(top, name, sources)]
        update_index(top, ["--force-remove"], new, own)
        differing = split_names(run_git(top, "diff-index", "--cached", "--name-only", "-z", "HEAD", env=own))
        large = [name for name in differing if regular_file_size(top / name) > MAX_BYTES]
        without = [f":(top,exclude,literal){name}" for name in large]
        # not `diff`, which uses the configured colours
        patch = differing and run_git(top, "diff-index", "--cached", "--binary", "HEAD", "--", *without, env=own)
        others = split_names(run_git(top, "diff-files", "--name-only", "--ignore-submodules=untracked", "-z", env=own))
    return sorted({*untracked, *new, *large, *others} - set(code)), patch or b""


def update_index(top: Path, options: Sequence[str], names: Sequence[str], env: dict[str, str]) -> None:
    """Without names nothing is started: each command takes 4 ms."""
    if names:
        stdin = os.fsencode("".join(f"{name}\0" for name in names))  # command lines are limited in length
        run_git(top, "update-index", *options, "-z", "--stdin", env=env, stdin=stdin)


def is_source(top: Path, name: str, sources: Sequence[Path]) -> bool:
    """Whether it is a Python file in or below one of `sources`, not reached through a link."""
    path = top / name
    if path.suffix != ".py" or "site-packages" in Path(name).parts or not 0 <= regular_file_size(path) <= MAX_BYTES:
        return False
    return any(source in (path, *path.parents) for source in sources)


def is_behind_link(path: Path) -> bool:
    """Whether one of its folders was replaced by a link, so that the file that git tracked is gone."""
    return os.path.realpath(path.parent) != str(path.parent)


def regular_file_size(path: Path) -> int:
    """The size in bytes; -1 for anything but a regular file."""
    try:
        found = path.lstat()
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def git_paths(top: Path, *names: str) -> list[str]:
    asked = [word for name in names for word in ("--git-path", name)]
    return os.fsdecode(run_git(top, "rev-parse", *asked)).split("\n")[:-1]


def split_names(listed: bytes) -> list[str]:
    return os.fsdecode(listed).split("\0")[:-1]


def run_git(folder: Path, *words: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> bytes:
    """The output of a git command, which runs no hooks and writes no shared index."""
    quiet = ("-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", "-c", "core.splitIndex=false")
    command = ["git", "-C", str(folder), *quiet, *words]
    return subprocess.run(
        command, check=True, capture_output=True, input=stdin, env={**os.environ, **(env or {})}
    ).stdout
