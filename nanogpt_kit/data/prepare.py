"""Prepares the data of an experiment once; afterwards it is found by its fingerprint."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Dataset
from nanogpt_kit.core.options import components_in, digest
from nanogpt_kit.core.paths import expand_path
from nanogpt_kit.corpus.hash_split import HashSplitDataset
from nanogpt_kit.data.build import build_data_folder
from nanogpt_kit.data.dataset_sources import sources_of
from nanogpt_kit.data.manifest import FORMAT_VERSION, MANIFEST, DatasetRecord, damaged_data_error
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.tokenizer_of_run import find_tokenizer_of_run
from nanogpt_kit.data.tokenizer_record import tokenizer_identity
from nanogpt_kit.runs.files import check_writable, git_ignored_folder
from nanogpt_kit.runs.lock import Lock, is_locked
from nanogpt_kit.system.folders import available_cores

logger = logging.getLogger(__name__)

MAX_HELD_OUT = 0.5  # fraction of the text that is not for training, above which it may be the larger part


def data_root() -> Path:
    return Path(expand_path(os.environ.get("NANOGPT_KIT_DATA") or "data", "NANOGPT_KIT_DATA"))


def prepare(
    experiment: Experiment,
    workers: int | None = None,
    tokenizer_state: dict[str, Any] | None = None,
    verify: bool = True,
) -> PreparedData:
    """The experiment's text as tokens: those of an earlier preparation, else made now by one process for each core.

    `tokenizer_state` is that of the tokenizer that `tokenizer.from_run` names, where the caller has it. Files that are
    not what was written are refused; without `verify` only the manifest is read, as where another process checks them.
    Raises KitError for text or tokens that are not valid; then nothing is left behind.
    """
    state = tokenizer_state
    if state is None and (taken := find_tokenizer_of_run(experiment, with_log=True)):
        state = taken.state
    identity = DataIdentity.of(experiment, state)
    path = data_root() / identity.folder_name
    if not (path / MANIFEST).exists():
        check_target_free(path)
        check_writable(data_root(), "NANOGPT_KIT_DATA")
        lock = data_root() / f".{path.name}.lock"
        with git_ignored_folder(data_root()):
            if is_locked(lock):
                logger.info("waiting for another process that prepares %s", path)
            with Lock(lock, wait=True):
                if not (path / MANIFEST).exists():
                    build_data_folder(experiment, identity.dataset, path, state, workers or len(available_cores()))
    prepared = PreparedData.open(path, experiment)
    identity.check(prepared, state)
    if verify:
        prepared.check()
    prepared.check_block_size(experiment.model.block_size)
    warn_of_long_documents(experiment.dataset, prepared)
    return prepared


def find_prepared(experiment: Experiment) -> PreparedData | None:
    """What an earlier preparation has written; its manifest alone is checked. None where there is none.

    Raises KitError where the text cannot be read: its contents decide which data is the experiment's.
    """
    use = experiment.entry_of(experiment.dataset).name, experiment.entry_of(experiment.tokenizer).name
    if not any(data_root().glob(f"{folder_prefix(*use)}-*/{MANIFEST}")):
        return None
    taken = find_tokenizer_of_run(experiment)
    path = data_root() / DataIdentity.of(experiment, taken.state if taken else None).folder_name
    return PreparedData.open(path, experiment) if (path / MANIFEST).exists() else None


def warn_of_long_documents(dataset: Dataset, prepared: PreparedData) -> None:
    """Logs where a long document gives validation or test more text than training, as one novel among notes may."""
    for index, (name, source) in enumerate(sources_of(dataset).items()):
        if isinstance(source, HashSplitDataset) and source.val_fraction + source.test_fraction <= MAX_HELD_OUT:
            counts = {
                split: record.sources[index].tokens if name else record.tokens
                for split, record in prepared.splits.items()
            }
            largest = max(counts, key=counts.__getitem__)
            if largest != "train":
                sizes = f"{largest} has {counts[largest]:,} tokens and train has {counts['train']:,}"
                where = f" of {name!r}" if name else ""
                remedy = "divide long ones into several files, or name a single file, whose end becomes val"
                logger.warning("%s%s, since a document is not divided between splits; %s", sizes, where, remedy)


def check_target_free(path: Path) -> None:
    """Raises KitError where `path` is taken by something else, before hours are spent on preparing the data."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise KitError(f"{path} is not a folder; remove it to prepare the data there")
    if path.exists() and any(path.iterdir()):
        raise damaged_data_error(path, MANIFEST, "is missing")


def folder_prefix(dataset: str, tokenizer: str) -> str:
    """What the names of the folders begin with that have the data of these components."""
    return f"{dataset}-{tokenizer}".replace("/", "-")


@dataclass(frozen=True)
class DataIdentity:
    """All that decides the tokens: two experiments that agree here share their data."""

    dataset: DatasetRecord
    tokenizer: dict[str, Any]  # its name and options
    state_digest: str | None  # of the tokenizer's state, where it comes from a run

    @classmethod
    def of(cls, experiment: Experiment, state: dict[str, Any] | None) -> DataIdentity:
        entry = experiment.entry_of(experiment.dataset)
        inner = [experiment.entry_of(part).identity for _, part in components_in(experiment.dataset)]
        code = digest([entry.identity, inner]) if inner else entry.identity
        dataset = DatasetRecord(use=entry.name, code=code, fingerprint=experiment.dataset.fingerprint())
        return cls(dataset, tokenizer_identity(experiment), None if state is None else digest(state))

    @property
    def folder_name(self) -> str:
        state = {} if self.state_digest is None else {"state": self.state_digest}
        values = {
            "version": FORMAT_VERSION,
            "dataset": self.dataset.as_json(),
            "tokenizer": {**self.tokenizer, **state},
        }
        return f"{folder_prefix(self.dataset.use, self.tokenizer['use'])}-{digest(values)[:12]}"

    def check(self, prepared: PreparedData, state: dict[str, Any] | None) -> None:
        """Raises KitError where the folder contains other data than its name says, though undamaged."""
        recorded = prepared.manifest.tokenizer.as_json()
        computed = {"vocab_size", "eot_id"}  # the manifest records the results in place of the options of these names
        options = {key: value for key, value in self.tokenizer.items() if key not in computed}
        same = {
            "text": prepared.manifest.dataset == self.dataset,
            "tokenizer": digest({key: recorded.get(key) for key in options}) == digest(options),
            "vocabulary": state is None or digest(recorded["state"]) == digest(state),
        }
        others = [name for name, is_same in same.items() if not is_same]
        if others:
            damage = f"records another {' and '.join(others)} than the folder's name says"
            raise damaged_data_error(prepared.path, MANIFEST, damage)
