"""What a file of a checkpoint raises where it is not what was saved, as a sentence that names the file.

A manifest's hashes protect against accidents; whoever passes on a run has written the manifest, too.
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

LONGEST = 200  # characters of a library's message


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Around the code that reads `path` and uses what is in it. Raises KitError for whatever that code raises."""
    try:
        yield
    except (KitError, RunFailed):
        raise
    except Exception as error:  # torch, safetensors, pickle and json have dozens of their own
        remedy = "remove its checkpoint, or choose another one with --step"
        raise KitError(f"{path} is damaged, or not what a run has saved ({cause(error)}); {remedy}") from error


def cause(error: Exception) -> str:
    """One line that names what is wrong."""
    if isinstance(error, pickle.UnpicklingError):  # torch's message advises to load the file unsafely
        return "it contains other objects than tensors and plain values; no code was executed"
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, KeyError):
        return f"it lacks {shorten(first, LONGEST)}"
    if isinstance(error, ValueError):
        return shorten(first, LONGEST)
    return f"{type(error).__name__}: {shorten(first, LONGEST)}"


def check_stored(path: Path) -> None:
    """Raises ValueError where a file of torch.save would grow in memory, which only a compressed one does."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            total, size = sum(entry.file_size for entry in file.infolist()), path.stat().st_size
        if total > size:
            raise ValueError(f"it has {size:,} bytes and contains {total:,}; torch.save does not compress")


def named_tensors(values: Any) -> dict[str, Tensor]:
    """The same, where they are tensors by name that can be computed with. Raises ValueError."""
    if not isinstance(values, Mapping):
        raise ValueError("it does not contain tensors by name")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name!r} is not a tensor")
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise ValueError(f"{name!r} is a tensor without plain values")
    return dict(values)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # safetensors opens no such name
        return load(path.read_bytes())
    return load_file(path)
