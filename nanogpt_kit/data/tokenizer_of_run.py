"""The tokenizer that an experiment takes from a run, by `tokenizer.from_run`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.tokenizer_record import TokenizerRecord, read_tokenizer_record, tokenizer_records_of_run
from nanogpt_kit.runs.find import FoundRun, find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import TokenizerFrom

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizerOfRun:
    """The tokenizer in a checkpoint of a run."""

    path: Path  # of its record
    record: TokenizerRecord

    @property
    def state(self) -> dict[str, Any]:
        return self.record.state

    def origin(self) -> TokenizerFrom:
        """For the provenance of the run that takes it."""
        return TokenizerFrom(checkpoint=str(self.path.parent), fingerprint=self.record.compute_fingerprint())


def find_tokenizer_of_run(
    experiment: Experiment, resumed: RunFolder | None = None, with_log: bool = False
) -> TokenizerOfRun | None:
    """The tokenizer in the run that `tokenizer.from_run` names; None where the option is not set.

    A run that is resumed has it in its own checkpoints, so the other run may have been removed since; before the first
    of them it takes the same tokenizer again, whatever run the option names now. `with_log` logs which run it is.
    Raises KitError where no such run exists, and where it has another tokenizer.
    """
    name = experiment.tokenizer.from_run
    if name is None:
        return None
    with reported_at_option(experiment):
        if resumed is not None:
            own = tokenizer_records_of_run(resumed)
            return read_tokenizer_of_run(experiment, own[-1]) if own else original_tokenizer(experiment, resumed)
        found = find_run(name)
        path = tokenizer_record_of_run(found)
        if with_log:
            logger.info("tokenizer.from_run: %s", found.described())
        return read_tokenizer_of_run(experiment, path)


def state_from_run(experiment: Experiment) -> dict[str, Any] | None:
    """The state of the tokenizer in the run that `tokenizer.from_run` names, for a run that has not begun."""
    taken = find_tokenizer_of_run(experiment)
    return taken.state if taken else None


def read_tokenizer_of_run(experiment: Experiment, path: Path) -> TokenizerOfRun:
    """Raises KitError where the file is damaged, and where it is another tokenizer than the experiment's."""
    record = read_tokenizer_record(path)
    use = experiment.entry_of(experiment.tokenizer).name
    if record.use != use:
        raise KitError(f"{path.parents[2]} uses the tokenizer {record.use}, not {use}")
    return TokenizerOfRun(path, record)


def tokenizer_record_of_run(found: FoundRun) -> Path:
    """The tokenizer's record in the checkpoint of the step that was named, or in the newest. Raises KitError."""
    if found.step is not None:
        return found.folder.checkpoint(found.step) / "tokenizer.json"
    records = tokenizer_records_of_run(found.folder)
    if not records:
        raise KitError(f"{found.folder} has no checkpoint yet")
    return records[-1]


def original_tokenizer(experiment: Experiment, resumed: RunFolder) -> TokenizerOfRun:
    """The tokenizer that a run took when it started, for one that has not saved it yet."""
    provenance = resumed.provenance()
    origin = provenance.tokenizer_from
    if origin is None:
        raise KitError(f"{resumed}: provenance.json does not name the run that its tokenizer is from")
    path = provenance.recorded_path(origin.checkpoint) / "tokenizer.json"
    changed = KitError(f"{resumed} took its tokenizer from {path}, which was changed or removed since; start a new run")
    try:
        taken = read_tokenizer_of_run(experiment, path)
    except KitError:
        raise changed from None
    if taken.origin().fingerprint != origin.fingerprint:
        raise changed
    return taken


@contextmanager
def reported_at_option(experiment: Experiment) -> Iterator[None]:
    """Reports faults at `tokenizer.from_run`."""
    try:
        yield
    except KitError as error:
        location = experiment.location(("tokenizer", "from_run"))
        raise KitError(*(fault.reported_at("tokenizer.from_run", location) for fault in error.faults)) from None
