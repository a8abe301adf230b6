"""The safetensors files of a model that transformers has saved: one, or several that an index names."""

from __future__ import annotations

import logging
import os  # whose isfile is False also for a name that is too long
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from nanogpt_kit.api import KitError, read_json, read_safetensors
from nanogpt_kit.components.format.foreign_values import format_value
from nanogpt_kit.components.format.gpt2_shape import equal_tensors

logger = logging.getLogger(__name__)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"


def read_weight_files(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of the files. Raises KitError for a damaged file, and for a tensor that differs between two files."""
    weights: dict[str, Tensor] = {}
    for file in files:
        found = read_safetensors(file)
        differ = [name for name in found.keys() & weights.keys() if not equal_tensors(found[name], weights[name])]
        if differ:
            raise KitError(f"{file} contains {min(differ)}, which differs from the one in another file of the model")
        weights |= found
    return weights


def find_weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read, or else the only one. Raises KitError if that is ambiguous."""
    if (folder / ADAPTER_CONFIG).exists():
        raise KitError(
            f"{folder} has an adapter ({ADAPTER_CONFIG}), which is not applied; merge it into the weights first"
        )
    present = sorted(path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    candidates = [name for name in present if name.endswith(".safetensors")]
    if WEIGHTS in candidates:
        files = [WEIGHTS]
    elif (folder / INDEX).exists():
        files = read_weight_index(folder / INDEX)
    elif len(candidates) > 1:
        are_parts = all("-of-" in name for name in candidates)
        remedy = f"copy their {INDEX}, too" if are_parts else f"rename the right one to {WEIGHTS}"
        raise KitError(
            f"{folder} has {', '.join(candidates)}, but no {WEIGHTS} or {INDEX} that names the right ones; {remedy}"
        )
    else:
        files = candidates
    if not files:
        pickled = " (its .bin files are pickles, which can run code)" if present else ""
        raise KitError(f"{folder} has no .safetensors file{pickled}; save_pretrained of transformers writes one")
    missing = [name for name in files if not os.path.isfile(folder / name)]
    if missing:
        reason = f"which its {INDEX} names" if (folder / INDEX).exists() else "as a regular file"
        raise KitError(f"{folder} lacks {', '.join(missing)}, {reason}")
    ignored = [name for name in present if name not in files]
    if ignored:
        logger.warning("%s: read %s; ignored %s", folder, ", ".join(files), ", ".join(ignored))
    return [folder / name for name in files]


def read_weight_index(index: Path) -> list[str]:
    """The names of a model's files. Raises KitError if one is outside the folder."""
    try:
        parts = set(map(str, read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KitError(f"{index} cannot be read: {error}") from None
    outside = [part for part in parts if Path(part).name != part]
    if outside:
        raise KitError(f"{index} names {format_value(min(outside))}; expected names of files in the same folder")
    return sorted(parts)
