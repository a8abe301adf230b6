"""A checkpoint is whole or absent, and loading one runs no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.rng import isolated_rng, rng_state, seed_everything, set_rng_state
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.system.json_files import read_json, write_json
from nanogpt_kit.system.reading import sha256_file


def model(features: int = 5) -> nn.Module:
    module = nn.ModuleDict({"one": nn.Linear(3, features), "two": nn.Linear(3, features)})
    module["two"].weight = module["one"].weight
    return module


def saved(folder: Path, step: int, keep_last: int = 9) -> Path:
    return store.save_checkpoint(
        folder, step, model(), {"step": step, "tensor": torch.ones(2)}, {"use": "byte"}, store.Retention(keep_last)
    )


def test_weights_come_back_and_tied_ones_stay_tied(tmp_path: Path) -> None:
    before = model()
    path = store.save_checkpoint(tmp_path, 3, before, {"step": 3}, {})
    after = model()
    store.load_weights(path, after)
    assert torch.equal(after["one"].weight, before["one"].weight)
    assert torch.equal(after["two"].bias, before["two"].bias)
    assert after["one"].weight is after["two"].weight


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 100):
        saved(tmp_path, step, keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000030", "step-00000100"]


@pytest.mark.parametrize("name", [store.MODEL, store.TRAINING, store.TOKENIZER, store.MANIFEST])
@pytest.mark.parametrize("harm", ["missing", "cut short", "one byte changed"])
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, name: str, harm: str) -> None:
    whole = saved(tmp_path, 1)
    broken = saved(tmp_path, 2) / name
    content = broken.read_bytes()
    if harm == "missing":
        broken.unlink()
    elif harm == "cut short":
        broken.write_bytes(content[: len(content) // 2])
    else:
        broken.write_bytes(b"\x00" + content[1:])
    assert store.newest_whole_checkpoint(tmp_path) == whole


def test_a_damaged_newer_checkpoint_never_costs_the_one_just_saved(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    (saved(tmp_path, 9) / store.MANIFEST).unlink()
    (tmp_path / "step-notes.txt").touch()
    assert store.newest_whole_checkpoint(tmp_path) == tmp_path / "step-00000003"
    assert saved(tmp_path, 4, keep_last=1) == store.newest_whole_checkpoint(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-notes.txt"]


def test_a_save_that_fails_leaves_the_last_one_alone(tmp_path: Path) -> None:
    whole = saved(tmp_path, 1)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        store.save_checkpoint(tmp_path, 2, model(), {"bad": lambda: None}, {})
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]
    assert store.newest_whole_checkpoint(tmp_path) == whole


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str | int] = []  # inodes that were synced, and what was renamed
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_ino), sync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append("renamed"), rename(path, to))[1])
    path = saved(tmp_path, 1)
    at = events.index("renamed")
    assert {file.stat().st_ino for file in path.iterdir()} <= set(events[:at])
    assert tmp_path.stat().st_ino in events[at:]


def test_the_partial_folder_of_a_killed_save_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".step-00000007.123").mkdir()
    (tmp_path / ".step-00000007.123" / store.MODEL).write_bytes(b"half")
    saved(tmp_path, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000008"]


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"step": Hostile()}, path / store.TRAINING)
    with pytest.raises(KitError, match=r"training\.pt is damaged.*no code was executed"):
        store.load_training(path)
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_shape_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = store.save_checkpoint(tmp_path, 1, model(5), {}, {})
    with pytest.raises(KitError, match="do not fit the model"):
        store.load_weights(path, model(6))


def draws() -> list[float]:
    import random

    import numpy as np

    return [float(torch.rand(())), random.random(), float(np.random.rand()), float(np.random.randn())]


def test_every_stream_of_random_numbers_is_restored(tmp_path: Path) -> None:
    seed_everything(5)
    draws()
    torch.save(rng_state(), tmp_path / "rng")
    expected = [draws(), draws()]
    seed_everything(6)
    set_rng_state(torch.load(tmp_path / "rng", weights_only=True))
    assert [draws(), draws()] == expected


def test_isolated_random_numbers_leave_the_others_unchanged() -> None:
    seed_everything(5)
    expected = draws()
    seed_everything(5)
    with isolated_rng(7):
        inside = draws()
    assert draws() == expected
    with isolated_rng(7):
        assert draws() == inside


def test_a_checkpoint_has_the_generator_of_the_gpu_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed process may have it under another index; checkpoints of 0.1 have those of all GPUs."""
    generators, current = [torch.full((4,), gpu, dtype=torch.uint8) for gpu in range(4)], [2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: generators[current[0]].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: generators[current[0]].copy_(state))
    state = rng_state()
    assert [one.tolist() for one in state["cuda"]] == [[2] * 4]
    current[0] = 0
    set_rng_state(state)
    assert [int(one[0]) for one in generators] == [2, 1, 2, 3]
    current[0] = 1
    set_rng_state({**state, "cuda": [torch.full((4,), 10 + gpu, dtype=torch.uint8) for gpu in range(8)]})
    assert [int(one[0]) for one in generators] == [2, 11, 2, 3]
    current[0] = 3
    set_rng_state({**state, "cuda": []})  # of a run that began on a CPU
    assert [int(one[0]) for one in generators] == [2, 11, 2, 3]


