"""Which tokens a run learns from: recorded as it begins, compared when it is resumed."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.data.manifest import Prepared
from nanogpt_kit.data.record import MANIFEST, fingerprint
from nanogpt_kit.data.vocabulary import kept_tokenizers, read_record
from nanogpt_kit.runs.files import read_json
from nanogpt_kit.runs.folder import RunFolder

# Keys of `record_data` that decide what a run learns from, and what the run had where one of them differs.
COMPARED = {"splits": "other tokens", "documents": "other document boundaries", "tokenizer": "another tokenizer"}


def record_data(data: Prepared) -> dict[str, Any]:
    """For the provenance of a run."""
    return {
        "folder": str(data.path),
        "dataset": data.manifest["dataset"]["fingerprint"],
        "tokenizer": data.manifest["tokenizer"]["fingerprint"],
        "splits": {split: values["sha256"] for split, values in data.splits.items()},
        "documents": {split: values["documents_sha256"] for split, values in data.splits.items()},
    }


def check_same_data(folder: RunFolder, data: Prepared) -> None:
    """Raises KitError where a run would continue with other tokens, or another tokenizer, than it began with."""
    provenance, record = folder.path / "provenance.json", record_data(data)
    try:
        recorded = read_json(provenance)["data"]
        before = {key: recorded[key] for key in COMPARED}
    except (OSError, ValueError, KeyError, TypeError):
        raise KitError(f"{provenance} cannot be read, and it names the data that the run was trained on") from None
    remedy = f"where the text is the same, remove {data.path} to prepare it again"
    for key, difference in COMPARED.items():
        if before[key] != record[key]:
            reason = f"{folder} was trained on {difference} than {data.path / MANIFEST} names now"
            raise KitError(f"{reason}, and cannot continue with these; {remedy}")
    for path in kept_tokenizers(folder)[-1:]:
        try:
            tokenizer = read_record(path)
            found = fingerprint(tokenizer)
        except (KitError, ValueError, RecursionError):
            continue  # of a damaged checkpoint, which is passed over
        if found == tokenizer.get("fingerprint") != record["tokenizer"]:
            reason = f"{path} is another tokenizer than {data.path / MANIFEST} has now"
            raise KitError(f"{reason}; {folder} cannot continue with this one; {remedy}")
