"""The text files of a folder and its subfolders: plain text is recognized by content, and what is left out is counted.

Files of a known format (.txt, .jsonl, .csv, .tsv, .parquet) are read in it; all other plain text is read like .txt.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.corpus.decompress import CODECS
from nanogpt_kit.corpus.file_signatures import why_not_text
from nanogpt_kit.corpus.parquet import parquet_file
from nanogpt_kit.corpus.plain_text import content_of
from nanogpt_kit.corpus.text_files import ENDINGS, TextFile

# Plain text that programs write for programs: records, notebooks with their pictures, locked versions, drawings, source
# maps. A model learns little from it, and it is often larger than all other text.
DATA_ENDINGS = (".json", ".ipynb", ".lock", ".svg", ".map")
GENERATED_FOLDERS = ("node_modules", "__pycache__")
GENERATED_MARKERS = ("pyvenv.cfg", "CACHEDIR.TAG")  # a virtual environment; bford.info/cachedir

Reason = Literal[
    "of other suffixes",
    "binary",
    "data",
    "without the field",
    "not UTF-8",
    "unreadable",
    "hidden",
    "generated",
    "linked",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
FOLDER_REASONS: tuple[Reason, ...] = ("generated", "linked")
NAMED: tuple[Reason, ...] = ("unreadable", "not UTF-8", "without the field")  # text that the user may miss
MAX_SUFFIXES, MAX_NAMES = 6, 5  # in a message; the others are counted


@dataclass
class FolderContent:
    """The text files of a folder, sorted by path, and what else is in it."""

    folder: Path
    files: list[TextFile] = field(default_factory=list)
    left_out: dict[Reason, list[Path]] = field(default_factory=dict)

    def leave_out(self, reason: Reason, path: Path) -> None:
        self.left_out.setdefault(reason, []).append(path)

    def described(self) -> str:
        """ "notes: 412 files, 3.1 MB: .py 380, .md 32; left out: 12 binary, 3 hidden"."""
        size = sum(file.path.stat().st_size for file in self.files)
        amount = f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"
        files = f"{count_of(len(self.files), 'file')}, {amount}"
        text = f"{self.folder}: {files}: {suffix_counts(file.path for file in self.files)}"
        return f"{text}; left out: {self.left_out_counts()}" if self.left_out else text

    def left_out_counts(self) -> str:
        """ "12 binary, 3 hidden, 2 data (.json 1, .lock 1)"."""
        parts = []
        for reason in (reason for reason in REASONS if reason in self.left_out):
            paths = self.left_out[reason]
            count = count_of(len(paths), f"{reason} folder") if reason in FOLDER_REASONS else f"{len(paths):,} {reason}"
            parts.append(f"{count} ({suffix_counts(paths)})" if reason == "data" else count)
        return ", ".join(parts)

    def warnings(self, field_name: str) -> list[str]:
        """Sentences about text that is left out although its owner may expect it to be read."""
        remedies = {
            "unreadable": "cannot be read or decompressed",
            "not UTF-8": 'not UTF-8: convert it with iconv, or set dataset.errors = "replace"',
            "without the field": f"no key or column {field_name!r}: dataset.field names another one",
        }
        return [
            f"left out of {self.folder}: {some_names(self.left_out[reason], self.folder)} ({remedies[reason]})"
            for reason in NAMED
            if reason in self.left_out
        ]


def find_text_files(
    folder: Path, field_name: str, errors: Literal["strict", "replace"], suffixes: tuple[str, ...] = ()
) -> FolderContent:
    """The text in a folder; links to folders are not followed. `suffixes` are all that names may end with."""
    content = FolderContent(folder)
    search_folder(folder, content, field_name, errors, suffixes)
    return content


def search_folder(
    folder: Path,
    content: FolderContent,
    field_name: str,
    errors: Literal["strict", "replace"],
    suffixes: tuple[str, ...],
) -> None:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        content.leave_out("unreadable", folder)
        return
    for entry in found:
        path = folder / entry.name
        kind = kind_of(entry)
        if entry.name.startswith("."):
            content.leave_out("hidden", path)
        elif kind == "folder":
            if is_generated(path):
                content.leave_out("generated", path)
            else:
                search_folder(path, content, field_name, errors, suffixes)
        elif kind in ("linked", "unreadable"):
            content.leave_out(kind, path)
        elif kind == "file":
            file = TextFile(path, field_name, errors, is_plain=is_plain(path))
            reason = why_left_out(file, suffixes)
            if reason is None:
                content.files.append(file)
            else:
                content.leave_out(reason, path)


def kind_of(entry: os.DirEntry[str]) -> Literal["folder", "linked", "file", "unreadable", "other"]:
    """What is in a folder: "linked" is a link to a folder; "other" a link to nothing, a pipe or a device."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "linked" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # links that lead to each other, or into a folder that may not be entered
        return "unreadable"


