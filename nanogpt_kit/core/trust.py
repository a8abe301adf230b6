"""Consent to execute a component file. Code that came with somebody else's run or experiment was not chosen here.

What was consented to is remembered by the hash of its content, so that a copy of it runs, too, wherever it lies; and by
its path, so that one's own edits of one's own file run. The copies that runs, sweeps and exports write count by their
content alone, because such folders are handed on. No other file in a folder gives consent: its sender chose it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanogpt_kit.core.reading import read_bytes

COPIES = "components"  # the folder of such copies
CONSENTED = "NANOGPT_KIT_CONSENTED"  # where the ledger cannot be written: hashes, for the processes started here

Question = Callable[[Path, int], bool]  # may this file of so many bytes be executed?
_question: Question | None = None


def trusted_hashes_file() -> Path:
    """Of this user: one line for each content consented to, its SHA-256 and the path of the file as a JSON string."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "nanogpt-kit" / "trusted-code"


@contextmanager
def asking(question: Question) -> Iterator[None]:
    """Within, who uses this is asked about each file that has never run here."""
    global _question
    before, _question = _question, question
    try:
        yield
    finally:
        _question = before


def consents(path: Path, content: str, size: int, trust_code: bool) -> bool:
    """Whether a file of this content (its SHA-256) may be executed, and remembers that it may.

    `trust_code`: the user says so now. A file whose path has been consented to may change, unless it is a copy.
    """
    own = "" if is_copy(path) else str(path.resolve())
    contents, paths = remembered()
    is_known, is_own = content in contents, own in paths
    if not (is_known or is_own or trust_code or (_question and _question(path, size))):
        return False
    if not is_known or (trust_code and own and not is_own):
        remember(content, own)
    return True


def is_copy(path: Path) -> bool:
    """Whether it lies where a run, a sweep or an export keeps the component files it began with."""
    folders = {*path.absolute().parents, *path.resolve().parents}
    copies = [folder.parent for folder in folders if folder.name.casefold() == COPIES]
    return any(at.name.casefold() == "trials" or (at / "experiment.toml").exists() for at in copies)


def remembered() -> tuple[set[str], set[str]]:
    """The contents and the paths that were consented to."""
    contents, paths = set(os.environ.get(CONSENTED, "").split()), set[str]()
    try:
        lines = read_bytes(trusted_hashes_file()).decode("utf-8", "replace").splitlines()
    except (OSError, RuntimeError):  # there is none, or no home
        lines = []
    for line in lines:
        content, _, path = line.partition(" ")
        contents.add(content)
        if path:
            with suppress(ValueError):  # torn when the disk was full
                paths.add(str(json.loads(path)))
    return contents, paths


def remember(content: str, path: str) -> None:
    """For good; where the home cannot be written to, for this process and those that it starts."""
    line = f"{content} {json.dumps(path)}" if path else content
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        trusted_hashes_file().parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(trusted_hashes_file(), flags, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())  # in one piece: several processes may write at a time
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError):
        os.environ[CONSENTED] = " ".join(sorted({*os.environ.get(CONSENTED, "").split(), content}))
