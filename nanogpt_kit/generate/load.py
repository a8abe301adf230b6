"""Loads a run, an export or another program's model as a TextGenerator."""

from __future__ import annotations

import os  # whose functions report that a name is not there also where it is too long, unlike pathlib's
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.damaged import damage_as_kit_error, named_tensors
from nanogpt_kit.checkpoint.fit import load_matching_weights
from nanogpt_kit.checkpoint.manifest import TOKENIZER, TRAINING, find_damage, step_of
from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data.encoders import restore_encoder
from nanogpt_kit.data.tokenizer_record import read_tokenizer_record
from nanogpt_kit.generate.generator import TextGenerator
from nanogpt_kit.interop import importing
from nanogpt_kit.nn.uninitialized import build_uninitialized
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder

EXPORTED_WEIGHTS = "model.safetensors"  # of an exported run, beside its experiment.toml
NANOGPT_CHECKPOINT = "ckpt.pt"


def load_run(
    run: str | os.PathLike[str],
    device: str = "cpu",
    trust_code: bool = False,
    overrides: Sequence[str] = (),
    weights: str | None = None,
    step: int | None = None,
) -> TextGenerator:
    """The newest checkpoint of a run, or that of `step`; `overrides` are those of the command line.

    `run` is a folder, the name of an experiment, or what `export` has written, in any format. `weights` names a
    callback that keeps weights, such as "ema"; omitted, they are the trained ones. Raises KitError where there is no
    such run, checkpoint or callback, and where the run has code that this user has never executed.
    """
    path = Path(run)
    exported = is_foreign_model(path) or os.path.exists(path / EXPORTED_WEIGHTS)
    if exported and (step is not None or weights is not None):
        raise KitError(f"{path} is an exported model, which has one step and one set of weights: omit step and weights")
    if is_foreign_model(path):
        return load_foreign_model(path, device, overrides)
    folder = RunFolder(path) if exported else runs.find_run(os.fspath(run))
    folder.check_format()
    experiment = Experiment.load(folder.experiment, overrides, trust_code)
    checkpoint = folder.path if exported else checkpoint_of_step(folder, step)
    encoder = encoder_of_checkpoint(checkpoint / TOKENIZER, experiment)
    model = build_uninitialized(experiment.model, encoder.vocab_size)
    if weights is None:
        store.load_weights(checkpoint, model)
    else:
        load_matching_weights(model, callback_weights(weights, checkpoint), str(checkpoint))
    return TextGenerator(experiment, model.to(device).eval(), encoder, device)


def encoder_of_checkpoint(path: Path, experiment: Experiment) -> Encoder:
    """The tokenizer of a checkpoint. Raises KitError, which names the file."""
    try:
        return restore_encoder(experiment.tokenizer, read_tokenizer_record(path).state)
    except KitError as error:
        messages = (fault.message for fault in error.faults)
        raise KitError(*(text if str(path) in text else f"{path}: {text}" for text in messages)) from None


def is_foreign_model(path: Path) -> bool:
    """Whether a path is a model in transformers' format or in nanoGPT's."""
    return os.path.isfile(path) or any(os.path.exists(path / name) for name in ("config.json", NANOGPT_CHECKPOINT))


def load_foreign_model(path: Path, device: str, overrides: Sequence[str]) -> TextGenerator:
    file = path / NANOGPT_CHECKPOINT if (path / NANOGPT_CHECKPOINT).exists() else path
    meta = file.parent / "meta.pkl"
    foreign = importing.read_source_model(str(file), "", meta if file.is_file() and meta.exists() else None)
    experiment = importing.experiment_of_import(foreign, overrides)
    encoder = importing.encoder_of_import(foreign, experiment)
    model = build_uninitialized(experiment.model, encoder.vocab_size)
    load_matching_weights(model, importing.pad_vocabulary(foreign, experiment, encoder.vocab_size), str(file))
    return TextGenerator(experiment, model.to(device).eval(), encoder, device)


def checkpoint_of_step(folder: RunFolder, step: int | None) -> Path:
    """The checkpoint of a step, or the newest. Raises KitError."""
    if step is None:
        newest = store.newest_whole_checkpoint(folder.checkpoints)
        if newest is None:
            raise KitError(f"{folder} has no checkpoint yet")
        return newest
    by_step = {step_of(path): path for path in store.list_checkpoints(folder.checkpoints)}
    if step not in by_step:
        steps = ", ".join(map(str, by_step)) or "none"
        raise KitError(f"{folder} has no checkpoint of step {step}; there are: {steps}")
    fault = find_damage(by_step[step])
    if fault:
        raise KitError(f"{by_step[step]}: {fault}")
    return by_step[step]


def callback_weights(callback: str, checkpoint: Path) -> Mapping[str, Tensor]:
    """The weights that a callback saved in a checkpoint. Raises KitError where there are none."""
    states = store.load_training(checkpoint).get("callbacks", {})
    with damage_as_kit_error(checkpoint / TRAINING):
        holders = {name: state for name, state in states.items() if isinstance(state, Mapping) and "weights" in state}
        offered = {name.lower(): named_tensors(state["weights"]) for name, state in holders.items()}
    if callback.lower() not in offered:
        raise KitError(f"{checkpoint} has no weights of a callback {callback!r}{did_you_mean(callback, offered)}")
    return offered[callback.lower()]
