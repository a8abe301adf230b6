"""Text to token files: once, and found again by fingerprint; whole or not at all; gone on with after a kill."""

from __future__ import annotations

import logging
import lzma
import os
import platform
import shutil
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.core.options import digest
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.data import pretokenized
from nanogpt_kit.data.encode import encoded, token_type
from nanogpt_kit.data.jobs import Job, Watch, jobs
from nanogpt_kit.data.manifest import (
    Prepared,
    check_block_size,
    data_files,
    tokenizer_identity,
    tokenizer_record,
)
from nanogpt_kit.data.progress import Progress
from nanogpt_kit.data.record import MANIFEST, VERSION, damaged, manifest_hash
from nanogpt_kit.data.vocabulary import make_encoder, taken_from
from nanogpt_kit.data.write import JOURNAL, StalePartial, Writer, check_room
from nanogpt_kit.runs.files import check_inside, check_writable, git_ignored_folder, sync_folder, write_json
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.lock import Lock, is_locked

logger = logging.getLogger(__name__)

REFERENCE_BYTES = 1_000_000  # of validation text that compressors are tried on: xz takes half a second for them


def data_root() -> Path:
    return Path(expand_path(os.environ.get("NANOGPT_KIT_DATA") or "data", "NANOGPT_KIT_DATA"))


def prepare(
    experiment: Experiment, workers: int | None = None, resumed: RunFolder | None = None, verify: bool = True
) -> Prepared:
    """The experiment's text as tokens: found where it was prepared before, else made now, by a process on each core.

    `resumed` is the run that continues with them. Files that are not what was written are refused; without `verify` the
    manifest alone is looked at, as where another process looks at the rest. Raises KitError for text or tokens that
    are not right; then nothing is left behind.
    """
    taken = taken_from(experiment, resumed)
    identity = describe(experiment, taken)
    name = f"{identity['dataset']['use']}-{identity['tokenizer']['use']}".replace("/", "-")
    path = data_root() / f"{name}-{digest(identity)[:12]}"
    if not (path / MANIFEST).exists():
        check_free(path)
        check_writable(data_root())
        lock = data_root() / f".{path.name}.lock"
        with git_ignored_folder(data_root()):
            if is_locked(lock):
                logger.info("waiting for another process that prepares %s", path)
            with Lock(lock, wait=True):
                if not (path / MANIFEST).exists():
                    build(experiment, identity, path, taken, workers or available_cores())
    prepared = Prepared.open(path, experiment)
    check_identity(prepared, identity, taken)
    if verify:
        prepared.check()
    prepared.check_block_size(experiment.model.block_size)
    return prepared


