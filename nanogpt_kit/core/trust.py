"""Consent to execute a component file, since code may come with somebody else's run or experiment.

Consent is recorded by the hash of the content, so that a copy runs from any folder, and by path, so that users may edit
their own files. Copies that runs, sweeps and exports write count by content alone, because people share such folders.
A file beside the component cannot give consent: the sender of the folder wrote it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanogpt_kit.system.folders import state_dir
from nanogpt_kit.system.reading import read_bytes

COPIES_FOLDER = "components"  # in which runs, sweeps and exports keep their copies
CONSENT_VARIABLE = "NANOGPT_KIT_CONSENTED"  # hashes for child processes, where the file cannot be written

Question = Callable[[Path, int], bool]  # (file, size in bytes): whether the user allows it to be executed
_question: Question | None = None


def trusted_hashes_file() -> Path:
    """A line for each content this user consented to: its SHA-256, and the path of the file as a JSON string."""
    return state_dir() / "trusted-code"


@contextmanager
def consent_question(question: Question) -> Iterator[None]:
    """While entered, `question` is called for each file that has never run on this machine."""
    global _question
    before, _question = _question, question
    try:
        yield
    finally:
        _question = before


def obtain_consent(path: Path, content: str, size: int, trust_code: bool) -> bool:
    """Whether a file with this content (its SHA-256) may be executed; records that it may.

    `trust_code`: the user consents now. A file at a path that was consented to may change, unless it is a copy.
    """
    original = "" if is_copy(path) else str(path.resolve())
    contents, paths = read_consents()
    is_known_content, is_known_path = content in contents, original in paths
    if not (is_known_content or is_known_path or trust_code or (_question and _question(path, size))):
        return False
    if not is_known_content or (trust_code and original and not is_known_path):
        record_consent(content, original)
    return True


def is_copy(path: Path) -> bool:
    """Whether the file is where a run, a sweep or an export keeps its copies of component files."""
    folders = {*path.absolute().parents, *path.resolve().parents}
    copies = [folder.parent for folder in folders if folder.name.casefold() == COPIES_FOLDER]
    return any(at.name.casefold() == "trials" or (at / "experiment.toml").exists() for at in copies)


def is_consent_recorded(content: str) -> bool:
    """Whether the file has consent to this content (its SHA-256), so that later commands need not ask again."""
    return content in read_consents(environment="")[0]


def read_consents(environment: str | None = None) -> tuple[set[str], set[str]]:
    """The contents and the paths that this user consented to; `environment` replaces the variable's contents."""
    variable = os.environ.get(CONSENT_VARIABLE, "") if environment is None else environment
    contents, paths = set(variable.split()), set[str]()
    try:
        lines = read_bytes(trusted_hashes_file()).decode("utf-8", "replace").splitlines()
    except (OSError, RuntimeError):  # no file, or no home
        lines = []
    for line in lines:
        content, _, path = line.partition(" ")
        contents.add(content)
        if path:
            with suppress(ValueError):  # cut off when the disk was full
                paths.add(str(json.loads(path)))
    return contents, paths


def record_consent(content: str, path: str) -> None:
    """Appends to the file; where that cannot be written, to the environment of this process and its children."""
    line = f"{content} {json.dumps(path)}" if path else content
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        trusted_hashes_file().parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(trusted_hashes_file(), flags, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())  # in one call: several processes may write at once
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError):
        os.environ[CONSENT_VARIABLE] = " ".join(sorted({*os.environ.get(CONSENT_VARIABLE, "").split(), content}))
