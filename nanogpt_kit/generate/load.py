"""Loads a run, an export or another program's model as a TextGenerator."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.damaged import damage_as_kit_error, named_tensors
from nanogpt_kit.checkpoint.fit import load_matching_weights
from nanogpt_kit.checkpoint.manifest import MANIFEST, TOKENIZER, TRAINING, Manifest, step_of
from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data.encoders import restore_encoder
from nanogpt_kit.data.tokenizer_record import read_tokenizer_record
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.generate.source import ModelSource, find_model
from nanogpt_kit.interop.source import Source, experiment_of_import, fit_token_weights, read_source
from nanogpt_kit.interop.source_tokenizer import encoder_of_import
from nanogpt_kit.nn.uninitialized import build_uninitialized
from nanogpt_kit.runs.recorded_experiment import explained_by, load_recorded, warn_of_other_versions


def load_run(
    run: str | os.PathLike[str],
    device: str = "cpu",
    trust_code: bool = False,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    step: int | None = None,
) -> TextGenerator:
    """The newest checkpoint of a run, or that of `step`; `overrides` are those of the command line.

    `run` is a run folder, a run id, the name of an experiment, each perhaps with @best or @STEP behind it, or what
    `export` has written, in any format. `weights` names a callback that keeps weights, such as "ema"; omitted, they are
    the trained ones. Raises KitError where there is no such run, checkpoint or callback, and where the run has code
    that this user has never executed.
    """
    return load_model(find_model(run, step, weights), device, trust_code, overrides, weights)


def load_model(
    source: ModelSource,
    device: str = "cpu",
    trust_code: bool = False,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    needs: Collection[str] = (),
) -> TextGenerator:
    """The model of a source; the other arguments are those of `load_run`.

    `needs` are the kinds of components that its use needs besides model and tokenizer: plugins that only others are
    from may be missing.
    """
    if source.format is not None:
        return load_exported_model(read_source(source.path, source.format), device, trust_code, overrides)
    assert source.run is not None, "a model is in a format, or of a run"
    checkpoint = source.path
    experiment = load_recorded(
        source.run.folder, [*options_of_step(checkpoint), *overrides], trust_code, needs=needs, step=step_of(checkpoint)
    )
    with explained_by(warn_of_other_versions(experiment, {"init", *needs})):
        encoder = encoder_of_checkpoint(checkpoint / TOKENIZER, experiment)
        model = build_uninitialized(experiment.model, experiment.model_context(encoder.vocab_size))
        if weights is None:
            store.load_weights(checkpoint, model)
        else:
            load_matching_weights(model, callback_weights(weights, checkpoint), str(checkpoint))
    return TextGenerator(experiment, model.to(device).eval(), encoder, device)


def options_of_step(checkpoint: Path) -> list[str]:
    """The overrides that give the model's parts the options that schedules had set when the checkpoint was saved."""
    with damage_as_kit_error(checkpoint / MANIFEST):
        return [f"{key}={value}" for key, value in Manifest.read(checkpoint).options.items()]


def encoder_of_checkpoint(path: Path, experiment: Experiment) -> Encoder:
    """The tokenizer of a checkpoint. Raises KitError, which names the file."""
    try:
        return restore_encoder(experiment.tokenizer, read_tokenizer_record(path).state)
    except KitError as error:
        messages = (fault.message for fault in error.faults)
        raise KitError(*(text if str(path) in text else f"{path}: {text}" for text in messages)) from None


def load_exported_model(source: Source, device: str, trust_code: bool, overrides: Sequence[str]) -> TextGenerator:
    """The model of a file or folder in a format."""
    experiment = experiment_of_import(source, overrides, trust_code)
    encoder = encoder_of_import(source, experiment)
    model = build_uninitialized(experiment.model, experiment.model_context(encoder.vocab_size))
    load_matching_weights(model, fit_token_weights(source, experiment, encoder.vocab_size), str(source.path))
    return TextGenerator(experiment, model.to(device).eval(), encoder, device)


def callback_weights(callback: str, checkpoint: Path) -> Mapping[str, Tensor]:
    """The weights that a callback saved in a checkpoint. Raises KitError where there are none."""
    states = store.load_training(checkpoint).get("callbacks", {})
    with damage_as_kit_error(checkpoint / TRAINING):
        holders = {name: state for name, state in states.items() if isinstance(state, Mapping) and "weights" in state}
        offered = {name.lower(): named_tensors(state["weights"]) for name, state in holders.items()}
    if callback.lower() not in offered:
        raise KitError(f"{checkpoint} has no weights of a callback {callback!r}{did_you_mean(callback, offered)}")
    return offered[callback.lower()]
