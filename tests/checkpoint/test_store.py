"""A checkpoint is whole or absent, and loading one runs no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.rng import own_rng, rng_state, seed_everything, set_rng_state
from nanogpt_kit.core.errors import KitError


def model(features: int = 5) -> nn.Module:
    module = nn.ModuleDict({"one": nn.Linear(3, features), "two": nn.Linear(3, features)})
    module["two"].weight = module["one"].weight
    return module


def saved(folder: Path, step: int, keep_last: int = 9) -> Path:
    return store.save(
        folder, step, model(), {"step": step, "tensor": torch.ones(2)}, {"use": "byte"}, store.Keep(keep_last)
    )


def test_weights_come_back_and_tied_ones_stay_tied(tmp_path: Path) -> None:
    before = model()
    path = store.save(tmp_path, 3, before, {"step": 3}, {})
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
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, harm: str) -> None:
    whole = saved(tmp_path, 1)
    broken = saved(tmp_path, 2) / name
    content = broken.read_bytes()
    if harm == "missing":
        broken.unlink()
    elif harm == "cut short":
        broken.write_bytes(content[: len(content) // 2])
    else:
        broken.write_bytes(b"\x00" + content[1:])
    assert store.newest(tmp_path) == whole


def test_a_damaged_newer_checkpoint_never_costs_the_one_just_saved(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    (saved(tmp_path, 9) / store.MANIFEST).unlink()
    (tmp_path / "step-notes.txt").touch()
    assert store.newest(tmp_path) == tmp_path / "step-00000003"
    assert saved(tmp_path, 4, keep_last=1) == store.newest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-notes.txt"]


def test_a_save_that_fails_leaves_the_last_one_alone(tmp_path: Path) -> None:
    whole = saved(tmp_path, 1)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        store.save(tmp_path, 2, model(), {"bad": lambda: None}, {})
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]
    assert store.newest(tmp_path) == whole


def test_what_a_killed_save_left_is_cleared_by_the_next(tmp_path: Path) -> None:
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
    path = store.save(tmp_path, 1, model(5), {}, {})
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


def test_random_numbers_apart_leave_the_others_alone() -> None:
    seed_everything(5)
    expected = draws()
    seed_everything(5)
    with own_rng(7):
        inside = draws()
    assert draws() == expected
    with own_rng(7):
        assert draws() == inside


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
        with pytest.raises(pickle.UnpicklingError, match="has no place in a checkpoint"):
            shards.read(tmp_path)
    assert not (tmp_path / "ran").exists()
