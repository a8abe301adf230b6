"""Records the data that a run is trained on, and compares it when the run is resumed."""

from __future__ import annotations

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.manifest import MANIFEST
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.proportions import Proportions
from nanogpt_kit.data.tokenizer_record import read_tokenizer_record, tokenizer_records_of_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import TrainedSource, TrainingData

# Fields of TrainingData that decide what a run learns from, and what the run had where one of them differs.
COMPARED = {
    "splits": "other tokens",
    "documents": "other document boundaries",
    "counted": "other marks",
    "tokenizer": "another tokenizer",
}


def record_data(data: PreparedData, experiment: Experiment | None = None) -> TrainingData:
    """The data of a run, for its provenance; with the proportions of its sources where the `experiment` is given."""
    proportions = Proportions.of_data(experiment, data) if experiment else None
    trained = {
        source.name: TrainedSource(fraction=proportions.fractions[source.name], tokens=source.n_tokens)
        for source in data.sources_of("train")
        if proportions
    }
    return TrainingData(
        folder=str(data.path),
        dataset=data.manifest.dataset.fingerprint,
        tokenizer=data.manifest.tokenizer.fingerprint,
        splits={split: record.sha256 for split, record in data.splits.items()},
        documents={split: record.documents_sha256 for split, record in data.splits.items()},
        counted={split: record.counted.sha256 for split, record in data.splits.items() if record.counted} or None,
        sources=trained or None,
    )


def check_same_data(folder: RunFolder, data: PreparedData) -> None:
    """Raises KitError where a run would continue with other tokens, or another tokenizer, than it began with."""
    record, before = record_data(data), folder.provenance().data
    if before is None:
        raise KitError(f"{folder}: provenance.json does not name the data that the run was trained on")
    remedy = f"where the text is the same, remove {data.path} to prepare it again"
    for key, difference in COMPARED.items():
        if getattr(before, key) != getattr(record, key):
            reason = f"{folder} was trained on {difference} than {data.path / MANIFEST} records now"
            raise KitError(f"{reason}, and cannot continue with these; {remedy}")
    for path in tokenizer_records_of_run(folder)[-1:]:
        try:
            tokenizer = read_tokenizer_record(path)
            found = tokenizer.compute_fingerprint()
        except (KitError, ValueError, RecursionError):
            continue  # of a damaged checkpoint, which is passed over
        if found == tokenizer.fingerprint != record.tokenizer:
            reason = f"{path} is another tokenizer than {data.path / MANIFEST} has now"
            raise KitError(f"{reason}; {folder} cannot continue with this one; {remedy}")
