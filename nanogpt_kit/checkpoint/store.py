"""Saving and loading checkpoints: each is a folder that is renamed into place when all of it is on the disk.

Loading runs no code: safetensors for weights, `weights_only` for the rest. Where weights are sharded over processes,
each writes its shards. Any number of processes can read both kinds of checkpoint.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_model
from torch import Tensor, nn

from nanogpt_kit.checkpoint.damaged import damage_as_kit_error, named_tensors
from nanogpt_kit.checkpoint.fit import load_matching_weights
from nanogpt_kit.checkpoint.manifest import MANIFEST, MODEL, SHARDS, TOKENIZER, TRAINING, Manifest, find_damage, step_of
from nanogpt_kit.nn.sharded import is_sharded
from nanogpt_kit.nn.tensor_files import check_stored, read_tensors
from nanogpt_kit.runs.files import is_folder
from nanogpt_kit.system.json_files import write_json
from nanogpt_kit.system.writing import sync_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept when a new one is complete."""

    last: int = 1  # number of the newest to keep
    every_steps: int | None = None  # all at multiples of this
    best_step: int | None = None

    def keeps(self, step: int) -> bool:
        return step == self.best_step or bool(self.every_steps and step % self.every_steps == 0)


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    training: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    retention: Retention = Retention(),
) -> Path:
    """Writes `folder`/step-<step>, then deletes the checkpoints that `retention` does not keep.

    Called on all ranks. Rank 0 writes; where weights are sharded, each rank writes its shards. Raises OSError, as on a
    full disk.
    """
    path = folder / f"step-{step:08d}"
    first = rank() == 0
    if has_shards(model):
        if broadcast(first and path.exists() and find_damage(path) is None):
            return path
        save_sharded(path, step, model, training, tokenizer)
    elif first:
        if path.exists() and find_damage(path) is None:
            return path  # of the same step of the same run
        with atomic_folder(path) as partial:
            check_disk_space(folder, [*model.state_dict().values(), training])
            save_weights(model, partial / MODEL)
            write_files(partial, step, training, tokenizer)
    if first:
        prune_checkpoints(folder, path, retention)
    return path


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def has_shards(model: nn.Module) -> bool:
    """Whether its weights are sharded over several processes."""
    return any(map(is_sharded, model.parameters()))


def broadcast(value: Any) -> Any:
    """The value of rank 0, on all ranks."""
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def save_sharded(
    path: Path, step: int, model: nn.Module, training: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> None:
    """Each rank writes its shards of the weights and of the optimizer's state, rank 0 the rest."""
    from nanogpt_kit.checkpoint import shards

    plain, tensors = shards.split_sharded({**training, "model": without_duplicates(model.state_dict(keep_vars=True))})
    with atomic_folder(path) if rank() == 0 else nullcontext() as made:
        if made:
            check_disk_space(path.parent, [tensors, plain])
        partial = broadcast(made)
        shards.write_shards(tensors, partial / SHARDS)
        if made:
            write_files(made, step, plain, tokenizer)
    broadcast(None)  # no rank continues before the checkpoint is in its place


def without_duplicates(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state, each under one name only, even where several names share it."""
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(id(value), name)
    return {name: state[name].detach() for name in first.values()}


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, which is renamed to `path` on exit, or removed after an error."""
    delete_checkpoint(path)
    delete_partial(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_files(partial: Path, step: int, training: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """The training state, the tokenizer, and last the manifest."""
    torch.save(dict(training), partial / TRAINING)
    write_json(partial / TOKENIZER, tokenizer)
    Manifest.write(partial / MANIFEST, step, partial, training.get("options", {}))


def check_disk_space(folder: Path, state: Any) -> None:
    """Raises OSError where the tensors of `state` do not fit on the disk."""
    needed, free = tensor_bytes(state), shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"it takes {needed:,} bytes")


def tensor_bytes(state: Any) -> int:
    """The size of all tensors in nested dicts and lists; sharded ones count with all their shards."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(tensor_bytes, state.values()))
    return sum(map(tensor_bytes, state)) if isinstance(state, list | tuple) else 0


def prune_checkpoints(folder: Path, newest: Path, retention: Retention) -> None:
    """Deletes the checkpoints that `retention` does not keep, and all later than `newest`."""
    saved = list_checkpoints(folder)
    index = saved.index(newest)
    older = saved[: max(0, index + 1 - retention.last)]
    for path in [*(path for path in older if not retention.keeps(step_of(path))), *saved[index + 1 :]]:
        delete_checkpoint(path)


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders of checkpoints, whole or not, the newest last; links are left out."""
    return [path for path in checkpoint_paths(folder) if is_folder(path)]


def checkpoint_paths(folder: Path) -> list[Path]:
    """All paths with the name of a checkpoint, links included, the newest last."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-[0-9]{8,}", path.name))


def delete_checkpoint(path: Path) -> None:
    """Deletes the manifest first, so that an interrupted deletion never looks like a checkpoint.

    Where `path` is a link, only the link is removed.
    """
    if is_folder(path):
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def delete_partial(folder: Path) -> None:
    """Removes the temporary folders of killed processes; a run has one writer, so none is in use."""
    for path in folder.glob(".step-*"):
        delete_checkpoint(path)


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; logs a warning for each damaged one. Raises KitError for another format."""
    for path in reversed(checkpoint_paths(folder)):
        fault = find_damage(path)
        if fault is None:
            return path
        logger.warning("skipped checkpoint %s: %s", path, fault)
    return None


def save_weights(model: nn.Module, path: Path) -> None:
    """Saves the weights as safetensors, each tensor under one name only, even where several names share it."""
    save_model(model, str(path))


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads a checkpoint into a model of the same shapes. Raises KitError where they do not fit."""
    load_matching_weights(model, read_weights(path), str(path))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The full weights of a checkpoint, on the CPU; a tied tensor may have only one of its names."""
    if (path / MODEL).exists():
        with damage_as_kit_error(path / MODEL):
            return read_tensors(path / MODEL)
    weights = read_training_file(path, lambda name: name.startswith("model/")).get("model")
    with damage_as_kit_error(path / SHARDS):
        return named_tensors(weights)


def load_training(path: Path) -> dict[str, Any]:
    """The training state, with full tensors, on the CPU."""
    state = read_training_file(path, lambda name: not name.startswith("model/"))
    state.pop("model", None)
    return state


def read_training_file(path: Path, is_needed: Callable[[str], bool]) -> dict[str, Any]:
    """The training state as it was given to `save_checkpoint`, with the sharded tensors that are needed."""
    with damage_as_kit_error(path / TRAINING):
        check_stored(path / TRAINING)
        state: dict[str, Any] = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise ValueError("it does not contain a dictionary of states")
    if (path / SHARDS).exists():
        from nanogpt_kit.checkpoint import shards

        with damage_as_kit_error(path / SHARDS):
            tensors = shards.read_shards(path / SHARDS, is_needed)
            state = {key: value for key, value in state.items() if is_needed(f"{key}/")}
            state = shards.join_sharded(state, tensors)
    return state
