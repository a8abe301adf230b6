"""The code of a run is a commit and a patch; what may be secret or data is named, not copied."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nanogpt_kit.runs import working_tree
from nanogpt_kit.runs.working_tree import GitState, code_state

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(where: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True).stdout


def tree(root: Path, but: tuple[str, ...] = ()) -> dict[str, tuple[str, object]]:
    """Every file with its content, symbolic links and the right to execute told apart."""
    found: dict[str, tuple[str, object]] = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_file() and not name.startswith((".git/", *but)):
            found[name] = ("program" if os.access(path, os.X_OK) else "file", path.read_bytes())
    return found


def files_in(patch: bytes) -> list[bytes]:
    return re.findall(rb"^diff --git a/(.*) b/", patch, re.MULTILINE)


@needs_git
def test_the_patch_turns_a_clean_clone_into_the_tree_that_ran(repository: Path, tmp_path: Path) -> None:
    top = repository
    (top / "changed.py").write_bytes(b"no newline at the end \xe9\r\n\r\nx")
    (top / "data.bin").write_bytes(bytes(range(255, -1, -1)) * 3)
    (top / "deleted.py").unlink()
    (top / "run.sh").chmod(0o755)
    (top / "deep" / "moved.py").rename(top / "moved.py")
    (top / "staged.py").write_text("staged, ")
    git(top, "add", "staged.py")
    (top / "staged.py").write_text("then changed again")
    (top / "new and staged.py").write_text("staged only")
    git(top, "add", "new and staged.py")
    (top / "deep" / "untracked \u2603.py").write_text("untracked")
    (top / "deep" / ":!*.py").write_text("a name that looks like a pattern")
    (top / "deep" / "empty.py").touch()
    git(top, "--literal-pathspecs", "add", "deep/:!*.py", "deep/empty.py")
    (top / "kept.py").unlink()
    (top / "kept.py").symlink_to("no such file")
    (top / "noise.log").write_text("ignored")

    sources = [top / "deep", top / "moved.py", top / "new and staged.py"]
    state, patch = code_state(top / "deep", sources)

    commit = git(top, "rev-parse", "HEAD").decode().strip()
    assert state == GitState(commit=commit, dirty=True)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(top), str(clone))
    (tmp_path / "dirty.patch").write_bytes(patch)
    git(clone, "-c", "core.fileMode=true", "apply", "--whitespace=nowarn", str(tmp_path / "dirty.patch"))
    assert tree(clone) == tree(top, but=("noise.log",))


@needs_git
@pytest.mark.parametrize("split", ["false", "true"])
def test_the_users_index_and_objects_stay_as_they_are(repository: Path, split: str) -> None:
    git(repository, "config", "core.splitIndex", split)
    (repository / "changed.py").write_text("changed")
    (repository / "staged.py").write_text("staged")
    git(repository, "add", "staged.py")
    (repository / "untracked.py").write_text("untracked")
    before = {path: path.read_bytes() for path in (repository / ".git").rglob("*") if path.is_file()}
    status = git(repository, "status", "--porcelain")
    index = repository / ".git" / "index"
    index.write_bytes(before[index])
    _, patch = code_state(repository, [repository])
    assert all(name in patch for name in (b"changed.py", b"staged.py", b"untracked.py"))
    assert {path: path.read_bytes() for path in (repository / ".git").rglob("*") if path.is_file()} == before
    assert git(repository, "status", "--porcelain") == status


@needs_git
def test_more_files_than_a_command_line_holds_are_all_in_the_patch(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    for number in range(9_000):  # hard links to one empty file: quick to make
        os.link(tmp_path / "a file", repository / f"{'long' * 60}-{number}.py")
    _, patch = code_state(repository, [repository])
    assert patch.count(b"diff --git ") == 9_000
    state, patch = code_state(repository, [])
    assert (len(state.left_out), state.left_out_count, patch) == (100, 9_000, b"")


@needs_git
def test_a_clean_repository_has_no_patch(repository: Path) -> None:
    (repository / "noise.log").write_text("ignored")
    state, patch = code_state(repository, [repository])
    assert state is not None
    assert not state.dirty
    assert patch == b""


@needs_git
@pytest.mark.parametrize(
    "staged", [(), ("add", "."), ("add", "--intent-to-add", ".")], ids=["untracked", "added", "intent"]
)
def test_new_files_are_recorded_only_where_they_are_code_of_the_run(repository: Path, staged: tuple[str, ...]) -> None:
    package = repository / "deep"
    secrets = (".env", ".netrc", "id_rsa", "conf.toml", "deep/.env", "deep/key.pem", "mine.py", "my\udcff.txt")
    for name in (*secrets, "component.py", "deep/code.py", "deep/site-packages/other.py"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_text(f"password of {name.encode('ascii', 'replace')}")
    (package / "link.py").symlink_to(repository / ".env")
    (repository / "other").mkdir()
    git(repository / "other", "init", "--quiet")
    (repository / "other" / "code.py").touch()
    other = "other/"  # how git names an untracked repository
    if staged:
        git(repository / "other", "add", ".")
        git(repository / "other", "commit", "--quiet", "-m", "first")
        git(repository, *staged)
        (repository / ".env").write_text("changed after it was staged: a password")
        other = "other"
    sources = [repository / "component.py", package, repository / "other", repository / ".env", repository / "none.py"]
    state, patch = code_state(repository, sources)
    assert state is not None
    assert set(files_in(patch)) == {b"component.py", b"deep/code.py"}
    assert set(state.left_out) == {*secrets, "deep/link.py", "deep/site-packages/other.py", other}
    assert state.left_out_count == len(state.left_out)
    assert state.dirty


@needs_git
@pytest.mark.parametrize("staged", [False, True])
def test_large_files_are_named_and_left_out(repository: Path, monkeypatch: pytest.MonkeyPatch, staged: bool) -> None:
    monkeypatch.setattr(working_tree, "MAX_BYTES", 1000)
    for name, size in {"small.py": 1000, "large.py": 1001, "changed.py": 1001, "run.sh": 1000, "[d]*.py": 1001}.items():
        (repository / name).write_bytes(b"\n" * size)
    if staged:
        git(repository, "add", ".")
    state, patch = code_state(repository, [repository])
    assert state is not None
    assert list(state.left_out) == ["[d]*.py", "changed.py", "large.py"]
    assert sorted(files_in(patch)) == [b"run.sh", b"small.py"]


@needs_git
def test_a_file_that_is_only_moved_is_a_change_of_the_commits_file(repository: Path) -> None:
    git(repository, "mv", "data.bin", "moved.bin")
    git(repository, "mv", "run.sh", ".env")
    (repository / ".env").write_text("a password")
    state, patch = code_state(repository, [])
    assert state is not None
    assert list(state.left_out) == [".env"]
    assert sorted(files_in(patch)) == [b"data.bin", b"moved.bin", b"run.sh"]
    assert b"a password" not in patch


@needs_git
def test_a_folder_that_became_a_link_is_not_followed(repository: Path, tmp_path: Path) -> None:
    (repository / "deep").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "moved.py").write_text("a secret")
    (repository / "deep").symlink_to(tmp_path / "elsewhere")
    state, patch = code_state(repository, [repository])
    assert state is not None
    assert b"deleted file" in patch
    assert b"a secret" not in patch
    assert list(state.left_out) == ["deep"]


@needs_git
def test_changes_within_a_submodule_are_named(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(repository), str(tmp_path / "theirs"))
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "theirs"), "sub")
    git(repository, "commit", "--quiet", "-m", "with a submodule")
    (repository / "sub" / "changed.py").write_text("changed")
    state, patch = code_state(repository, [repository])
    assert state is not None
    assert (list(state.left_out), state.dirty, patch) == (["sub"], True, b"")


@needs_git
def test_no_hook_of_the_repository_is_run(repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {repository}/ran\n")
    hook.chmod(0o755)
    (repository / "changed.py").write_text("changed")
    assert code_state(repository, [])[1]
    assert not (repository / "ran").exists()


@needs_git
def test_without_a_commit_or_a_repository_or_git_there_is_no_code_state(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new").mkdir()
    assert code_state(tmp_path / "new", []) == (None, b"")
    git(tmp_path / "new", "init", "--quiet")
    assert code_state(tmp_path / "new", []) == (None, b"")
    assert code_state(repository, [])[0] is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_state(repository, []) == (None, b"")
