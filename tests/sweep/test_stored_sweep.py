"""A sweep is read from its folder alone: sweep.json has what the study lacks, and no password."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.report.report import build_page
from nanogpt_kit.sweep.study.storage import open_storage
from nanogpt_kit.sweep.study.stored_sweep import read_sweep_folder, write_sweep_record
from tests.sweep.planted_study import rates, shown, sweep_of

SPACE = {"optimizer.lr": {"float": [1e-4, 1e-2]}}


def close(storage: BaseStorage) -> None:
    """Closes the file of a database."""
    backend = getattr(storage, "_backend", storage)
    if hasattr(backend, "engine"):
        backend.engine.dispose()


def stored(folder: Path, storage: str = "journal", name: str = "planted") -> Path:
    """A sweep of three trials in this folder, as its controller leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    options = Sweep(space=SPACE, trials=3, pruner="median", storage=storage)
    _, study = sweep_of(rates([3.5, 3.25, 3.75]), name=name, pruner="median")
    copy = open_storage(storage, folder)
    optuna.copy_study(from_study_name=name, from_storage=study._storage, to_storage=copy, to_study_name=name)
    close(copy)
    write_sweep_record(name, options, folder)
    return folder


def test_the_page_of_a_sweep_needs_its_folder_alone(tmp_path: Path) -> None:
    stored(tmp_path / "before")
    folder = (tmp_path / "before").rename(tmp_path / "moved")
    before = sorted(folder.iterdir())
    summary, study, where = read_sweep_folder(folder)
    assert (summary.name, summary.options.pruner, where) == ("planted", "median", folder)
    assert "The best is trial 1 with val/loss = 3.25" in shown(build_page(summary, study, where).html())
    assert sorted(folder.iterdir()) == before, "reading changes nothing"


def test_a_storage_beside_the_folder_is_found_from_any_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "sweep", storage="shared.journal")
    monkeypatch.chdir("/")
    assert len(read_sweep_folder(tmp_path / "sweep")[0].trials) == 3


def test_a_password_is_not_recorded_and_asked_for(tmp_path: Path) -> None:
    url = "postgresql://me:secret-word@host/db"
    write_sweep_record("planted", Sweep(space=SPACE, storage=url), tmp_path)
    assert "secret-word" not in (tmp_path / "sweep.json").read_text(encoding="utf-8")
    with pytest.raises(KitError) as failure:
        read_sweep_folder(tmp_path)
    for told in (str(tmp_path), "postgresql://me:***@host/db", "NANOGPT_KIT_STORAGE"):
        assert told in str(failure.value)


def test_a_given_storage_replaces_the_recorded_one(tmp_path: Path) -> None:
    stored(tmp_path)
    url = "postgresql://me:secret-word@host/db"
    write_sweep_record("planted", Sweep(space=SPACE, storage=url), tmp_path)
    assert len(read_sweep_folder(tmp_path, storage="journal")[0].trials) == 3


def test_a_folder_without_a_sweep_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(KitError, match="no sweep has begun") as failure:
            read_sweep_folder(folder)
        assert str(folder / "sweep.json") in str(failure.value)


def test_a_folder_without_its_study_is_named(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "study.journal").unlink()
    with pytest.raises(KitError, match="no sweep has begun") as failure:
        read_sweep_folder(tmp_path)
    assert str(tmp_path / "study.journal") in str(failure.value)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 99, "name": "x"}', "\x00"])
def test_a_damaged_record_gets_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content, encoding="utf-8")
    with pytest.raises(KitError, match=r"sweep\.json.*the command of the sweep writes it again") as failure:
        read_sweep_folder(tmp_path)
    assert str(tmp_path) in str(failure.value)


@pytest.mark.parametrize("change", [{"trials": -1}, {"space": 3}, {"other": 1}, {"sampler": ["tpe"]}])
def test_damaged_options_get_a_sentence(change: dict[str, object], tmp_path: Path) -> None:
    path = stored(tmp_path) / "sweep.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["options"] |= change
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(KitError, match="options that cannot be read") as failure:
        read_sweep_folder(tmp_path)
    assert next(iter(change)) in str(failure.value)


def test_options_that_a_database_needs_are_kept(tmp_path: Path) -> None:
    stored(tmp_path / "one", storage=f"sqlite:///{tmp_path / 'shared.db'}")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    summary, study, _ = read_sweep_folder(tmp_path / "two")
    close(study._storage)
    assert len(summary.trials) == 3
