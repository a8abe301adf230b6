"""What is written into a run, a sweep or prepared data stays in its folder, whatever links somebody has put there."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data import prepare as preparing
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep import session as sweeping
from nanogpt_kit.sweep.study.summary import sweep_folder
from nanogpt_kit.system.json_files import read_json
from nanogpt_kit.train import session

QUICK = (
    "sample.num_samples=0",
    "train.compile=off",
    "train.steps=2",
    "schedule=constant",
    "evaluate.every_steps=2",
    "checkpoint.every_steps=2",
    "evaluator=['loss']",
)
WRITTEN = (
    "checkpoints",
    "components",
    "lock",
    "metrics.jsonl",
    "samples.txt",
    "status.json",
    "events.out.tfevents.1",
    "components/deep",
    "provenance.json",
    "experiment.toml",
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_step(run: RunFolder) -> int:
    return int(read_json(run.path / "status.json")["step"])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing may be written to."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    return folder


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    return session.run(Experiment.load(tiny, [*QUICK, "callback=['tensorboard']"]), into=tmp_path / "run").path


@pytest.fixture
def more(tiny: Path) -> Experiment:
    return Experiment.load(tiny, [*QUICK, "train.steps=3", "callback=['tensorboard']"])


def test_a_run_with_a_link_in_it_is_refused_by_name_before_anything_is_written(
    run: Path, outside: Path, more: Experiment, tmp_path: Path
) -> None:
    (run / "components").mkdir()
    for name in WRITTEN:
        path, aside = run / name, tmp_path / "aside"
        if path.exists():
            path.rename(aside)
        was_there = aside.exists()
        for target in (outside, outside / "precious", outside / "new", Path("/dev/zero")):
            path.symlink_to(aside if name == "experiment.toml" else target)  # which makes it a run
            before = files(run)
            for how in ({"into": run}, {"resume": str(run)}):
                with pytest.raises(KitError, match=f"{path} is a link"):
                    session.run(more, **how)
                assert files(run) == before
                assert files(outside) == {"precious": b"precious"}
            path.unlink()
        if was_there:
            aside.rename(path)
    assert session.run(more, into=run)


def test_a_fifo_in_a_run_does_not_block_it(run: Path, more: Experiment) -> None:
    for name in ("metrics.jsonl", "lock", "samples.txt"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
        with pytest.raises(KitError, match=f"{name} is neither a file nor a folder"):
            session.run(more, into=run)
        (run / name).unlink()


@pytest.mark.parametrize("name", ["components", "provenance.json", ".experiment.toml.0123456789abcdef.tmp"])
def test_a_link_where_a_run_is_to_begin_is_refused(name: str, outside: Path, tiny: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (into / name).symlink_to(outside)
    with pytest.raises(KitError, match=f"{into / name} is a link"):
        session.run(Experiment.load(tiny, [*QUICK, "callback=[]"]), into=into)
    assert files(outside) == {"precious": b"precious"}


def test_the_run_itself_and_all_runs_may_be_links(
    run: Path, more: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(run)
    assert last_step(session.run(more, into=tmp_path / "link")) == 3
    (tmp_path / "disk").mkdir()
    (tmp_path / "many").symlink_to(tmp_path / "disk")
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / "many"))
    assert last_step(session.run(more)) == 3


def test_a_linked_checkpoint_is_skipped_and_its_target_stays(
    run: Path, more: Experiment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run, tmp_path / "other")
    before = files(tmp_path / "other")
    for step in (1, 3, 9):
        (run / "checkpoints" / f"step-{step:08d}").symlink_to(tmp_path / "other" / "checkpoints" / "step-00000002")
    assert last_step(session.run(more, into=run)) == 3
    assert "step-00000009: it is a link" in caplog.text
    assert files(tmp_path / "other") == before
    assert not (run / "checkpoints" / "step-00000003").is_symlink()


def test_temporary_files_of_a_killed_run_are_removed_on_resume(run: Path, more: Experiment) -> None:
    (run / "components").mkdir()
    for name in (".samples.txt.0123456789abcdef.tmp", "components/.mine.py.0123456789abcdef.tmp"):
        (run / name).write_text("half")
    session.run(more, into=run)
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(
    "name", ["study.journal", "trials", "trials/id", "trial-0000-s1337", "best.toml", "sweep.json"]
)
def test_a_sweep_with_a_link_in_its_folder_is_refused_by_name(name: str, outside: Path, tiny: Path) -> None:
    table = '\n[sweep]\nmetric = "val/loss"\ntrials = 1\n[sweep.space.optimizer.lr]\nchoice = [1e-3, 3e-3]\n'
    tiny.write_text(tiny.read_text() + table)
    path = sweep_folder("tiny") / name
    path.parent.mkdir(parents=True)
    path.symlink_to(outside / "new")
    with pytest.raises(KitError, match=f"{name} is a link"):
        sweeping.run_sweep(Experiment.load(tiny, [*QUICK, "callback=[]"]))
    assert files(outside) == {"precious": b"precious"}


@pytest.mark.parametrize("name", ["", "train.bin", "manifest.json"])
def test_data_is_prepared_in_its_own_folder_only(
    name: str, outside: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, build, planted = Experiment.load(tiny, QUICK), preparing.build_data_folder, []

    def plant(*values: Any) -> None:
        partial = values[2].with_name(f".{values[2].name}.{platform.node()}")
        path = partial / name if name else partial
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(outside)
        planted.append(path)
        build(*values)

    monkeypatch.setattr(preparing, "build_data_folder", plant)
    with pytest.raises(KitError, match=r"is a link|is not a folder"):
        preparing.prepare(experiment)
    assert files(outside) == {"precious": b"precious"}
    assert planted
