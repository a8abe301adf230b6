"""The dataset and the tokenizer that a config file of nanoGPT names: a folder below its data/."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.interop.nanogpt_config import NanoGPTConfig

# The folders of its data/ whose prepare.py has a counterpart here: dataset.use, tokenizer.use, a remark
TEXTS = {
    "shakespeare_char": ("shakespeare", "char", ""),
    "shakespeare": ("shakespeare", "gpt2", ""),
    "openwebtext": ("openwebtext", "gpt2", "a hash chooses the pages for validation, nanoGPT's prepare.py others"),
}
TOKENS, CHARACTERS = "train.bin", "meta.pkl"  # what a prepare.py writes
UNSUITABLE = re.compile(r"[\x00-\x1f\x7f$]|^~")  # in a path of an experiment, `$` and `~` are replaced


def data_entries(config: NanoGPTConfig, source: str | None) -> Iterator[tuple[str, str, str]]:
    """(key, value, comment) of the dataset and its tokenizer. `source`: their text, or a folder of prepared data.

    Raises KitError for a name that no folder should have.
    """
    dataset = str(config["dataset"])
    if dataset in TEXTS and not (source and is_prepared(Path(source))):
        use, tokenizer, remark = TEXTS[dataset]
        yield "dataset.use", use, remark
        if source:
            yield "dataset.source", source, ""
        yield "tokenizer.use", tokenizer, ""
        return
    if not dataset or UNSUITABLE.search(dataset):
        message = f"dataset = {dataset!r}: not a folder of nanoGPT's data/"
        raise KitError(Fault(message, location=config.location("dataset")))
    folder = source or str(find_prepared(config.path, dataset))
    yield "dataset.use", "token_files", ""
    yield "dataset.source", folder, "the folder with train.bin and val.bin"
    if os.path.isfile(Path(folder, CHARACTERS)):
        yield "tokenizer.use", "char", f"the characters of {CHARACTERS}"
    else:
        yield "tokenizer.use", "gpt2", f"char where the folder has a {CHARACTERS}"


def is_prepared(folder: Path) -> bool:
    return os.path.isfile(folder / TOKENS)


def find_prepared(config: Path, dataset: str) -> Path:
    """The folder of the data in the current folder, or else in the checkout that the config file is part of."""
    found = Path("data") / dataset
    places = [found, config.parent / found, config.parent.parent / found]
    return next((place for place in places if is_prepared(place)), found)
