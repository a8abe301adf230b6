"""The files that a dataset's source names: by path, glob or folder."""

from __future__ import annotations

import glob
import logging
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.syntax import escape_remedy
from nanogpt_kit.corpus.file_signatures import why_not_text
from nanogpt_kit.corpus.hash_split import document_slices
from nanogpt_kit.corpus.text_files import TextFile
from nanogpt_kit.corpus.text_folder import NAMED, FolderContent, find_text_files, is_plain, suffix_counts

logger = logging.getLogger(__name__)


def matching_files(source: str) -> list[Path]:
    """The files that a path, glob or folder names, sorted; in folders none that are hidden."""
    named = Path(source)
    if named.is_file():
        return [named]
    if not named.is_dir():
        return sorted(Path(match) for match in glob.glob(source, recursive=True) if Path(match).is_file())
    files = (path for path in named.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(named).parts))


def text_files(
    sources: str | tuple[str, ...],
    field: str,
    errors: Literal["strict", "replace"] = "strict",
    suffixes: tuple[str, ...] = (),
    with_log: bool = False,
) -> list[TextFile]:
    """The text files of all sources, in their order, each file once. Raises KitError for a source without any.

    In folders all plain text is found, or that with one of the `suffixes`. `with_log`: logs what is read of each folder
    and what is left out.
    """
    files: dict[Path, TextFile] = {}
    for found in text_sources(sources, field, errors, suffixes):
        if isinstance(found, FolderContent) and with_log:
            log_folder(found, field)
        for file in found.files if isinstance(found, FolderContent) else found:
            files.setdefault(file.path, file)
    return list(files.values())


def log_folder(content: FolderContent, field: str) -> None:
    logger.info("%s", content.described())
    for warning in content.warnings(field):
        logger.warning("%s", warning)


def text_sources(
    sources: str | tuple[str, ...], field: str, errors: Literal["strict", "replace"], suffixes: tuple[str, ...]
) -> Iterator[FolderContent | list[TextFile]]:
    """The content of each source that is a folder, else its files. Raises KitError for a source without text."""
    suffixes = tuple(map(normalize_suffix, suffixes))
    for source in (sources,) if isinstance(sources, str) else sources:
        if Path(source).is_dir():
            content = find_text_files(Path(source), field, errors, suffixes)
            if not content.files:
                raise no_text_error(source, content, field, errors, suffixes)
            yield content
            continue
        paths = matching_files(source)
        if not paths:
            where = f"relative to {Path.cwd()}{escape_remedy(source)}"
            raise source_error(f"{source!r} matches no file or folder, {where}")
        for path in paths:
            if reason := why_not_text(path):
                raise source_error(f"{path} {reason}")
        yield [TextFile(path, field, errors) for path in paths]


def normalize_suffix(suffix: str) -> str:
    """ ".md" for "md", "*.md" and ".MD"."""
    return f".{suffix.strip().lower().removeprefix('*').removeprefix('.')}"


def no_text_error(
    source: str, content: FolderContent, field: str, errors: Literal["strict", "replace"], suffixes: tuple[str, ...]
) -> KitError:
    """The error for a folder without text: what it holds, and how that can be read."""
    if not content.left_out:
        return source_error(f"{source!r} is an empty folder")
    for path in (path for reason in NAMED for path in content.left_out.get(reason, ())):
        if error := reading_error(TextFile(path, field, errors, is_plain=is_plain(path))):
            return error
    others = content.left_out.get("of other suffixes")
    if others:
        found = suffix_counts(others)
        message = f"{source!r} has no text in {', '.join(suffixes)} files; it has {found}"
        return KitError(Fault(message, "dataset.suffixes"))
    remedy = next((remedy for reason, remedy in REMEDIES.items() if reason in content.left_out), "")
    return source_error(f"{source!r} is a folder without plain text: {content.left_out_counts()}{remedy}")


def source_error(message: str) -> KitError:
    return KitError(Fault(message, "dataset.source"))


def reading_error(file: TextFile) -> KitError | None:
    """What is wrong with a file that is left out, at its line."""
    try:
        for document in file.documents():
            deque(document_slices(document), maxlen=0)
    except KitError as error:
        return error
    return None


REMEDIES = {  # for a folder that holds nothing else
    "data": '; dataset.use = "huggingface" reads records, and dataset.suffixes = [".json"] takes them as plain text',
    "hidden": '; a glob such as "FOLDER/.*" names hidden files',
    "binary": "; convert them to plain text",
}
