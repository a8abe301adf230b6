"""The folder of a new run: whole or absent, and without what is none of its business."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session

QUIET = ["train.steps=1", "sample.num_samples=0", "callback=[]"]
COMPONENT = """\
from nanogpt_kit.components.norm.rmsnorm import RMSNorm

class Mine(RMSNorm):
    pass
"""


@pytest.mark.parametrize("error", [RuntimeError("a bug"), UnicodeEncodeError("utf-8", "\udce9", 0, 1, "no")])
@pytest.mark.parametrize("into", [None, "into"])
def test_a_failed_creation_leaves_no_run_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, into: str | None
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(RunFolder, "write_provenance", fail)
    with pytest.raises(type(error)):
        session.run(Experiment.load(tiny, QUIET), into=tmp_path / into if into else None)
    assert not (tmp_path / "into").exists()
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def repository(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Around the experiment, which it tracks; the working folder."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "tiny.toml", "text.txt"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_untracked_secrets_are_named_and_not_copied(
    repository: Path, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (".env", "id_rsa", "conf.toml", "note.py", "o\udcff.txt"):
        (repository / name).write_text("h0rse-battery")
    (repository / "mine.py").write_text(COMPONENT)
    with caplog.at_level(logging.INFO, "nanogpt_kit"):
        options = [*QUIET, 'components=["mine.py"]', "model.norm=mine"]
        folder = session.run(Experiment.load(tiny, options))
    state = json.loads((folder.path / "provenance.json").read_text(encoding="utf-8"))["git"]
    assert {".env", "id_rsa", "conf.toml", "note.py", "o\udcff.txt"} <= set(state["left_out"])
    assert state["left_out_count"] == len(state["left_out"])
    assert b"class Mine" in (folder.path / "dirty.patch").read_bytes()
    assert not [path for path in folder.path.rglob("*") if path.is_file() and b"h0rse" in path.read_bytes()]
    printed = next(line for line in caplog.messages if "dirty.patch" in line)
    assert f"{state['left_out_count']} files" in printed
    assert ".env" in printed


def test_a_patch_is_for_its_owner_alone_and_the_rest_as_the_umask_says(repository: Path, tiny: Path) -> None:
    tiny.write_text(tiny.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    before = os.umask(0o027)
    try:
        folder = session.run(Experiment.load(tiny, QUIET))
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder.path / "dirty.patch").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder.path / "provenance.json").stat().st_mode) == 0o640
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o750


def test_the_patch_of_a_run_that_was_killed_before_it_began_is_not_the_next_ones(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no repository
    into = tmp_path / "into"
    into.mkdir()
    (into / "dirty.patch").write_text("old")
    session.run(Experiment.load(tiny, QUIET), into=into)
    assert not (into / "dirty.patch").exists()
