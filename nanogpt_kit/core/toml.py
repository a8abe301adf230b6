"""Reading experiment files and the files that they extend."""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.core.shipped import SUFFIX, find_base, nearest_names, path_in_messages, shipped_experiments
from nanogpt_kit.core.toml_lines import MalformedToml, parse_toml
from nanogpt_kit.system.reading import read_bytes

MAX_BYTES = 5_000_000  # of a file; an experiment has a few thousand
MAX_FILES = 100  # in a chain of `extends`


@dataclass(frozen=True)
class TomlFile:
    """One file: its values, and the line (from 1) of every key and array element."""

    path: Path
    values: dict[str, Any]
    lines: dict[Key, int]

    def location(self, key: Key) -> str:
        return f"{path_in_messages(self.path)}:{self.lines[key]}"


def read_toml_file(path: Path) -> TomlFile:
    """Reads one file. Raises KitError where it is missing, not UTF-8 or not TOML."""
    try:
        return TomlFile(path, *parse_toml(read_utf8_file(path)))
    except MalformedToml as error:
        raise KitError(Fault(f"not TOML: {error.message}", dotted(error.key), f"{path}:{error.line}")) from None


def read_utf8_file(path: Path, limit: int = MAX_BYTES) -> str:
    """A whole UTF-8 file of at most `limit` bytes, without byte order mark. Raises KitError with the reason."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        bad = f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise KitError(Fault(f"{bad}; save the file as UTF-8", location=f"{path}:{line}")) from None
    except OSError as error:
        raise KitError(Fault(f"cannot be read: {error.strerror}", location=str(path))) from None
    except ValueError as error:  # a name with NUL in it
        raise KitError(Fault(f"cannot be read: {error}", location=str(path))) from None


def read_extended_files(path: Path, folder: Path | None = None) -> list[TomlFile]:
    """Reads `path` and the files that it extends: the base first, `path` last.

    Local component files that a file outside `folder` (the one of `path`) names become absolute paths.
    """
    files: list[TomlFile] = []
    seen: set[str] = set()
    following: Path | None = path
    base: Any = None  # what the last file extends
    while following is not None:
        if len(files) == MAX_FILES:
            raise extends_fault(files[-1], f"more than {MAX_FILES} files extend one another; merge some of them")
        try:
            file = read_toml_file(following)
        except KitError as error:
            if not files or os.path.isfile(following):
                raise
            note = "paths are relative to the file that extends"
            raise extends_fault(files[-1], f"{error} ({note}){suggest_base(base, files[-1].path)}") from None
        identity = os.path.realpath(following)
        if identity in seen:
            circle = " -> ".join(str(file.path) for file in files)
            raise extends_fault(files[-1], f"the files extend each other in a circle: {circle} -> {following}")
        seen.add(identity)
        files.append(file)
        base = file.values.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise extends_fault(file, f"should be the path of one file, got {reprlib.repr(base)}")
        if base is not None:
            base = expand_path(base, "extends", file.location(("extends",)))
        following = find_base(base, following) if base is not None else None
    for file in files:
        anchor_components(file, path.parent if folder is None else folder)
    return files[::-1]


def anchor_components(file: TomlFile, folder: Path) -> None:
    """Makes the component files that `file` names absolute, unless it is in `folder`, which they are relative to."""
    names, home = file.values.get("components"), file.path.parent
    if home == folder or not isinstance(names, list):
        return
    for index, name in enumerate(names):
        if isinstance(name, str):
            expanded = expand_path(name, "components", file.location(("components", index)))
            names[index] = os.path.abspath(home / expanded)


def suggest_base(text: str, extending: Path) -> str:
    """For a base that does not exist: the same name with .toml, else the nearest file beside it or shipped name."""
    beside = extending.parent / f"{text}{SUFFIX}"
    if os.path.isfile(beside):
        return f"; did you mean {text + SUFFIX!r}?"
    others = [path.stem for path in sorted(beside.parent.glob(f"*{SUFFIX}")) if path != extending]
    close = nearest_names(text, [*others, *shipped_experiments()])
    if not close:
        return ""
    if close[0] in others:
        return f"; did you mean {os.path.join(os.path.dirname(text), close[0] + SUFFIX)!r}?"
    return f"; did you mean the shipped {close[0]!r}?"


def extends_fault(file: TomlFile, message: str) -> KitError:
    return KitError(Fault(message, "extends", file.location(("extends",))))
