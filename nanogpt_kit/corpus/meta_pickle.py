"""Pickles of plain values, read without running any of their code: nanoGPT's `meta.pkl`."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError


class PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, strings, numbers: whatever names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_meta_characters(meta: Path) -> str:
    """The characters of a meta.pkl in the order of their ids."""
    if not meta.is_file():  # reading from a pipe or a device would wait
        raise KitError(f"{meta} is not a file")
    try:
        with meta.open("rb") as file:
            values = PlainUnpickler(file).load()
        by_id = values["itos"]
        found = [by_id[number] for number in range(len(by_id))]
    except Exception as error:  # a file that was made to harm may raise anything; none of it has run
        raise KitError(f"{meta} is no meta.pkl of nanoGPT's character-level data: {error}") from None
    if not all(isinstance(character, str) and len(character) == 1 for character in found):
        raise KitError(f"{meta} is no meta.pkl of nanoGPT's character-level data: its itos holds no characters")
    letters = "".join(found)
    try:
        letters.encode("utf-8")
    except UnicodeEncodeError as error:
        raise KitError(f"{meta}: its itos contains {letters[error.start]!r}, half a surrogate pair") from None
    for letter, count in Counter(letters).most_common(1):
        if count > 1:
            raise KitError(f"{meta}: its itos contains {letter!r} {count} times")
    return letters
