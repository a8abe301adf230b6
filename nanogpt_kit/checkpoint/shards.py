"""State whose tensors are sharded over processes: each writes its shards, and any number of processes can read them.

`torch.distributed.checkpoint` saves the tensors. The rest of the state is saved separately, with a placeholder for each
tensor, since the library would pickle it.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from nanogpt_kit.nn.sharded import distribute_like

METADATA = "torch.distributed.checkpoint.metadata"
PATHS = ("pathlib", "pathlib._local")  # the second in Python 3.13
ALLOWED = {  # classes in the description of shards; the library itself would unpickle anything
    *((METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    *((METADATA, name) for name in ("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *((module, name) for module in PATHS for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(("torch", name) for name in ("Size", "float32", "bfloat16", "float16", "float64", "int64", "int32", "bool")),
}
PLACEHOLDER = "<sharded>"  # key of a tensor's placeholder


def split_sharded(state: Any, path: str = "") -> tuple[Any, dict[str, Tensor]]:
    """The state with placeholders for its sharded tensors, and these by name."""
    if isinstance(state, DTensor):
        return {PLACEHOLDER: path}, {path: state}
    sharded: dict[str, Tensor] = {}

    def split_child(key: object, value: Any) -> Any:
        plain, tensors = split_sharded(value, f"{path}/{key}" if path else str(key))
        sharded.update(tensors)
        return plain

    if isinstance(state, Mapping):
        return {key: split_child(key, value) for key, value in state.items()}, sharded
    if isinstance(state, list | tuple):
        return type(state)(split_child(key, value) for key, value in enumerate(state)), sharded
    return state, sharded


def join_sharded(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_sharded`."""
    if isinstance(state, Mapping):
        if set(state) == {PLACEHOLDER}:
            return tensors[state[PLACEHOLDER]]
        return {key: join_sharded(value, tensors) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(join_sharded(value, tensors) for value in state)
    return state


def write_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Called on all ranks. Raises OSError."""
    try:
        save(dict(tensors), storage_writer=FileSystemWriter(folder, single_file_per_rank=True, sync_files=True))
    except CheckpointException as error:  # which is not an Exception
        first = next((failure[0] for failure in error.failures.values()), error)
        raise OSError(str(first)) from first


def read_shards(folder: Path, is_needed: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Full tensors on the CPU, read by this process alone. Other objects, which would be unpickled, are skipped.

    A damaged file may raise any Exception.
    """
    reader = SafeReader(folder)
    entries = reader.read_metadata().state_dict_metadata
    needed = sum(stored_bytes(entry) for name, entry in entries.items() if is_needed(name))
    on_disk = sum(file.stat().st_size for file in folder.iterdir())
    if needed > on_disk:
        raise ValueError(f"its files have {on_disk:,} bytes, and the tensors would take {needed:,}")
    tensors: dict[str, Tensor] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata) and is_needed(name)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        try:
            load(tensors, storage_reader=reader, no_dist=True)
        except CheckpointException as error:  # which is not an Exception
            raise ValueError(next((repr(failure[0]) for failure in error.failures.values()), str(error))) from None
    return tensors


def stored_bytes(entry: object) -> int:
    if not isinstance(entry, TensorStorageMetadata):
        return 0
    return entry.size.numel() * entry.properties.dtype.itemsize


class SafeReader(FileSystemReader):
    """Reads the description of shards without running code from it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = SafeUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise ValueError(".metadata does not describe shards")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        return metadata


class SafeUnpickler(pickle.Unpickler):
    """Refuses every class that is not ALLOWED."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a checkpoint")
        return super().find_class(module, name)


def distribute_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict of full tensors, sharded as its parameters are."""
    parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    sharded = {
        index: {
            name: distribute_like(value, parameters[index]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return {**state, "state": sharded}
