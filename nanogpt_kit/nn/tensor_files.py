"""Reading files of tensors that somebody else may have made: no code in them is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from nanogpt_kit.core.errors import KitError, catch_rust_panic, shorten
from nanogpt_kit.system.reading import open_regular_file

MAX_MESSAGE = 200  # characters of a library's message


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises KitError for a damaged one."""
    try:
        with catch_rust_panic(str(path)):
            return read_tensors(path)
    except KitError:
        raise
    except Exception as error:  # a hostile file may raise anything
        raise KitError(f"{path} is not a complete safetensors file: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises whatever the library raises."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # safetensors cannot open such a name
        return load(path.read_bytes())
    return load_file(path)


def read_torch_file(path: Path) -> Any:
    """What `torch.save` has written, if it is tensors and plain values. Raises KitError for anything else.

    Callers check it: tensors may be sparse, or a few bytes that stand for any number of elements.
    """
    try:
        with open_regular_file(path) as file:
            beginning = file.read(2)
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}") from None
    if beginning[:1] == b"\x80":
        raise KitError(
            f"{path} is a bare pickle, which can run code when it is loaded; only files of torch.save are read"
        )
    if not zipfile.is_zipfile(path):
        what = "is truncated" if beginning == b"PK" else "is not a torch checkpoint"
        raise KitError(f"{path} {what}")
    try:
        check_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious file may raise anything; none of its code has run
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise KitError(f"{path} is damaged, or not a torch checkpoint ({describe_error(error)})") from None
        raise KitError(
            f"{path} holds more than tensors and plain values: loading it would call {culprit[1]}, so it is refused"
        ) from None


def check_stored(path: Path) -> None:
    """Raises ValueError where a file of torch.save is compressed, so that it could grow without limit in memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            total, size = sum(entry.file_size for entry in file.infolist()), path.stat().st_size
        if total > size:
            raise ValueError(f"its {size:,} bytes unpack to {total:,}, although torch.save does not compress")


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
