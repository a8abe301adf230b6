"""From a model elsewhere to a run that can be sampled, evaluated and started from; and from a run to elsewhere."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import Fault, KitError, nearest
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, TextContext
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.data.manifest import tokenizer_record
from nanogpt_kit.interop import gpt2, nanogpt
from nanogpt_kit.interop.foreign import HEAD, WIDE, Foreign
from nanogpt_kit.nn.blank import blank
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance
from nanogpt_kit.runs.files import check_writable, sha256, write_atomically, write_json
from nanogpt_kit.runs.folder import RunFolder

logger = logging.getLogger(__name__)

FORMATS = ("huggingface", "nanogpt", "safetensors")


def import_run(source: str, name: str = "", overrides: Sequence[str] = (), meta: Path | None = None) -> RunFolder:
    """A run folder with the weights of a published GPT-2, of a folder of transformers', or of nanoGPT's ckpt.pt.

    `name` is the run's experiment, `overrides` are options of it, `meta` the characters of a nanoGPT model. Raises
    KitError where the source cannot be read or is another network than GPT-2; then nothing is left behind.
    """
    foreign = read(source, name, meta)
    experiment = experiment_of(foreign, overrides)
    check_writable(runs.runs_root() / experiment.name)
    encoder = encoder_of(foreign, experiment)
    model = blank(experiment.model, encoder.vocab_size)
    store.fit(model, padded(foreign, model, encoder, experiment), str(foreign.path))
    origin, _ = provenance.collect(experiment, data={}, hardware={})
    origin["imported"] = {"from": source, "files": hashes(foreign.path)}
    folder = runs.create(experiment.name, experiment.train.seed, experiment.fingerprint())
    try:
        write_json(folder.path / "provenance.json", origin)
        write_atomically(folder.experiment, experiment.to_toml())
        store.save(folder.checkpoints, 0, model, {"step": 0}, tokenizer_record(experiment, encoder), keep_last=1)
        folder.set_status("finished", step=0, total_steps=0, imported=True)
    except OSError as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise KitError(f"the run folder {folder} cannot be written: {error}") from None
    return folder


def read(source: str, name: str, meta: Path | None) -> Foreign:
    path = Path(source)
    if path.is_dir():
        if (path / "experiment.toml").exists():
            raise KitError(f"{source} is a run already; model.init_from={source} starts from it")
        if not (path / "config.json").exists():
            raise KitError(f"{source} has no config.json, so it is no model that transformers has saved")
        return gpt2.read(path, name or path.resolve().name)
    if path.exists():
        return nanogpt.read(path, name or path.resolve().parent.name, meta)
    if source in gpt2.PUBLISHED:
        return gpt2.read(gpt2.download(source), name or source)
    raise KitError(f"{source!r} is no file, no folder and no published GPT-2{nearest(source, gpt2.PUBLISHED)}")


def experiment_of(foreign: Foreign, overrides: Sequence[str]) -> Experiment:
    """The model's options, and what an experiment needs besides. It trains no steps: it only can be evaluated."""
    layers = Layers()
    values: dict[str, Any] = {
        "name": foreign.name,
        "dataset": {"use": "python_stdlib"},
        "tokenizer": dict(foreign.tokenizer),
        "model": dict(foreign.options),
        "optimizer": {"use": "adamw"},
        "schedule": {"use": "constant"},
        "train": {"steps": 0, "batch_tokens": foreign.options["block_size"]},
    }
    layers.add(values, lambda _: str(foreign.path))
    layers.override(overrides)
    return Experiment.of(layers, Path.cwd())


def encoder_of(foreign: Foreign, experiment: Experiment) -> Encoder:
    """The model's tokenizer. Raises KitError where the experiment's is not of the model's size."""
    if foreign.state is not None and experiment.resolved()["tokenizer"]["use"] == foreign.tokenizer["use"]:
        encoder = experiment.tokenizer.restore(foreign.state)
    else:
        text = TextContext(splits=experiment.dataset.splits, documents=experiment.dataset.documents)
        encoder = experiment.tokenizer.build(text)
    if encoder.vocab_size > foreign.vocab_size:
        raise KitError(
            Fault(
                f"has {encoder.vocab_size:,} tokens, but the model knows {foreign.vocab_size:,}; name the one that it "
                "was trained with, as in tokenizer.use=byte",
                "tokenizer",
                experiment.place(("tokenizer", "use")),
            )
        )
    return encoder


def padded(foreign: Foreign, model: nn.Module, encoder: Encoder, experiment: Experiment) -> dict[str, Tensor]:
    """The weights with as many rows for tokens as our model has. Those beyond the vocabulary are never used."""
    rows = model.state_dict()["wte.weight"].size(0)
    if foreign.vocab_size > rows:
        use = experiment.resolved()["tokenizer"]["use"]
        raise KitError(
            f"{foreign.path} has {foreign.vocab_size:,} tokens, but the tokenizer {use} has {encoder.vocab_size:,}; "
            "name the one that it was trained with, as in tokenizer.use=gpt2"
        )
    more = (0, 0, 0, rows - foreign.vocab_size)
    return {name: F.pad(value, more) if name in WIDE else value for name, value in foreign.weights.items()}


def hashes(path: Path) -> dict[str, str]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {file.name: sha256(file) for file in files}


def export(experiment: Experiment, model: nn.Module, encoder: Encoder, format: str, folder: Path) -> None:
    """Writes a folder that others can load; it appears whole or not at all.

    Raises KitError where the folder is not empty, or where the format cannot express the model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitError(f"{folder} exists already and is not empty")
    check_writable(folder.parent)
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    weights.setdefault(HEAD, weights.get("wte.weight"))
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        if format == "huggingface":
            gpt2.write(partial, experiment, weights, encoder.vocab_size, encoder.eot_id)
        elif format == "nanogpt":
            nanogpt.write(partial, experiment, weights, encoder.vocab_size, encoder.state())
        else:
            store.save_weights(model, partial / "model.safetensors")
            write_atomically(partial / "experiment.toml", experiment.to_toml())
            write_json(partial / "tokenizer.json", tokenizer_record(experiment, encoder))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise KitError(f"{folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
