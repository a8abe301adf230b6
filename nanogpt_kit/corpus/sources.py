"""The files that a dataset's source names: by path, glob or folder."""

from __future__ import annotations

import difflib
import glob
import json
import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.syntax import escape_remedy
from nanogpt_kit.corpus.file_signatures import why_not_text
from nanogpt_kit.corpus.hash_split import document_slices
from nanogpt_kit.corpus.plain_text import content_of
from nanogpt_kit.corpus.text_files import TextFile
from nanogpt_kit.corpus.text_folder import (
    NAMED,
    FolderContent,
    Reason,
    find_text_files,
    inner_suffix,
    is_plain,
    suffix_counts,
)

logger = logging.getLogger(__name__)

REMEDIES: dict[Reason, str] = {  # for a folder that holds no text, the most likely first
    "data": "dataset.suffixes = {endings} reads such files as plain text",
    "binary": "convert them to plain text",
    "linked": "links are not followed; name the folder itself: dataset.source = {path}",
    "generated": "to read such a folder, name it: dataset.source = {path}",
    "hidden": "to read what is hidden, name it: dataset.source = {path}",
}


def matching_files(source: str) -> list[Path]:
    """The files that a path, glob or folder names, sorted; in folders none that are hidden."""
    named = Path(source)
    if os.path.isfile(source):  # unlike Path.is_file, false where a folder may not be entered
        return [named]
    if not os.path.isdir(source):
        return sorted(Path(match) for match in glob.glob(source, recursive=True) if os.path.isfile(match))
    files = (path for path in named.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(named).parts))


def text_files(
    sources: str | tuple[str, ...],
    field: str,
    errors: Literal["strict", "replace"] = "strict",
    suffixes: tuple[str, ...] = (),
    with_check: bool = False,
) -> list[TextFile]:
    """The text files of all sources, in their order, each file once. Raises KitError for a source without any.

    In folders all plain text is found, or that with one of the `suffixes`. `with_check`: logs what is read of each
    folder and what is left out, and raises KitError where the beginning of a file is not text.
    """
    files: dict[Path, TextFile] = {}
    for found in text_sources(sources, field, errors, suffixes):
        if isinstance(found, FolderContent) and with_check:
            log_folder(found, field)
        for file in found.files if isinstance(found, FolderContent) else found:
            files.setdefault(file.path, file)
    if with_check:
        check_beginnings(list(files.values()))
    return list(files.values())


def log_folder(content: FolderContent, field: str) -> None:
    logger.info("%s", content.described())
    for warning in content.warnings(field):
        logger.warning("%s", warning)


def text_sources(
    sources: str | tuple[str, ...], field: str, errors: Literal["strict", "replace"], suffixes: tuple[str, ...]
) -> Iterator[FolderContent | list[TextFile]]:
    """The content of each source that is a folder, else its files. Raises KitError for a source without text."""
    names = (sources,) if isinstance(sources, str) else sources
    if not all(names) or not names:
        raise source_error(f"should name a text file, a folder or a glob, got {sources!r}")
    for source in names:
        if os.path.isdir(source):
            content = find_text_files(Path(source), field, errors, tuple(map(normalize_suffix, suffixes)))
            if not content.files:
                raise no_text_error(source, content, field, errors, suffixes)
            yield content
            continue
        paths = matching_files(source)
        if not paths:
            raise source_error(explain_no_match(source))
        for path in paths:
            if reason := why_not_text(path):
                raise source_error(f"{path} {reason}")
        yield [TextFile(path, field, errors) for path in paths]


def explain_no_match(source: str) -> str:
    """That a path or glob names nothing that can be read, and where it was looked for."""
    try:
        os.stat(source)
    except PermissionError as error:
        return f"{source!r} cannot be read: {error.strerror}"
    except (OSError, ValueError):
        pass
    where = f"relative to {Path.cwd()}{escape_remedy(source)}"
    return f"{source!r} matches no file or folder, {where}{nearest_path(source)}"


def check_beginnings(files: list[TextFile]) -> None:
    """Raises KitError where the beginning of a file shows that it cannot be read, and where all files are empty.

    The rest of a file is checked while it is read.
    """
    for file in files:
        if file.format == ".parquet":
            file.check()
        elif file.format != ".txt":
            next(iter(file.documents()), None)
        elif not file.is_plain and content_of(file.path, file.codec, file.errors) != "text":
            read_through(file)
    if not any(os.path.getsize(file.path) for file in files):
        several = f"all {len(files)} files are empty" if len(files) > 1 else f"{files[0].path} is empty"
        raise source_error(f"contains no text: {several}")


def nearest_path(source: str) -> str:
    """The most similar name beside a file that is not there, as "; did you mean ...?"; empty where none is similar."""
    folder, name = os.path.split(source.rstrip(os.sep))
    try:
        close = difflib.get_close_matches(name, sorted(os.listdir(folder or os.curdir)), n=1)
    except OSError:  # nor is the folder there
        close = []
    return f"; did you mean {os.path.join(folder, close[0])!r}?" if close else ""


def normalize_suffix(suffix: str) -> str:
    """ ".md" for "md", "*.md", "**/*.md" and ".MD"."""
    return f".{suffix.strip().lower().rpartition('*')[2].removeprefix('.')}"


def no_text_error(
    source: str, content: FolderContent, field: str, errors: Literal["strict", "replace"], suffixes: tuple[str, ...]
) -> KitError:
    """The error for a folder without text: what it holds, and how that can be read. Raises that of a file in it."""
    if not content.left_out:
        return source_error(f"{source!r} is an empty folder")
    for path in (path for reason in NAMED for path in content.left_out.get(reason, ())):
        read_through(TextFile(path, field, errors, is_plain=is_plain(path)))
    if suffixes and "of other suffixes" in content.left_out:
        found = suffix_counts(content.left_out.pop("of other suffixes"))
        such = f" ({content.left_out_counts()})" if content.left_out else ""
        message = f"{source!r} has no text in files that end with {', '.join(suffixes)}{such}; other files: {found}"
        return KitError(Fault(message, "dataset.suffixes"))
    return source_error(
        f"{source!r} is a folder without plain text: {content.left_out_counts()}; {how_to_read(content)}"
    )


def how_to_read(content: FolderContent) -> str:
    """How text can be read that is left out of a folder with no other text."""
    reason: Reason = next(reason for reason in REMEDIES if reason in content.left_out)
    path, endings = content.left_out[reason][0], {inner_suffix(path) for path in content.left_out[reason]}
    if reason == "hidden" and not os.path.isdir(path):
        path = Path(glob.escape(os.fspath(content.folder)), ".*")
    remedy = REMEDIES[reason].format(path=toml_string(str(path)), endings=toml_string(sorted(endings)))
    return f'dataset.use = "huggingface" reads .json records; {remedy}' if ".json" in endings else remedy


def toml_string(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)


def source_error(message: str) -> KitError:
    return KitError(Fault(message, "dataset.source"))


def read_through(file: TextFile) -> None:
    """Raises KitError at the line where a file cannot be read."""
    for document in file.documents():
        deque(document_slices(document), maxlen=0)
