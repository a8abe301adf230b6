"""Checkpoints: a folder that is renamed into place when all of it is on disk.

Loading runs no code: safetensors for weights, `weights_only` for the rest. Where weights are spread over processes,
each writes its part; such a checkpoint can be read by any number of them, as the other kind can.
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

from nanogpt_kit.checkpoint.damaged import check_stored, damaged, named_tensors, read_tensors
from nanogpt_kit.checkpoint.fit import fit
from nanogpt_kit.core.options import digest
from nanogpt_kit.core.reading import sha256_file
from nanogpt_kit.core.writing import sync_file, sync_folder
from nanogpt_kit.nn.sharded import is_sharded
from nanogpt_kit.runs.files import is_file, is_folder, is_link, read_json, write_json

logger = logging.getLogger(__name__)

MODEL, TRAINING, TOKENIZER, MANIFEST = "model.safetensors", "training.pt", "tokenizer.json", "manifest.json"
SHARDS = "shards"  # in place of MODEL where weights were spread over processes
SHARDS_INDEX = f"{SHARDS}/.metadata"
SHARD = re.compile(rf"{SHARDS}/[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # a plain name: not "..", no "/" or "\\"


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay when a new one is whole."""

    last: int = 1  # the newest
    every_steps: int | None = None  # those of its multiples, for good
    best_step: int | None = None

    def pins(self, step: int) -> bool:
        return step == self.best_step or bool(self.every_steps and step % self.every_steps == 0)


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    training: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    keep: Keep = Keep(),
) -> Path:
    """Writes `folder`/step-<step>, then forgets what `keep` does not keep. Called on all ranks; rank 0 writes, or each
    its part where weights are spread over them. Raises OSError, as on a full disk.
    """
    path = folder / f"step-{step:08d}"
    first = rank() == 0
    if in_parts(model):
        if together(first and path.exists() and damage(path) is None):
            return path
        write_shards(path, step, model, training, tokenizer)
    elif first:
        if path.exists() and damage(path) is None:
            return path  # the same step of the same run: there is nothing to add
        with becoming(path) as partial:
            check_room(folder, [*model.state_dict().values(), training])
            save_weights(model, partial / MODEL)
            finish(partial, step, training, tokenizer)
    if first:
        forget(folder, path, keep)
    return path


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def in_parts(model: nn.Module) -> bool:
    """Whether its weights lie in parts on several processes."""
    return any(map(is_sharded, model.parameters()))