def is_generated(folder: Path) -> bool:
    """Whether programs filled a folder: a cache, installed packages, or one that git ignores as a whole.

    The folders of runs and of prepared data are such: text in them would change with every run.
    """
    if folder.name in GENERATED_FOLDERS or any((folder / marker).is_file() for marker in GENERATED_MARKERS):
        return True
    try:
        with open(folder / ".gitignore", "rb") as file:
            lines = file.read(1000).splitlines()
    except OSError:
        return False
    return [line for line in lines if line.strip() and not line.startswith(b"#")] == [b"*"]


def is_plain(path: Path) -> bool:
    """Whether this name has the ending of no known format, so that the file is read like .txt."""
    return not path.name.lower().endswith(ENDINGS)


def why_left_out(file: TextFile, suffixes: tuple[str, ...]) -> Reason | None:
    """None for a file whose text is read."""
    name = file.path.name.lower()
    if suffixes and not name.endswith(tuple(suffix + codec for suffix in suffixes for codec in ("", *CODECS))):
        return "of other suffixes"
    if file.format != ".txt":
        return None if has_field(file) else "without the field"
    if not suffixes and inner_suffix(file.path) in DATA_ENDINGS:
        return "data"
    if why_not_text(file.path) and inner_suffix(file.path) not in DATA_ENDINGS:
        return "binary"
    content = content_of(file.path, file.codec, file.errors)
    if content == "unreadable" and not file.is_plain:
        return None  # a damaged .txt.gz is an error where it is read
    return None if content == "text" else content


def has_field(file: TextFile) -> bool:
    """Whether a table or file of records has the column or key of the text; True where it cannot be read.

    Only its beginning is read; what is wrong with the file is reported where all of it is.
    """
    try:
        if file.format == ".parquet":
            with parquet_file(file.path, file.codec) as table:
                return file.field in table.schema_arrow.names
        with file.opened() as opened:
            line = next((line for line in opened if line.strip()), b"").decode("utf-8-sig")
        if file.format == ".jsonl":
            return not line or file.field in json.loads(line)
        return not line or file.field in next(csv.reader([line], delimiter="\t" if file.format == ".tsv" else ","))
    except (KitError, ValueError, TypeError, RecursionError, csv.Error):
        return True


def inner_suffix(path: Path) -> str:
    """The ending of a name, without that of a compression, in lower case; empty where it has none."""
    return (path.with_suffix("") if path.suffix.lower() in CODECS else path).suffix.lower()


def suffix_counts(paths: Iterable[Path]) -> str:
    """The most frequent endings: ".py 380, .md 32, 5 others"."""
    counts = Counter(inner_suffix(path) or "without suffix" for path in paths).most_common()
    shown, rest = counts[:MAX_SUFFIXES], counts[MAX_SUFFIXES:]
    others = [count_of(sum(count for _, count in rest), "other")] if rest else []
    return ", ".join([*(f"{suffix} {count:,}" for suffix, count in shown), *others])


def count_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def some_names(paths: list[Path], folder: Path) -> str:
    names = [os.fspath(path.relative_to(folder)) for path in paths[:MAX_NAMES]]
    more = [f"and {len(paths) - MAX_NAMES:,} more"] if len(paths) > MAX_NAMES else []
    return ", ".join([*names, *more])
