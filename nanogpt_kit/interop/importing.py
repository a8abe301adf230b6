"""Imports a model of another program as a run, for sampling, evaluation and further training."""

from __future__ import annotations

import os  # whose exists and isdir are False also for a name that is too long
import shutil
from collections.abc import Sequence
from pathlib import Path

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.fit import load_matching_weights
from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.override_text import override_text
from nanogpt_kit.data.tokenizer_record import TokenizerRecord
from nanogpt_kit.interop.exporting import WRITE_ERRORS
from nanogpt_kit.interop.formats import NamedFormat, can_read, detect_format, find_format, is_format_option, undetected
from nanogpt_kit.interop.published import PUBLISHED_FORMAT, download_gpt2
from nanogpt_kit.interop.source import default_experiment_name, experiment_of_import, fit_token_weights, read_source
from nanogpt_kit.interop.source_tokenizer import encoder_of_import
from nanogpt_kit.nn.uninitialized import build_uninitialized
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance
from nanogpt_kit.runs.files import check_writable
from nanogpt_kit.runs.find import PUBLISHED_MODELS
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import Imported, Machine
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.system.writing import write_atomically


def import_run(source: str, name: str = "", overrides: Sequence[str] = (), format: str | None = None) -> RunFolder:
    """Creates a run folder with the weights of a file or folder in any format, or of a published GPT-2.

    `name` names the run's experiment, `overrides` are its options and those of the format ("format.meta=meta.pkl"),
    `format` is the name of the format; omitted: the one that detects the source. Raises KitError if the source cannot
    be read; then no run is left behind.
    """
    for_format = [text for text in overrides if is_format_option(text)]
    if format is not None:
        find_format(format, for_format)  # mistakes are found before anything is downloaded
    path = find_source(source, format, for_format)
    found = read_source(path, find_source_format(path, format, for_format))
    name = name or (source if source in PUBLISHED_MODELS else default_experiment_name(path))
    options = [text for text in overrides if text not in for_format]
    experiment = experiment_of_import(found, [f"name={override_text(name)}", *options])
    check_writable(runs.runs_root() / experiment.name, "NANOGPT_KIT_RUNS")
    encoder = encoder_of_import(found, experiment)
    weights = fit_token_weights(found, experiment, encoder.vocab_size)
    model = build_uninitialized(experiment.model, experiment.model_context(encoder.vocab_size))
    load_matching_weights(model, weights, str(path))
    files = {file.name: sha256_file(file) for file in found.model.files}
    origin, _ = provenance.collect_provenance(
        experiment, Machine.of_this_machine(), imported=Imported(source=source, files=files)
    )
    folder = runs.new_run_folder(experiment.name, experiment.train.seed, experiment.fingerprint())
    try:
        store.save_checkpoint(
            folder.checkpoints, 0, model, {"step": 0}, TokenizerRecord.of(experiment, encoder).as_json()
        )
        for file, code in experiment.component_sources.items():
            (folder.path / "components").mkdir(exist_ok=True)
            write_atomically(folder.path / "components" / file.name, code)
        folder.write_provenance(origin)
        folder.set_status("finished", step=0, total_steps=0, imported=True)
        write_atomically(folder.experiment, experiment.to_toml(with_copies=True))  # last: without it it is not a run
    except BaseException as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        if isinstance(error, WRITE_ERRORS):
            raise KitError(f"the run folder {folder} cannot be written: {error}") from None
        raise
    return folder


def find_source(source: str, format: str | None, options: Sequence[str]) -> Path:
    """The file or folder to read; that of a published GPT-2 is downloaded. Raises KitError where there is none."""
    path = Path(source)
    if os.path.isdir(path / "checkpoints"):
        raise KitError(f"{source} is a run already; model.init_from={source} starts from it")
    if source in PUBLISHED_MODELS and (not os.path.exists(path) or (format is None and detect_format(path) is None)):
        if format not in (None, PUBLISHED_FORMAT):
            raise KitError(f"{source} is published in the format {PUBLISHED_FORMAT}, not in {format}; omit --format")
        find_format(PUBLISHED_FORMAT, options)
        return download_gpt2(source)
    if not os.path.exists(path):
        guess = did_you_mean(source, PUBLISHED_MODELS)
        raise KitError(f"{source!r} is neither a file or folder nor a published GPT-2{guess}")
    return path


def find_source_format(path: Path, name: str | None, options: Sequence[str]) -> NamedFormat:
    """The format of that name, or the one that detects the source. Raises KitError where it cannot be imported."""
    detected = None if name else detect_format(path)
    if name is None and detected is None:
        raise undetected(path)
    chosen = find_format(name or detected.name, options)  # type: ignore[union-attr]
    if not can_read(chosen.format):
        raise KitError(f"the format {chosen.name} is only exported, so it cannot be imported")
    return chosen
