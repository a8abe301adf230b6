"""The ledger: the finished runs that answer a question, and all comparisons. The folders below runs/ are the ledger."""

from __future__ import annotations

from nanogpt_kit.compare.record import Comparison
from nanogpt_kit.runs.folder import RunFolder


def find_finished(configuration: str, code: str, seed: int, dataset: str) -> RunFolder | None:
    """The newest finished run with this identity; `dataset` is the fingerprint of its text. None where none is."""
    return None


def read_comparisons() -> list[Comparison]:
    """All comparisons, the oldest first. Damaged and foreign records are logged and left out."""
    return []
