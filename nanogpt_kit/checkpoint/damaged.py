"""Reading files of a checkpoint that may be damaged or forged: every error becomes a sentence that names the file.

The hashes of a manifest protect against accidents only: someone who forges a checkpoint also writes its manifest.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from nanogpt_kit.core.errors import KitError, RunFailed, shorten

MAX_MESSAGE = 200  # characters of a library's message


@contextmanager
def damage_as_kit_error(path: Path) -> Iterator[None]:
    """Turns every error inside into a KitError: for code that reads `path` and uses its content."""
    try:
        yield
    except (KitError, RunFailed):
        raise
    except Exception as error:  # torch, safetensors, pickle and json raise dozens of types
        remedy = "remove the checkpoint, or choose another one with --step"
        raise KitError(f"{path} is damaged, or was not saved by a run ({describe_error(error)}); {remedy}") from error


def describe_error(error: Exception) -> str:
    """The error in one line."""
    if isinstance(error, pickle.UnpicklingError):  # torch's message advises to load the file unsafely
        return "it contains other objects than tensors and plain values; no code was executed"
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, KeyError):
        return f"it lacks {shorten(first, MAX_MESSAGE)}"
    if isinstance(error, ValueError):
        return shorten(first, MAX_MESSAGE)
    return f"{type(error).__name__}: {shorten(first, MAX_MESSAGE)}"


def check_stored(path: Path) -> None:
    """Raises ValueError where a file of torch.save is compressed, so that it could grow without limit in memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            total, size = sum(entry.file_size for entry in file.infolist()), path.stat().st_size
        if total > size:
            raise ValueError(f"its {size:,} bytes unpack to {total:,}, although torch.save does not compress")


def named_tensors(values: Any) -> dict[str, Tensor]:
    """The values, checked to be ordinary tensors by name. Raises ValueError."""
    if not isinstance(values, Mapping):
        raise ValueError("it does not contain tensors by name")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name!r} is not a tensor")
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise ValueError(f"{name!r} is not an ordinary tensor")
    return dict(values)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # safetensors cannot open such a name
        return load(path.read_bytes())
    return load_file(path)