def check_free(path: Path) -> None:
    """Raises KitError where something lies in the data's place: seen only after an hour of tokenizing otherwise."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise KitError(f"{path} is not a folder; remove it to prepare the data there")
    if path.exists() and any(path.iterdir()):
        raise damaged(path, MANIFEST, "is missing")


def check_identity(prepared: Prepared, identity: dict[str, Any], taken: dict[str, Any] | None) -> None:
    """Raises KitError where a whole folder lies in the place of another."""
    found = prepared.manifest["tokenizer"]
    made = {"taken", "vocab_size", "eot_id"}  # of the tokenizer's options, the manifest records what they result in
    tokenizer = {key: value for key, value in identity["tokenizer"].items() if key not in made}
    same = {
        "text": digest(prepared.manifest["dataset"]) == digest(identity["dataset"]),
        "tokenizer": digest({key: found.get(key) for key in tokenizer}) == digest(tokenizer),
        "vocabulary": taken is None or digest(found["state"]) == digest(taken),
    }
    others = [name for name, is_same in same.items() if not is_same]
    if others:
        raise damaged(prepared.path, MANIFEST, f"is of another {' and '.join(others)} than the folder's name says")


def available_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(experiment: Experiment, taken: dict[str, Any] | None) -> dict[str, Any]:
    """All that decides the tokens: two experiments that agree here share their data."""
    dataset = experiment.entry_of(experiment.dataset)
    return {
        "version": VERSION,
        "dataset": {
            "use": dataset.name,
            "code": dataset.identity,
            "fingerprint": experiment.dataset.fingerprint(),
        },
        "tokenizer": {**tokenizer_identity(experiment), **({"taken": digest(taken)} if taken is not None else {})},
    }


def build(
    experiment: Experiment, identity: dict[str, Any], path: Path, taken: dict[str, Any] | None, workers: int
) -> None:
    """Makes the folder `path` whole, or not at all; what a kill or a full disk left of it is gone on with."""
    partial = path.with_name(f".{path.name}.{platform.node()}")
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise KitError(f"{partial} is not a folder; remove it to prepare the data there")
    partial.mkdir(exist_ok=True)
    check_inside(partial)
    manifest: dict[str, Any] | None = None
    went_on = (partial / JOURNAL).exists()
    if not went_on:
        tell_of_others(partial, path)
    try:
        if not (partial / MANIFEST).exists():
            try:
                manifest = fill(experiment, identity, partial, taken, workers)
            except (
                StalePartial
            ) as error:  # a branch on the hub has moved, a library learns otherwise, a disk has lost bits
                logger.warning("what an earlier preparation left was made of %s: beginning anew", error)
                shutil.rmtree(partial)
                partial.mkdir()
                manifest = fill(experiment, identity, partial, taken, workers)
        for left in (partial / JOURNAL, *partial.glob(".*")):
            left.unlink(missing_ok=True)
        partial.rename(path)
        sync_folder(path.parent)
        for file in data_files(path, manifest) if manifest else ():
            file.remember()
    except OSError as error:
        if (path / MANIFEST).exists():  # another machine was faster, and its data is as good
            shutil.rmtree(partial, ignore_errors=True)
            return
        raise KitError(f"the data of {path} cannot be prepared: {error}{kept(partial)}") from error
    except RunFailed as error:
        raise RunFailed(f"{error}{kept(partial)}") from error
    except KeyboardInterrupt:
        logger.info("stopped before %s was whole%s", path, kept(partial))
        raise
    except BaseException as error:
        if went_on and isinstance(error, KitError):  # no network, no room: not the fault of what is there already
            raise KitError(f"{error}{kept(partial)}") from error
        shutil.rmtree(partial, ignore_errors=True)
        raise


def tell_of_others(partial: Path, path: Path) -> None:
    """What stays on this machine of preparations that were stopped, and that this one does not go on with."""
    here, start = partial.name.removeprefix(f".{path.name}"), f".{path.name.rpartition('-')[0]}-"
    found = [other for other in path.parent.glob(f"{start}*{here}/") if other != partial and (other / JOURNAL).exists()]
    others = [other for other in found if not is_locked(other.with_name(f"{other.name.removesuffix(here)}.lock"))]
    if others:
        size = f"{sum(map(size_of, others)) / 1e6:,.0f} MB stay of stopped preparations of other text or options"
        logger.info("%s; to be removed: %s", size, ", ".join(map(str, others)))


def size_of(folder: Path) -> int:
    size = 0
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):  # a temporary one
            size += file.stat().st_size
    return size


def kept(partial: Path) -> str:
    """Leaves what is worth it, and says so."""
    if not (partial / JOURNAL).exists():
        shutil.rmtree(partial, ignore_errors=True)
        return ""
    return f"; {size_of(partial) / 1e6:,.0f} MB stay in {partial}, and the same command goes on from there"


def fill(
    experiment: Experiment, identity: dict[str, Any], folder: Path, taken: dict[str, Any] | None, workers: int
) -> dict[str, Any]:
    """Writes all files of the data, the manifest last, and returns that."""
    began = time.perf_counter()
    dataset = experiment.dataset
    logger.info("preparing %s as %s tokens", identity["dataset"]["use"], identity["tokenizer"]["use"])
    encoder = make_encoder(experiment.tokenizer, experiment.dataset, taken)
    watch = Watch(dataset.splits, dataset.has_own_splits, REFERENCE_BYTES)
    fingerprint = digest(encoder.state())
    with Writer(folder, dataset.splits, fingerprint) as writer, ThreadPoolExecutor(1, "compress") as aside:
        if writer.done:
            logger.info("going on where an earlier preparation was ended")
        if pretokenized.has_tokens(dataset):
            pretokenized.copy(dataset, encoder, writer, watch)
            references = aside.submit(compressed, bytes(watch.val))
        else:
            references = tokenize(experiment, encoder, writer, watch, aside, workers)
        splits = writer.finish()
        splits["val"]["references"] = references.result()
    for split, count in watch.duplicates.items():
        splits[split]["duplicates"] = count
        if count:
            logger.warning("%d documents of %s are in a smaller split, too", count, split)
    check_block_size({split: values["tokens"] for split, values in splits.items()}, experiment.model.block_size)
    if dataset.fingerprint() != identity["dataset"]["fingerprint"]:
        raise KitError("the text has changed while it was read; prepare it again")
    manifest = {
        **identity,
        "tokenizer": tokenizer_record(experiment, encoder),
        "dtype": token_type(encoder).name,
        "splits": splits,
    }
    manifest["sha256"] = manifest_hash(manifest)
    write_json(folder / MANIFEST, manifest)
    size, seconds = sum(values["bytes"] for values in splits.values()), time.perf_counter() - began
    counts = ", ".join(f"{split} {values['tokens']:,} tokens" for split, values in splits.items())
    speed = f" ({size / 1e6 / seconds:.1f} MB/s)" if seconds > 1 and not writer.done else ""
    logger.info("prepared %.1f MB of text in %.1f s%s: %s", size / 1e6, seconds, speed, counts)
    return manifest


def tokenize(
    experiment: Experiment, encoder: Encoder, writer: Writer, watch: Watch, aside: ThreadPoolExecutor, workers: int
) -> Future[dict[str, float]]:
    """Encodes what `writer` has not yet. Returns what compressors need."""
    dataset = experiment.dataset
    total = dataset.text_bytes()
    references: Future[dict[str, float]] | None = None
    with Progress(total, "tokenizing") as progress:
        todo = remaining(jobs(dataset, encoder, watch), writer, progress)
        for number, (job, tokens) in enumerate(encoded(todo, encoder, experiment, total, workers)):
            if number == 0 and total and tokens.text_bytes:
                per_byte = (tokens.ids.nbytes + tokens.begins.nbytes) / tokens.text_bytes
                check_room(writer.folder, (total - progress.seen) * per_byte)
            writer.add(job.split, tokens, job.empty, job.seen)
            progress.add(tokens.text_bytes, worked=True)
            if references is None and len(watch.val) == REFERENCE_BYTES:
                references = aside.submit(compressed, bytes(watch.val))
    return references or aside.submit(compressed, bytes(watch.val))


def remaining(jobs: Iterator[Job], writer: Writer, progress: Progress) -> Iterator[Job]:
    """Without the first jobs, which are on disk: their text is read again, and not tokenized."""
    for job in jobs:
        if writer.skip(job.seen):
            progress.add(sum(len(text.encode("utf-8", "replace")) for text in job.texts), worked=False)
        else:
            yield job


def compressed(text: bytes) -> dict[str, float]:
    """What compressors need for the validation text, in bits a byte; see the evaluator bits_per_byte."""
    of = f" on {len(text) / 1e6:.0f} MB" if len(text) == REFERENCE_BYTES else ""
    sizes = {"gzip -9": len(zlib.compress(text, 9, wbits=31)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name + of: size * 8 / max(1, len(text)) for name, size in sizes.items()}