def test_a_description_of_shards_that_would_run_code_is_refused(tmp_path: Path) -> None:
    from nanogpt_kit.checkpoint import shards

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").touch, ())

    class Named:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("ran",))

    for bad in (Bomb(), Named()):
        (tmp_path / ".metadata").write_bytes(pickle.dumps(bad))
        with pytest.raises(pickle.UnpicklingError, match="is not allowed in a checkpoint"):
            shards.read_shards(tmp_path)
    assert not (tmp_path / "ran").exists()


# --- folders from strangers -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A whole checkpoint of step 5 in another folder."""
    return saved(tmp_path / "elsewhere", 5)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_link_is_not_a_checkpoint_and_its_target_stays_unchanged(
    tmp_path: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = content(elsewhere)
    folder = tmp_path / "mine"
    first = saved(folder, 1)
    (folder / "step-00000005").symlink_to(elsewhere)
    (folder / ".step-00000003.17").symlink_to(elsewhere)
    assert store.newest_whole_checkpoint(folder) == first
    assert "step-00000005: it is a link" in caplog.text
    assert store.list_checkpoints(folder) == [first]
    assert saved(folder, 2, keep_last=1) == store.newest_whole_checkpoint(folder)
    assert content(elsewhere) == before
    assert saved(folder, 5) == store.newest_whole_checkpoint(folder)  # of the same name
    assert not (folder / "step-00000005").is_symlink()
    assert content(elsewhere) == before
    assert not (folder / ".step-00000003.17").is_symlink()


@pytest.mark.parametrize("name", [store.MODEL, store.TRAINING, store.TOKENIZER, store.MANIFEST])
@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "endless"])
def test_files_of_a_checkpoint_are_regular_files(tmp_path: Path, elsewhere: Path, name: str, kind: str) -> None:
    path = saved(tmp_path / "mine", 5)
    (path / name).unlink()
    if kind == "link":
        (path / name).symlink_to(elsewhere / name)
    elif kind == "folder":
        (path / name).mkdir()
    elif kind == "fifo":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to("/dev/zero")
    assert name in str(store.find_damage(path))


@pytest.mark.parametrize(
    "name",
    [
        "../elsewhere/x",
        "/etc/passwd",
        "..",
        "shards/../x",
        "a\\b",
        "C:x",
        "a\0b",
        "",
        ".",
        "shards/a/b",
        "notes.txt",
        "shards",
    ],
)
def test_a_manifest_names_files_of_a_checkpoint_only(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "mine", 5)
    manifest = read_json(path / store.MANIFEST)
    manifest["files"][name] = "0" * 64
    write_json(path / store.MANIFEST, manifest)
    assert repr(name) in str(store.find_damage(path))


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"format": 1, "step": 5, "files": {}}, store.TRAINING),
        ({"step": 5}, "files"),
        ({"step": 5, "files": [store.MODEL]}, "files"),
        ({"step": 5, "files": {store.MODEL: 1}}, "files"),
        ([], "files"),
        (None, "files"),
        ("drop model", "shards/.metadata"),
        ("drop tokenizer", store.TOKENIZER),
        ("drop training", store.TRAINING),
        ({"step": 4}, "step 4"),
        ({"step": "5"}, "step '5'"),
    ],
)
def test_a_manifest_that_lists_less_than_is_loaded_is_not_whole(tmp_path: Path, manifest: Any, words: str) -> None:
    path = saved(tmp_path, 5)
    whole = read_json(path / store.MANIFEST)
    if isinstance(manifest, str):
        dropped = next(name for name in whole["files"] if name.startswith(manifest.removeprefix("drop ")))
        del whole["files"][dropped]
        manifest = whole
    elif isinstance(manifest, dict) and "files" not in manifest and words != "files":
        manifest = {**whole, **manifest}
    write_json(path / store.MANIFEST, manifest)
    assert words in str(store.find_damage(path))
    assert store.newest_whole_checkpoint(tmp_path) is None


def test_weights_that_a_manifest_does_not_list_are_not_loaded(tmp_path: Path, elsewhere: Path) -> None:
    path = saved(tmp_path / "mine", 5)
    (path / store.SHARDS).symlink_to(elsewhere)
    assert "shards" in str(store.find_damage(path))
    (path / store.SHARDS).unlink()
    (path / store.SHARDS).mkdir()
    assert "shards" in str(store.find_damage(path))


def test_shards_behind_a_link_are_not_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine", 5)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / ".metadata").write_bytes(b"x")
    (path / store.SHARDS).symlink_to(tmp_path / "outside")
    manifest = read_json(path / store.MANIFEST)
    manifest["files"] |= {"shards/.metadata": sha256_file(tmp_path / "outside" / ".metadata")}
    write_json(path / store.MANIFEST, manifest)
    assert "shards/.metadata is a link" in str(store.find_damage(path))


def test_a_checkpoint_of_another_format_is_refused_and_not_skipped(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    path = saved(tmp_path, 5)
    manifest = read_json(path / store.MANIFEST)
    without = {key: value for key, value in manifest.items() if key != "format"}
    found_by_values = (
        ({**manifest, "format": 2}, "2"),
        ({**manifest, "format": True}, "True"),
        (without, "not name its"),
    )
    for values, found in found_by_values:
        write_json(path / store.MANIFEST, values)
        with pytest.raises(KitError) as caught:
            store.newest_whole_checkpoint(tmp_path)
        assert all(part in str(caught.value) for part in (str(path / store.MANIFEST), found, "format 1", "train again"))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "\0"])
def test_a_manifest_that_cannot_be_read_is_not_whole(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path, 5)
    (path / store.MANIFEST).write_text(text)
    assert "cannot be read" in str(store.find_damage(path))
