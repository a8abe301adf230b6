"""Which model a name stands for: the checkpoint of a run, an export, or another program's model."""

from __future__ import annotations

import os  # whose functions report that a name is not there also where it is too long, unlike pathlib's
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.checkpoint.manifest import step_of
from nanogpt_kit.checkpoint.of_run import checkpoint_of_run
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.interop.formats import NamedFormat, detect_built_in, detect_plugin, undetected
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.find import FoundRun, find_run
from nanogpt_kit.runs.folder import relative_to_cwd

EXPERIMENT = "experiment.toml"  # of a run, and of an exported model that contains its experiment
CONFIG = "config.json"  # of a model that transformers, or a program like it, has saved


@dataclass(frozen=True)
class ModelSource:
    """Where a model is loaded from: a checkpoint of a run, or a file or folder in a format."""

    path: Path  # of the checkpoint, or of the export or file as it was named
    run: FoundRun | None = None
    format: NamedFormat | None = None

    def described(self) -> str:
        """One line, for people."""
        if self.run:
            return self.run.described(step_of(self.path))
        return one_line(f"model {relative_to_cwd(self.path)}: format {self.format.name if self.format else ''}")


def find_model(reference: str | os.PathLike[str], step: int | None = None, weights: str | None = None) -> ModelSource:
    """The model that `load_run` would load. Raises KitError where there is none.

    `step` is that of the checkpoint, where the reference does not name it. An export has one step and no `weights` of
    callbacks.
    """
    path, found = Path(reference), find_run_or_format(reference, step)
    if isinstance(found, FoundRun):
        found.folder.check_format()
        return ModelSource(checkpoint_of_run(found), run=found)
    if step is not None or weights is not None:
        raise KitError(f"{path} is an exported model, which has one step and one set of weights: omit step and weights")
    return ModelSource(path, format=found)


def find_run_or_format(reference: str | os.PathLike[str], step: int | None = None) -> FoundRun | NamedFormat:
    """The run that a reference stands for, or the format of a file or folder. Raises KitError where it is neither."""
    path = Path(reference)
    found = detect_built_in(path)
    if found is not None:
        return found
    try:
        return find_run(reference, step)
    except KitError:
        found = detect_plugin(path)  # code of plugins is executed only where nothing else knows the name
        if found is not None:
            return found
        if is_model_path(path):
            raise undetected(path) from None
        raise


def is_model_path(path: Path) -> bool:
    """Whether `path` may be a model rather than a run: a file, or a folder such as transformers writes."""
    is_file = os.path.isfile(path) and path.suffix != ".toml"
    return is_file or os.path.exists(path / CONFIG)


def is_foreign_model(path: Path) -> bool:
    """Whether a path is another program's model, in a format or not, without an experiment that names its tokenizer."""
    if not os.path.exists(path) or os.path.exists(path / EXPERIMENT):
        return False
    return is_model_path(path) or (detect_built_in(path) or detect_plugin(path)) is not None
