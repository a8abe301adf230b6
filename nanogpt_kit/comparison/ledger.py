"""The ledger: finished runs by their identity, and all comparisons. The folders below runs/ are the ledger."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from nanogpt_kit.comparison.question import Question
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.folder import RunFolder, files_below_runs, runs_root
from nanogpt_kit.runs.index import index_runs
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.record import Unreadable
from nanogpt_kit.runs.resume_command import kit_command

logger = logging.getLogger(__name__)

COMPARISON = "comparison.json"


def finished_by_seed(experiment: Experiment, rows: Iterable[IndexedRun] | None = None) -> dict[int, RunFolder]:
    """The finished runs that training the experiment again, with their seeds, would only repeat."""
    code, dataset = code_identity(experiment), experiment.dataset.fingerprint()
    return finished_runs(experiment.configuration(), code, dataset, rows)


def finished_runs(
    configuration: str, code: str, dataset: str, rows: Iterable[IndexedRun] | None = None
) -> dict[int, RunFolder]:
    """The finished runs with this identity, by seed; of several with one seed the newest.

    `dataset` is the fingerprint of their text, and `rows` are those of `index_runs`, where the caller has them.

    Runs that began with weights or a tokenizer of another run are not among them: what that name stands for may have
    changed. Nor are those that were changed on the way.
    """
    found: dict[int, RunFolder] = {}
    for run in index_runs() if rows is None else rows:
        if (run.configuration, run.code) != (configuration, code) or not run.is_whole or run.seed is None:
            continue
        origin = run.folder.provenance_or_none()
        if origin and origin.is_duplicable and not origin.tokenizer_from and run.data.get("dataset") == dataset:
            found[run.seed] = run.folder
    return found


def read_comparisons() -> list[Comparison]:
    """All comparisons, the oldest first. Those that are damaged, of another format, or in the folder of another one are
    logged and left out."""
    found = filter(None, map(read_comparison, comparison_files()))
    return sorted(found, key=lambda comparison: (comparison.started, comparison.id))


def comparison_files() -> list[Path]:
    """runs/<name of the base>/<kind>/<id>/comparison.json of every comparison."""
    return files_below_runs(f"*/*/*/{COMPARISON}")


def read_comparison(path: Path) -> Comparison | None:
    """None, and a warning, where the file is not the record of the comparison whose folder it is in."""
    try:
        comparison = Comparison.read(path)
    except FileNotFoundError:  # removed in the meantime
        return None
    except Unreadable as error:
        logger.warning("%s is left out of the ledger: %s", one_line(str(path)), one_line(str(error)))
        return None
    if os.path.abspath(record_path(comparison)) != os.path.abspath(path):
        logger.warning("%s is left out of the ledger: it is a copy from another folder", one_line(str(path)))
        return None
    return comparison


def recorded_comparison(question: Question) -> Comparison | None:
    """The record of the last look at a question; None before the first. Raises KitError where it is damaged."""
    path = question.folder() / COMPARISON
    try:
        return Comparison.read(path)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        remedy = "how often this question was judged is unknown; remove the file to ask as if for the first time"
        raise KitError(f"{path.parent}: {error}; {remedy}") from None


def record_path(comparison: Comparison) -> Path:
    """The file of a comparison."""
    return runs_root() / comparison.arms[0].experiment / comparison.kind / comparison.id / COMPARISON


def report_command(comparison: Comparison) -> str:
    """The command that writes the report of a comparison."""
    return kit_command("report", str(record_path(comparison).parent))


def tried_configurations(comparisons: Iterable[Comparison], contest: Comparison) -> set[str]:
    """Of all contenders, other than the base itself, that were compared with the base of `contest` by its metric and
    yardstick."""
    rivals = [comparison for comparison in comparisons if is_same_contest(comparison, contest)]
    tried = {one.arms[result.arm].configuration for one in rivals for result in one.results}
    return tried - {contest.arms[0].configuration}


def is_same_contest(one: Comparison, other: Comparison) -> bool:
    """Whether their contenders compete with the same base, by the same metric and yardstick."""
    mine, theirs = ((it.arms[0].configuration, it.metric, it.direction, it.yardstick) for it in (one, other))
    return mine == theirs
