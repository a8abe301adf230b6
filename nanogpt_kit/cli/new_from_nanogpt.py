"""`nanogpt-kit new FILE.toml --from-nanogpt CONFIG.py`: what a config file of nanoGPT trains, as an experiment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.core.errors import KitError


@dataclass(frozen=True)
class Converted:
    text: str
    before: tuple[str, ...]  # what to do before the experiment is checked


def convert_nanogpt_config(config: str, name: str, sources: Sequence[str]) -> Converted:
    """The experiment `name`. Raises KitError with the faults of the config file."""
    from nanogpt_kit.interop.nanogpt_text import experiment_of_nanogpt

    if len(sources) > 1:
        raise KitError("command line: with --from-nanogpt, --source is given once: a text, or a folder with train.bin")
    experiment = experiment_of_nanogpt(Path(config), name, sources[0] if sources else None)
    before = []
    if experiment.checkpoint:
        before.append(shlex.join(["nanogpt-kit", "import", experiment.checkpoint, experiment.imported_as]))
    if experiment.token_folder and not os.path.isdir(experiment.token_folder):
        before.append("set dataset.source to the folder with train.bin and val.bin")
    return Converted(experiment.text, tuple(before))