def together(value: Any) -> Any:
    """On all ranks what rank 0 has said."""
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def write_shards(
    path: Path, step: int, model: nn.Module, training: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> None:
    """Each rank its part of the weights and of what belongs to them; rank 0 the rest."""
    from nanogpt_kit.checkpoint import shards

    plain, tensors = shards.taken_out({**training, "model": unique(model.state_dict(keep_vars=True))})
    with becoming(path) if rank() == 0 else nullcontext() as made:
        if made:
            check_room(path.parent, [tensors, plain])
        partial = together(made)
        shards.write(tensors, partial / SHARDS)
        if made:
            finish(made, step, plain, tokenizer)
    together(None)  # nobody goes on before it is in its place


def unique(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, also where two names share it."""
    first: dict[int, str] = {}
    for name, value in state.items():
        first.setdefault(id(value), name)
    return {name: state[name].detach() for name in first.values()}


@contextmanager
def becoming(path: Path) -> Iterator[Path]:
    """A folder to be filled, which then takes the name `path`; nothing of it is left where that fails."""
    discard(path)
    clear_partial(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def finish(partial: Path, step: int, training: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """The training state, the tokenizer, and the manifest with the hash of every file."""
    torch.save(dict(training), partial / TRAINING)
    write_json(partial / TOKENIZER, tokenizer)
    files = [file for file in sorted(partial.rglob("*")) if file.is_file()]
    for file in files:
        sync_file(file)
    hashes = {file.relative_to(partial).as_posix(): sha256_file(file) for file in files}
    write_json(partial / MANIFEST, {"step": step, "files": hashes})


def check_room(folder: Path, state: Any) -> None:
    """Raises OSError where the tensors of `state` have no room on the disk."""
    wanted, free = size_of(state), shutil.disk_usage(folder).free
    if wanted > free:
        raise OSError(errno.ENOSPC, f"it takes {wanted:,} bytes")


def size_of(state: Any) -> int:
    """Bytes of all tensors in nested dicts and lists, those of spread ones on all ranks together."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(size_of, state.values()))
    return sum(map(size_of, state)) if isinstance(state, list | tuple) else 0


def forget(folder: Path, newest: Path, keep: Keep) -> None:
    saved = numbered(folder)
    mine = saved.index(newest)
    older = [path for path in saved[: max(0, mine + 1 - keep.last)] if not keep.pins(step_of(path))]
    for other in [*older, *saved[mine + 1 :]]:  # later ones are void: we went back
        discard(other)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def numbered(folder: Path) -> list[Path]:
    """The folders of checkpoints, whole or not, the newest last; a link is not one."""
    return [path for path in named(folder) if is_folder(path)]


def named(folder: Path) -> list[Path]:
    """All that has the name of a checkpoint, the newest last."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-[0-9]{8,}", path.name))


def discard(path: Path) -> None:
    """Takes the manifest first: what is left of a checkpoint that is half deleted is no checkpoint.

    Where `path` is a link, only the link is removed.
    """
    if is_folder(path):
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clear_partial(folder: Path) -> None:
    """Removes what a killed process left; a run has one writer at a time, so none of it is in use."""
    for left in folder.glob(".step-*"):
        discard(left)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; says which it passed over and why."""
    for path in reversed(named(folder)):
        fault = damage(path)
        if fault is None:
            return path
        logger.warning("passed over checkpoint %s: %s", path, fault)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where all that is loaded from it is in its folder, as it was saved."""
    try:
        if not is_folder(path):
            return "it is a link, or not a folder"
        if not is_file(path / MANIFEST):
            return f"no {MANIFEST}"
        manifest = read_json(path / MANIFEST)
        fault = unfit(manifest, path)
        if fault:
            return f"its {MANIFEST} {fault}"
        for name, expected in manifest["files"].items():
            if not is_file(path / name) or is_link((path / name).parent):
                return f"{name} is {'a link' if os.path.lexists(path / name) else 'missing'}"
            if sha256_file(path / name) != expected:
                return f"{name} is not what was saved"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    return None


def unfit(manifest: Any, path: Path) -> str | None:
    """Why a manifest is not one that `finish` has written for this checkpoint."""
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        return 'has no table "files" of hashes'
    if manifest.get("step") != step_of(path):
        return f"is of step {manifest.get('step')!r}"
    lacking = [name for name in (MODEL if MODEL in files else SHARDS_INDEX, TRAINING, TOKENIZER) if name not in files]
    if lacking:
        return f"does not list {', '.join(lacking)}"
    strange = [name for name in files if name not in (MODEL, TRAINING, TOKENIZER) and not SHARD.fullmatch(name)]
    if strange:
        return f"lists {strange[0]!r}, which is not a file of a checkpoint"
    for name, listed in ((MODEL, MODEL), (SHARDS, SHARDS_INDEX)):
        if os.path.lexists(path / name) and listed not in files:
            return f"does not list {listed}, and {name} is there"
    return None


def weights_hash(path: Path) -> str:
    """Of the files that hold a whole checkpoint's weights, as `damage` has just compared them."""
    files: dict[str, str] = read_json(path / MANIFEST)["files"]
    return files[MODEL] if MODEL in files else digest(files)


def save_weights(model: nn.Module, path: Path) -> None:
    """Each tensor once, also where two names share it."""
    save_model(model, str(path))


def load_weights(path: Path, model: nn.Module) -> None:
    """From a checkpoint into a model of the same shape. Raises KitError where they do not fit."""
    fit(model, read_weights(path), str(path))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Of a checkpoint, whole, on the CPU; a tied one perhaps under one of its names only."""
    if (path / MODEL).exists():
        with damaged(path / MODEL):
            return read_tensors(path / MODEL)
    weights = read_state(path, lambda name: name.startswith("model/")).get("model")
    with damaged(path / SHARDS):
        return named_tensors(weights)


def load_training(path: Path) -> dict[str, Any]:
    """All but the weights, whole, on the CPU."""
    state = read_state(path, lambda name: not name.startswith("model/"))
    state.pop("model", None)
    return state


def read_state(path: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """What `finish` was given, with the `wanted` ones of its spread tensors."""
    with damaged(path / TRAINING):
        check_stored(path / TRAINING)
        state: dict[str, Any] = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise ValueError("it does not contain a state by name")
    if (path / SHARDS).exists():
        from nanogpt_kit.checkpoint import shards

        with damaged(path / SHARDS):
            tensors = shards.read(path / SHARDS, wanted)
            state = {key: value for key, value in state.items() if wanted(f"{key}/")}
            state = shards.put_back(state, tensors)
    return state
