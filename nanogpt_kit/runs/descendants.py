"""Which runs began from others: with the weights, the whole state or the tokenizer of one of their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from nanogpt_kit.runs.folder import runs_root
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.system.folders import is_within


def direct_descendants(folder: Path, runs: Iterable[IndexedRun]) -> dict[str, list[str]]:
    """By the path of each run that began from a checkpoint of the run in `folder`: what it took (see STARTS).

    Links are resolved. Of a checkpoint that does not exist the path below the runs folder counts, which may have been
    moved since.
    """
    ancestor = os.path.realpath(folder)
    reference = os.path.relpath(ancestor, os.path.realpath(runs_root()))
    found: dict[str, list[str]] = {}
    for run in runs:
        for kind, checkpoint in run.starts.items():
            is_inside = is_within(os.path.realpath(checkpoint), ancestor)
            was_inside = f"{os.sep}{reference}{os.sep}" in checkpoint and not os.path.exists(checkpoint)
            if (is_inside or was_inside) and os.path.realpath(run.path) != ancestor:
                found.setdefault(run.path, []).append(kind)
    return found
