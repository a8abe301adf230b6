"""The files that a source of text names: by path, glob or folder."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Literal

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.syntax import escape_remedy
from nanogpt_kit.corpus.decompress import CODECS
from nanogpt_kit.corpus.files import ENDINGS, FORMATS, TextFile
from nanogpt_kit.corpus.formats import not_text


def matching(source: str, endings: tuple[str, ...]) -> list[Path]:
    """The files that a path, a glob or a folder names, sorted; in folders those of some `endings`, no hidden ones."""
    named = Path(source)
    if named.is_file():
        return [named]
    if not named.is_dir():
        return sorted(Path(match) for match in glob.glob(source, recursive=True) if Path(match).is_file())
    found = (path for path in named.rglob("*") if path.name.lower().endswith(endings) and path.is_file())
    return sorted(path for path in found if not any(part[0] == "." for part in path.relative_to(named).parts))


def text_files(
    sources: str | tuple[str, ...], field: str, errors: Literal["strict", "replace"] = "strict"
) -> list[TextFile]:
    """In the order of the sources, each file once. Raises KitError for a source without any."""
    found: list[Path] = []
    for source in (sources,) if isinstance(sources, str) else sources:
        paths = matching(source, ENDINGS)
        if not paths and Path(source).is_dir():
            allowed = f"{', '.join(FORMATS)} files (perhaps with {' or '.join(CODECS)} behind)"
            raise KitError(f"dataset.source: {source!r} is a folder without {allowed}")
        if not paths:
            what = f"no file, folder or glob match (from {Path.cwd()}){escape_remedy(source)}"
            raise KitError(f"dataset.source: {source!r} is {what}")
        found += paths
    for path in found:
        if reason := not_text(path):
            raise KitError(f"dataset.source: {path} {reason}")
    return [TextFile(path, field, errors) for path in dict.fromkeys(found)]
