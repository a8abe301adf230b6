"""Which runs began from others: with the weights, the whole state or the tokenizer of one of their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.system.folders import is_within


def direct_descendants(folder: Path, runs: Iterable[IndexedRun]) -> dict[str, list[str]]:
    """By the path of each run that began from a checkpoint of the run in `folder`: what it took (see STARTS).

    Links are resolved.
    """
    ancestor = os.path.realpath(folder)
    found: dict[str, list[str]] = {}
    for run in runs:
        for kind, checkpoint in run.starts.items():
            if os.path.realpath(run.path) != ancestor and is_within(os.path.realpath(checkpoint), ancestor):
                found.setdefault(run.path, []).append(kind)
    return found
