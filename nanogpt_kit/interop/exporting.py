"""Exports the model of a run into a folder that other programs load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torch import nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data.tokenizer_record import TokenizerRecord
from nanogpt_kit.interop import FORMATS, gpt2, nanogpt
from nanogpt_kit.interop.weights import WRITE_ERRORS
from nanogpt_kit.runs.files import check_writable, write_json
from nanogpt_kit.system.writing import write_atomically


def export_model(
    experiment: Experiment, model: nn.Module, encoder: Encoder, format: str, folder: str | os.PathLike[str]
) -> None:
    """Writes a folder in one of FORMATS; the folder is complete or absent.

    Raises KitError if the folder is not empty, or if the format cannot express the model.
    """
    given, folder = folder, Path(folder).absolute()
    if format not in FORMATS:
        raise KitError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitError(f"{given} already exists and is not empty; nothing is overwritten, so name a new folder")
    check_writable(folder.parent)
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
    try:
        partial.mkdir(parents=True)
        if format == "huggingface":
            gpt2.write_gpt2(partial, experiment, weights, encoder.vocab_size, encoder.eot_id)
        elif format == "nanogpt":
            nanogpt.write_nanogpt(partial, experiment, weights, encoder.vocab_size, encoder.state())
        else:
            write_safetensors(partial, experiment, model, encoder)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except WRITE_ERRORS as error:
        raise KitError(f"{folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_safetensors(folder: Path, experiment: Experiment, model: nn.Module, encoder: Encoder) -> None:
    """Our own format: the weights, the experiment, its component files and the tokenizer."""
    store.save_weights(model, folder / "model.safetensors")
    write_atomically(folder / "experiment.toml", experiment.to_toml(with_copies=True))
    write_json(folder / "tokenizer.json", TokenizerRecord.of(experiment, encoder).as_json())
    for path, source in experiment.component_sources.items():
        (folder / "components").mkdir(exist_ok=True)
        write_atomically(folder / "components" / path.name, source)
