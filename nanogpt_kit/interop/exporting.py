"""Exports the model of a run into a folder that other programs load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.inner_models import inner_model, with_inner_model
from nanogpt_kit.core.kinds import Encoder, ExportedModel, Format
from nanogpt_kit.interop.formats import NamedFormat, built_in_formats, can_write, find_format, plugin_entries
from nanogpt_kit.runs.files import check_writable

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)  # a full disk, as Python, torch and safetensors report it


def export_model(
    experiment: Experiment,
    model: nn.Module,
    encoder: Encoder,
    format: str,
    folder: str | os.PathLike[str],
    options: Sequence[str] = (),
) -> None:
    """Writes a folder in a format, which is complete or absent; `format` and `options` are those of `find_format`.

    Raises KitError if the folder is not empty, or if the format cannot hold the model.
    """
    given, folder = folder, Path(folder).absolute()
    chosen = find_format(format, options)
    if not can_write(chosen.format):
        writing = ", ".join(found.name for found in built_in_formats() if can_write(found.format))
        raise KitError(f"the format {chosen.name} is only imported; models are exported with --format {writing}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitError(f"{given} already exists and is not empty; nothing is overwritten, so name a new folder")
    check_writable(folder.parent)
    write_exported(exported_model(experiment, model, encoder), chosen, folder)


def write_exported(exported: ExportedModel, chosen: NamedFormat, folder: Path) -> None:
    """Writes a folder that is absent or empty. Raises KitError if the format cannot hold the model."""
    check_exportable(exported, chosen)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
    try:
        partial.mkdir(parents=True)
        chosen.format.write(partial, exported)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except WRITE_ERRORS as error:
        raise KitError(f"{folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def exported_model(experiment: Experiment, module: nn.Module, encoder: Encoder) -> ExportedModel:
    """What a format may write of a model: of one that adds weights to another, such as adapters, that one, merged."""
    if inner_model(experiment.model) is not None:
        module, experiment = experiment.model.merge(module), with_inner_model(experiment)
    files = {f"components/{path.name}": source for path, source in experiment.component_sources.items()}
    return ExportedModel(
        experiment={**experiment.resolved(), "components": list(files)},
        component_files=files,
        model=experiment.model,
        module=module,
        weights={name: value.detach().cpu() for name, value in module.state_dict().items()},
        multipliers=experiment.model_context(encoder.vocab_size).multipliers,
        encoder=encoder,
    )


def check_exportable(exported: ExportedModel, chosen: NamedFormat) -> None:
    """Raises KitError where the format cannot hold the model, with each reason; its note has the formats that can.

    Of plugins, which are executed only where they are named, it names those that may.
    """
    try:
        chosen.format.check_model(exported)
    except KitError as error:
        able = [found.name for found in built_in_formats() if can_write(found.format) and holds(found.format, exported)]
        others = [entry.qualified for entry in plugin_entries() if chosen.name not in (entry.name, entry.qualified)]
        known = f"the model can be exported with --format {' or '.join(able)}"
        remedy = known if able else "no built-in format can hold it"
        installed = f"; installed as well: {', '.join(others)}" if others else ""
        error.add_note(f"{remedy}{installed}")
        raise


def holds(format: Format, exported: ExportedModel) -> bool:
    try:
        format.check_model(exported)
    except KitError:
        return False
    return True
