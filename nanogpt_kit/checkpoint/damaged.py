"""Reading files of a checkpoint that may be damaged or forged: every error becomes a sentence that names the file.

The hashes of a manifest protect against accidents only: someone who forges a checkpoint also writes its manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.nn.tensor_files import describe_error


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
