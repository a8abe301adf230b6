"""nanoGPT's `meta.pkl`, a pickle of plain values, read without running any code in it."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError


class PlainUnpickler(pickle.Unpickler):
    """Loads dicts, lists, strings and numbers; a pickle that names a class or a function is refused."""

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
        characters = [by_id[index] for index in range(len(by_id))]
    except Exception as error:  # a hostile file may raise anything; no code of it has run
        raise KitError(f"{meta} is not a meta.pkl of nanoGPT's character-level data: {error}") from None
    if not all(isinstance(character, str) and len(character) == 1 for character in characters):
        raise KitError(f"{meta} is not a meta.pkl of nanoGPT's character-level data: its itos does not hold characters")
    letters = "".join(characters)
    try:
        letters.encode("utf-8")
    except UnicodeEncodeError as error:
        raise KitError(f"{meta}: its itos contains {letters[error.start]!r}, half a surrogate pair") from None
    for letter, count in Counter(letters).most_common(1):
        if count > 1:
            raise KitError(f"{meta}: its itos contains {letter!r} {count} times")
    return letters
