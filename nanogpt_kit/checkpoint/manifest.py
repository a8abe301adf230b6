"""The manifest of a checkpoint: it names every file with its hash, and is written last."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.options import digest
from nanogpt_kit.runs.files import is_file, is_folder, is_link
from nanogpt_kit.system.json_files import read_json, write_json
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.system.writing import sync_file

FORMAT = 1  # of a checkpoint; grows when a file or a key changes its meaning

MODEL, TRAINING, TOKENIZER, MANIFEST = "model.safetensors", "training.pt", "tokenizer.json", "manifest.json"
SHARDS = "shards"  # in place of MODEL where the weights were sharded over processes
SHARDS_INDEX = f"{SHARDS}/.metadata"
OPTION = re.compile(r"model(\.[A-Za-z0-9_]+)+")  # the key of an option of the model or of a part of it
SHARD = re.compile(rf"{SHARDS}/[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # a plain name: not "..", no "/" or "\\"


@dataclass(frozen=True)
class Manifest:
    """manifest.json in a checkpoint."""

    step: int  # number of updates of the weights
    files: Mapping[str, str]  # the SHA-256 of each file, by its path in the checkpoint
    options: Mapping[str, int | float] = field(default_factory=dict)  # of the model's parts, as schedules have set them
    format: int = FORMAT  # version of the format

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises KitError for another format, ValueError or OSError for a file that is not a manifest of `path`."""
        values = read_json(path / MANIFEST)
        if fault := manifest_fault(values, path):
            raise ValueError(f"its {MANIFEST} {fault}")
        return cls(values["step"], values["files"], values["options"], values["format"])

    @classmethod
    def write(cls, path: Path, step: int, folder: Path, options: Mapping[str, int | float]) -> None:
        """Writes the manifest of all files in `folder` to `path`, once those files are on the disk."""
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        for file in files:
            sync_file(file)
        hashes = {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}
        write_json(path, asdict(cls(step, hashes, options)))

    @property
    def weights_hash(self) -> str:
        """The hash of the weights, or of all files where the weights are sharded."""
        return self.files[MODEL] if MODEL in self.files else digest(dict(self.files))


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where every file that is loaded is in its folder as it was saved.

    Raises KitError for a checkpoint of another format.
    """
    try:
        if not is_folder(path):
            return "it is a link, or not a folder"
        if not is_file(path / MANIFEST):
            return f"no {MANIFEST}"
        manifest = read_json(path / MANIFEST)
        if fault := manifest_fault(manifest, path):
            return f"its {MANIFEST} {fault}"
        for name, expected in manifest["files"].items():
            if not is_file(path / name) or is_link((path / name).parent):
                return f"{name} is {'a link' if os.path.lexists(path / name) else 'missing'}"
            if sha256_file(path / name) != expected:
                return f"{name} is not what was saved"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    return None


def manifest_fault(values: Any, path: Path) -> str | None:
    """Why these values are not a manifest of this checkpoint. Raises KitError for another format."""
    files = values.get("files") if isinstance(values, dict) else None
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        return 'has no table "files" of hashes'
    if type(values.get("format")) is not int or values["format"] != FORMAT:
        found = f"is of format {str(values['format'])[:20]}" if "format" in values else "does not name its format"
        remedy = "train again, or use the version that wrote it"
        raise KitError(f"{path / MANIFEST} {found}, and this version of nanogpt-kit reads format {FORMAT}; {remedy}")
    if values.get("step") != step_of(path):
        return f"names step {values.get('step')!r}"
    lacking = [name for name in (MODEL if MODEL in files else SHARDS_INDEX, TRAINING, TOKENIZER) if name not in files]
    if lacking:
        return f"does not list {', '.join(lacking)}"
    options = values.get("options")
    if not isinstance(options, dict) or not all(map(is_option, options.items())):
        return 'has no table "options" of numbers by key'
    strange = [name for name in files if name not in (MODEL, TRAINING, TOKENIZER) and not SHARD.fullmatch(name)]
    if strange:
        return f"lists {strange[0]!r}, which is not a file of a checkpoint"
    for name, listed in ((MODEL, MODEL), (SHARDS, SHARDS_INDEX)):
        if os.path.lexists(path / name) and listed not in files:
            return f"does not list {listed}, and {name} is there"
    return None


def is_option(item: tuple[Any, Any]) -> bool:
    """Whether a key and a value may be those of an option that a schedule drives."""
    key, value = item
    is_key = isinstance(key, str) and OPTION.fullmatch(key) is not None
    return is_key and type(value) in (int, float) and math.isfinite(value)
