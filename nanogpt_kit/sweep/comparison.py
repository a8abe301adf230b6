"""A whole comparison: check the arms, answer from the ledger, run what is missing, judge and record."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.compare.question import Question
from nanogpt_kit.compare.record import Comparison


def run_comparison(
    question: Question,
    seeds: Sequence[int],
    *,
    again: bool = False,
    workers: int = 1,
    storage: str = "journal",
    nproc: int = 1,
    command: str = "",
) -> Comparison:
    """Starts or continues a comparison: each arm with each of `seeds`, of which finished runs are not run again.

    The first arm of `question` is the base. `again`: runs everything anew. `command` continues it, for the record.
    Raises KitError before anything is started, RunFailed if the storage fails, KeyboardInterrupt if asked to stop; the
    same call continues then.
    """
    raise NotImplementedError
