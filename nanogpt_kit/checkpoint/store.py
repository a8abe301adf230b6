"""Checkpoints of one process: a folder that is renamed into place when all of it is on disk.

Loading runs no code: safetensors for weights, `weights_only` for the rest.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.files import read_json, sha256, sync_file, sync_folder, write_json

logger = logging.getLogger(__name__)

SHOWN = 8  # of the tensors that do not fit; the rest is counted
MODEL, TRAINING, TOKENIZER, MANIFEST = "model.safetensors", "training.pt", "tokenizer.json", "manifest.json"


def save(
    folder: Path, step: int, model: nn.Module, training: Mapping[str, Any], tokenizer: Mapping[str, Any], keep_last: int
) -> Path:
    """Writes `folder`/step-<step>, then forgets all but the newest `keep_last`. Raises OSError, as on a full disk."""
    path = folder / f"step-{step:08d}"
    if path.exists():
        if damage(path) is None:
            return path  # the same step of the same run: there is nothing to add
        discard(path)
    partial = folder / f".{path.name}.{os.getpid()}"
    clear_partial(folder)
    partial.mkdir(parents=True)
    try:
        save_weights(model, partial / MODEL)
        torch.save(dict(training), partial / TRAINING)
        write_json(partial / TOKENIZER, tokenizer)
        files = {name: sha256(partial / name) for name in (MODEL, TRAINING, TOKENIZER)}
        for name in files:
            sync_file(partial / name)
        write_json(partial / MANIFEST, {"step": step, "files": files})
        partial.rename(path)
        sync_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    saved = numbered(folder)
    mine = saved.index(path)
    for other in [*saved[: max(0, mine + 1 - keep_last)], *saved[mine + 1 :]]:  # later ones are void: we went back
        discard(other)
    return path


def numbered(folder: Path) -> list[Path]:
    """The folders of checkpoints, whole or not, the newest last."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def discard(path: Path) -> None:
    """Takes the manifest first: what is left of a checkpoint that is half deleted is no checkpoint."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def clear_partial(folder: Path) -> None:
    """Removes what a killed process left; a run has one writer at a time, so none of it is in use."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; says which it passed over and why."""
    for path in reversed(numbered(folder)):
        fault = damage(path)
        if fault is None:
            return path
        logger.warning("passed over checkpoint %s: %s", path, fault)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    try:
        files = read_json(path / MANIFEST)["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no manifest that can be read ({error})"
    for name, expected in files.items():
        if not (path / name).exists():
            return f"{name} is missing"
        if sha256(path / name) != expected:
            return f"{name} is not what was saved"
    return None


def weights_hash(path: Path) -> str:
    """Of a whole checkpoint's weights, as `damage` has just compared it with the file."""
    return str(read_json(path / MANIFEST)["files"][MODEL])


def save_weights(model: nn.Module, path: Path) -> None:
    """Each tensor once, also where two names share it."""
    save_model(model, str(path))


def load_weights(path: Path, model: nn.Module) -> None:
    """From a checkpoint into a model of the same shape. Raises KitError where they do not fit."""
    fit(model, load_file(path / MODEL), str(path))


def fit(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Puts weights into a model; tied ones stay tied. Raises KitError that names each tensor that does not fit."""
    check_fit(model, weights, origin)
    model.load_state_dict(dict(weights), strict=False)


def check_fit(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Whether they would fit; the model may lie on the meta device. Raises KitError."""
    own = model.state_dict(keep_vars=True)
    given = {id(own[name]) for name in weights if name in own}  # a tied tensor needs one of its names only
    faults = [f"{name} is missing" for name, value in own.items() if id(value) not in given]
    first: dict[int, str] = {}  # of the names that share a tensor in the model
    for name, value in weights.items():
        twin = first.setdefault(id(own.get(name, value)), name)
        if twin != name and not torch.equal(value, weights[twin]):
            faults.append(f"{twin} and {name} differ there, and are one tensor in the model")
        if name not in own:
            faults.append(f"{name} has no place in the model")
        elif own[name].shape != value.shape:
            faults.append(f"{name} is {list(value.shape)} there and {list(own[name].shape)} in the model")
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise KitError(f"the weights of {origin} do not fit the model: {'; '.join(faults[:SHOWN])}{more}")


def load_training(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
    return state
