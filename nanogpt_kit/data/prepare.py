"""Documents to token files: streamed, built aside and renamed, found again by fingerprint."""

from __future__ import annotations

import hashlib
import logging
import lzma
import os
import platform
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Dataset, Encoder, TextContext
from nanogpt_kit.core.options import digest
from nanogpt_kit.data.manifest import VERSION, Prepared, check_block_size, tokenizer_identity, tokenizer_record
from nanogpt_kit.runs.files import check_writable, own_folder, sync_file, sync_folder, write_json
from nanogpt_kit.runs.lock import Lock

logger = logging.getLogger(__name__)

BATCH_CHARACTERS = 1 << 20  # of text handed to the tokenizer at once: bounds memory, and is enough to be fast


def data_root() -> Path:
    return Path(os.environ.get("NANOGPT_KIT_DATA") or "data")


def prepare(experiment: Experiment) -> Prepared:
    """The experiment's text as tokens: found where it was prepared before, else made now.

    Raises KitError for text or tokens that are not right; then nothing is left behind.
    """
    identity = describe(experiment)
    name = f"{identity['dataset']['use']}-{identity['tokenizer']['use']}".replace("/", "-")
    path = data_root() / f"{name}-{digest(identity)[:12]}"
    if not (path / "manifest.json").exists():
        check_writable(data_root())
        with own_folder(data_root()), Lock(data_root() / f".{path.name}.lock", wait=True):  # another may be at it
            if not (path / "manifest.json").exists():
                build(experiment, identity, path)
    prepared = Prepared.open(path, experiment.tokenizer)
    prepared.check_block_size(experiment.model.block_size)
    return prepared


def describe(experiment: Experiment) -> dict[str, Any]:
    """All that decides the tokens: two experiments that agree here share their data."""
    dataset = experiment.entry_of(experiment.dataset)
    return {
        "version": VERSION,
        "dataset": {
            "use": dataset.name,
            "code": dataset.identity,
            "fingerprint": experiment.dataset.fingerprint(),
        },
        "tokenizer": tokenizer_identity(experiment),
    }


def build(experiment: Experiment, identity: dict[str, Any], path: Path) -> None:
    """Makes the folder `path` whole, or not at all."""
    partial = path.with_name(f".{path.name}.{platform.node()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a preparation that was killed; we hold the lock
    try:
        partial.mkdir()
        fill(experiment, identity, partial)
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        if not (path / "manifest.json").exists():  # else another machine was faster, and its data is as good
            raise KitError(f"the data of {path} cannot be prepared: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fill(experiment: Experiment, identity: dict[str, Any], folder: Path) -> None:
    began = time.perf_counter()
    dataset = experiment.dataset
    logger.info("preparing %s as %s tokens", identity["dataset"]["use"], identity["tokenizer"]["use"])
    text = TextContext(splits=dataset.splits, documents=lambda split: checked_documents(dataset, split))
    encoder = experiment.tokenizer.build(text)
    dtype = np.dtype(np.uint16 if encoder.vocab_size <= 2**16 else np.uint32)
    splits = {split: write_split(dataset, split, encoder, dtype, folder / f"{split}.bin") for split in dataset.splits}
    check_block_size({split: values["tokens"] for split, values in splits.items()}, experiment.model.block_size)
    manifest = {
        **identity,
        "tokenizer": tokenizer_record(experiment, encoder),
        "dtype": dtype.name,
        "splits": splits,
    }
    write_json(folder / "manifest.json", manifest)
    size, seconds = sum(values["bytes"] for values in splits.values()), time.perf_counter() - began
    counts = ", ".join(f"{split} {values['tokens']:,} tokens" for split, values in splits.items())
    logger.info("prepared %.1f MB of text in %.1f s: %s", size / 1e6, seconds, counts)


def write_split(dataset: Dataset, split: str, encoder: Encoder, dtype: np.dtype[Any], path: Path) -> dict[str, Any]:
    """Tokens of a split, documents ended by eot_id where there is one; returns its entry in the manifest."""
    counts = {"tokens": 0, "bytes": 0, "documents": 0}
    hashed = hashlib.sha256()
    compressors: dict[str, Any] = {}
    if split == "val":  # what the model is measured against; see the evaluator bits_per_byte
        compressors = {"gzip -9": zlib.compressobj(9, wbits=31), "xz -9": lzma.LZMACompressor(preset=9)}
    compressed = dict.fromkeys(compressors, 0)
    end = np.array([] if encoder.eot_id is None else [encoder.eot_id], dtype=dtype)
    with path.open("wb") as file:
        for texts in batches_of_text(checked_documents(dataset, split)):
            raw = "".join(texts).encode("utf-8")
            for ids in encoder.encode_batch(texts):
                check_ids(ids, encoder, split, counts["documents"])
                written = np.concatenate([ids.astype(dtype), end])
                file.write(written.data)
                hashed.update(written.data)
                counts["tokens"] += len(written)
                counts["documents"] += 1
            counts["bytes"] += len(raw)
            for name, compressor in compressors.items():
                compressed[name] += len(compressor.compress(raw))
    sync_file(path)
    references = {
        name: (compressed[name] + len(compressor.flush())) * 8 / max(1, counts["bytes"])
        for name, compressor in compressors.items()
    }
    return {**counts, "sha256": hashed.hexdigest(), **({"references": references} if references else {})}


def checked_documents(dataset: Dataset, split: str) -> Iterator[str]:
    """The documents of a split. Raises KitError for half a surrogate pair, which JSON may hold and UTF-8 may not."""
    for number, text in enumerate(dataset.documents(split)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            what = f"{text[error.start]!r} at character {error.start}: {error.reason}"
            raise KitError(f"document {number} of {split} is no Unicode text: {what}") from None
        yield text


def batches_of_text(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def check_ids(ids: np.ndarray, encoder: Encoder, split: str, document: int) -> None:
    """A plugin's tokenizer may be wrong about its own vocabulary; the model would find out much later."""
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < encoder.vocab_size:
        wrong = int(ids.max()) if ids.max() >= encoder.vocab_size else int(ids.min())
        raise KitError(
            f"the tokenizer gave id {wrong} in document {document} of {split}, "
            f"but its vocabulary ends at {encoder.vocab_size - 1}"
        )
