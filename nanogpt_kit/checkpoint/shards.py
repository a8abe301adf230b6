"""State whose tensors are spread over processes: each writes its part, and any number of processes can read it.

The tensors go through `torch.distributed.checkpoint`; all else stays in the state, with a word in each one's place.
What that library would pickle is not given to it.
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
ALLOWED = {  # what a description of shards is made of; the library itself would unpickle anything
    *((METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    *((METADATA, name) for name in ("TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *(("pathlib", name) for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(("torch", name) for name in ("Size", "float32", "bfloat16", "float16", "float64", "int64", "int32", "bool")),
}
PLACE = "<sharded>"  # key of the word in a tensor's place


def taken_out(state: Any, at: str = "") -> tuple[Any, dict[str, Tensor]]:
    """The state without its spread tensors, and these by name."""
    if isinstance(state, DTensor):
        return {PLACE: at}, {at: state}
    found: dict[str, Tensor] = {}

    def walked(key: object, value: Any) -> Any:
        plain, tensors = taken_out(value, f"{at}/{key}" if at else str(key))
        found.update(tensors)
        return plain

    if isinstance(state, Mapping):
        return {key: walked(key, value) for key, value in state.items()}, found
    if isinstance(state, list | tuple):
        return type(state)(walked(key, value) for key, value in enumerate(state)), found
    return state, found


def put_back(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The opposite of `taken_out`."""
    if isinstance(state, Mapping):
        if set(state) == {PLACE}:
            return tensors[state[PLACE]]
        return {key: put_back(value, tensors) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(put_back(value, tensors) for value in state)
    return state


def write(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """On all ranks at once. Raises OSError."""
    try:
        save(dict(tensors), storage_writer=FileSystemWriter(folder, single_file_per_rank=True, sync_files=True))
    except CheckpointException as error:  # which is no Exception
        first = next((failure[0] for failure in error.failures.values()), error)
        raise OSError(str(first)) from first


def read(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """Whole tensors on the CPU, by this process alone; what is not a tensor would be unpickled, and is passed over.

    Raises whatever the library and a damaged file raise; always an Exception.
    """
    reader = Reader(folder)
    known = reader.read_metadata().state_dict_metadata
    needed = sum(bytes_of(entry) for name, entry in known.items() if wanted(name))
    on_disk = sum(file.stat().st_size for file in folder.iterdir())
    if needed > on_disk:
        raise ValueError(f"its files have {on_disk:,} bytes, and the tensors would take {needed:,}")
    tensors: dict[str, Tensor] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in known.items()
        if isinstance(entry, TensorStorageMetadata) and wanted(name)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        try:
            load(tensors, storage_reader=reader, no_dist=True)
        except CheckpointException as error:  # which is not an Exception
            raise ValueError(next((repr(failure[0]) for failure in error.failures.values()), str(error))) from None
    return tensors


def bytes_of(entry: object) -> int:
    if not isinstance(entry, TensorStorageMetadata):
        return 0
    return entry.size.numel() * entry.properties.dtype.itemsize


class Reader(FileSystemReader):
    """Runs no code that a file brings."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            found = Plain(file).load()
        if not isinstance(found, Metadata):
            raise ValueError(".metadata does not describe shards")
        found.storage_meta = found.storage_meta or StorageMeta()
        return found


class Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")
        return super().find_class(module, name)


def optimizer_state_as(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict of whole tensors, laid out as its parameters are."""
    parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    spread = {
        number: {
            name: distribute_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": spread}
