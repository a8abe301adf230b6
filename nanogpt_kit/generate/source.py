"""Which model a name stands for: the checkpoint of a run, an export, or another program's model."""

from __future__ import annotations

import os  # whose functions report that a name is not there also where it is too long, unlike pathlib's
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.checkpoint.manifest import step_of
from nanogpt_kit.checkpoint.of_run import checkpoint_of_run
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.find import FoundRun, find_run
from nanogpt_kit.runs.folder import RunFolder, relative_to_cwd

EXPORTED_WEIGHTS = "model.safetensors"  # of an exported run, beside its experiment.toml
NANOGPT_CHECKPOINT = "ckpt.pt"


@dataclass(frozen=True)
class ModelSource:
    """Where a model is loaded from."""

    path: Path  # of the checkpoint, or of the export or file as it was named
    format: str  # "run", or one of interop.FORMATS
    run: FoundRun | None = None

    @property
    def folder(self) -> RunFolder:
        """The folder with experiment.toml, of a run and of an export in the format safetensors."""
        return self.run.folder if self.run else RunFolder(self.path)

    def described(self) -> str:
        """One line, for people."""
        if self.run:
            return self.run.described(step_of(self.path))
        return one_line(f"model {relative_to_cwd(self.path)}: format {self.format}")


def find_model(reference: str | os.PathLike[str], step: int | None = None, weights: str | None = None) -> ModelSource:
    """The model that `load_run` would load. Raises KitError where there is none.

    `step` is that of the checkpoint, where the reference does not name it. An export has one step and no `weights` of
    callbacks.
    """
    path = Path(reference)
    format = foreign_format(path) or ("safetensors" if os.path.exists(path / EXPORTED_WEIGHTS) else None)
    if format is None:
        found = find_run(reference, step)
        found.folder.check_format()
        return ModelSource(checkpoint_of_run(found), "run", found)
    if step is not None or weights is not None:
        raise KitError(f"{path} is an exported model, which has one step and one set of weights: omit step and weights")
    return ModelSource(path, format)


def foreign_format(path: Path) -> str | None:
    """The format of another program's model: "huggingface" or "nanogpt"; None for anything else."""
    is_model_file = os.path.isfile(path) and path.suffix != ".toml"
    if is_model_file or os.path.exists(path / NANOGPT_CHECKPOINT):
        return "nanogpt"
    return "huggingface" if os.path.exists(path / "config.json") else None


def is_foreign_model(path: Path) -> bool:
    """Whether a path is a model in transformers' format or in nanoGPT's."""
    return foreign_format(path) is not None
