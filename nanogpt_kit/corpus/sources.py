"""The files that a dataset's source names: by path, glob or folder."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Literal

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.syntax import escape_remedy
from nanogpt_kit.corpus.decompress import CODECS
from nanogpt_kit.corpus.file_signatures import why_not_text
from nanogpt_kit.corpus.text_files import ENDINGS, FORMATS, TextFile


def matching_files(source: str, endings: tuple[str, ...]) -> list[Path]:
    """The files that a path, glob or folder names, sorted; in folders only those of some `endings`, none hidden."""
    named = Path(source)
    if named.is_file():
        return [named]
    if not named.is_dir():
        return sorted(Path(match) for match in glob.glob(source, recursive=True) if Path(match).is_file())
    files = (path for path in named.rglob("*") if path.name.lower().endswith(endings) and path.is_file())
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(named).parts))


def text_files(
    sources: str | tuple[str, ...], field: str, errors: Literal["strict", "replace"] = "strict"
) -> list[TextFile]:
    """The text files of all sources, in their order, each file once. Raises KitError for a source without any."""
    files: list[Path] = []
    for source in (sources,) if isinstance(sources, str) else sources:
        paths = matching_files(source, ENDINGS)
        if not paths and Path(source).is_dir():
            allowed = f"{', '.join(FORMATS)} files (also as {' or '.join(CODECS)})"
            raise KitError(f"dataset.source: {source!r} is a folder without {allowed}")
        if not paths:
            where = f"relative to {Path.cwd()}{escape_remedy(source)}"
            raise KitError(f"dataset.source: {source!r} matches no file or folder, {where}")
        files += paths
    for path in files:
        if reason := why_not_text(path):
            raise KitError(f"dataset.source: {path} {reason}")
    return [TextFile(path, field, errors) for path in dict.fromkeys(files)]
