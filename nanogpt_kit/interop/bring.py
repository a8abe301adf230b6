"""From a model elsewhere to a run that can be sampled, evaluated and started from; and from a run to elsewhere."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.fit import check_fit, fit
from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, TextContext
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.corpus.bpe import BPEEncoder
from nanogpt_kit.corpus.library_decoder import byte_level_bytes
from nanogpt_kit.data.encoders import restore_encoder
from nanogpt_kit.data.tokenizer_record import TokenizerRecord
from nanogpt_kit.interop import FORMATS, gpt2, nanogpt
from nanogpt_kit.interop.foreign import WIDE, Foreign, shown
from nanogpt_kit.nn.uninitialized import build_on_meta, build_uninitialized
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance
from nanogpt_kit.runs.files import check_writable, read_json, sha256, write_atomically, write_json
from nanogpt_kit.runs.folder import RunFolder

logger = logging.getLogger(__name__)

FULL_DISK = (OSError, RuntimeError, SafetensorError)  # what Python, torch and safetensors call it
STRANGERS = 64  # rows of the embedding that no token has: fewer are padding, more mean another tokenizer


def import_run(source: str, name: str = "", overrides: Sequence[str] = (), meta: Path | None = None) -> RunFolder:
    """A run folder with the weights of a published GPT-2, of a folder of transformers', or of nanoGPT's ckpt.pt.

    `name` is the run's experiment, `overrides` are options of it, `meta` the characters of a nanoGPT model. Raises
    KitError where the source cannot be read or is another network than GPT-2; then no run is left behind.
    """
    foreign = read(source, name, meta)
    experiment = experiment_of(foreign, overrides)
    check_writable(runs.runs_root() / experiment.name)
    encoder = encoder_of(foreign, experiment)
    weights = padded(foreign, experiment, encoder.vocab_size)
    model = build_uninitialized(experiment.model, encoder.vocab_size)
    fit(model, weights, str(foreign.path))
    origin, _ = provenance.collect(experiment, data={}, hardware={})
    origin["imported"] = {"from": source, "files": {file.name: sha256(file) for file in foreign.files}}
    folder = runs.create(experiment.name, experiment.train.seed, experiment.fingerprint())
    try:
        store.save(folder.checkpoints, 0, model, {"step": 0}, TokenizerRecord.of(experiment, encoder).as_json())
        write_json(folder.path / "provenance.json", origin)
        folder.set_status("finished", step=0, total_steps=0, imported=True)
        write_atomically(folder.experiment, experiment.to_toml())  # last: without it the folder is no run
    except BaseException as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        if isinstance(error, FULL_DISK):
            raise KitError(f"the run folder {folder} cannot be written: {error}") from None
        raise
    return folder


def read(source: str, name: str, meta: Path | None) -> Foreign:
    path = Path(source)
    if path.is_file():
        return nanogpt.read(path, name or name_of(path.resolve().parent), meta)
    if meta is not None:
        raise KitError(f"--meta {meta} belongs to a ckpt.pt of nanoGPT, and {source} is none")
    if (path / "checkpoints").is_dir():
        raise KitError(f"{source} is a run already; model.init_from={source} starts from it")
    if (path / "config.json").exists():
        return gpt2.read(path, name or name_of(path.resolve()))
    if source in gpt2.PUBLISHED:
        return gpt2.read(gpt2.download(source), name or source)
    if path.is_dir():
        raise KitError(f"{source} has no config.json, so it is no model that transformers has saved")
    raise KitError(f"{source!r} is no file, no folder and no published GPT-2{did_you_mean(source, gpt2.PUBLISHED)}")


def name_of(path: Path) -> str:
    """What an experiment may be called, from what a folder is called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.name).strip("-._") or "imported"


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
    use, place = experiment.resolved()["tokenizer"]["use"], experiment.location(("tokenizer", "use"))

    def no_text(split: str) -> Iterator[str]:
        reason = f"{use} learns its tokens from text, and {foreign.path} does not say which ones the model knows"
        raise KitError(Fault(reason, "tokenizer", place))

    if foreign.state is not None and use == foreign.tokenizer["use"]:
        encoder = restore_encoder(experiment.tokenizer, foreign.state)
    else:
        encoder = experiment.tokenizer.build(TextContext(splits=experiment.dataset.splits, documents=no_text))
    known, needed = foreign.vocab_size, encoder.vocab_size
    if not needed <= known < needed + STRANGERS:
        file = foreign.path / "tokenizer.json"
        own = f"tokenizer.use=huggingface tokenizer.file={file}" if file.is_file() else "tokenizer.use=byte"
        remedy = f"name the one that it was trained with, as in {own}"
        if foreign.path.is_file():
            remedy += ", or `import` a model of characters with --meta data/<dataset>/meta.pkl"
        told = f"{use} has {needed:,} tokens, but the model of {foreign.path} has {known:,}; {remedy}"
        raise KitError(Fault(told, "tokenizer", place))
    if needed < known and known % 64:  # else its makers padded the vocabulary, as we do
        logger.warning(
            "%s has %d tokens that %s does not know; they are never read or written", foreign.path, known - needed, use
        )
    if fault := other_tokens(foreign.path, encoder):
        raise KitError(Fault(f"{use} has other tokens than the model: {fault}", "tokenizer", place))
    return encoder


def other_tokens(folder: Path, encoder: Encoder) -> str | None:
    """What differs between a vocabulary of bytes and the tokenizer files beside a model, with a remedy.

    None where they agree, and where there are none that can be compared.
    """
    path = next((folder / name for name in ("tokenizer.json", "vocab.json") if (folder / name).is_file()), None)
    if path is None or not isinstance(encoder, BPEEncoder):
        return None
    try:
        found = read_json(path)
        pieces = found["model"]["vocab"] if path.name == "tokenizer.json" else found
        pairs = pieces.items() if isinstance(pieces, dict) else [(piece, at) for at, (piece, _) in enumerate(pieces)]
        theirs = {number: token for token, number in pairs if 0 <= number < encoder.vocab_size}
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("%s cannot be compared with the tokens that the text is cut into", path)
        return None
    for number, token in theirs.items():
        ours = encoder.decode_bytes([number])
        if ours and ours != byte_level_bytes(token):  # special ones have no bytes
            file = folder / "tokenizer.json"
            made = "" if file == path else "; AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it"
            remedy = f"tokenizer.use=huggingface tokenizer.file={file} takes the model's{made}"
            return f"token {number} is {shown(token)} in {path.name}, and {ours!r} here; {remedy}"
    return None


def padded(foreign: Foreign, experiment: Experiment, vocab_size: int) -> dict[str, Tensor]:
    """The weights with as many rows for tokens as our model has; those beyond the vocabulary are never used.

    Raises KitError where they do not fit, before anything is allocated.
    """
    shapes = build_on_meta(experiment.model, vocab_size)
    rows = shapes.state_dict()["wte.weight"].size(0) if shapes is not None else foreign.vocab_size
    more = (0, 0, 0, rows - foreign.vocab_size)  # rows that are too many are cut off
    weights = {
        name: F.pad(value.float(), more) if name in WIDE and value.ndim == 2 else value.float()
        for name, value in foreign.weights.items()
    }
    if shapes is not None:
        check_fit(shapes, weights, str(foreign.path))
    strange = [name for name, value in weights.items() if not value.isfinite().all()]
    if strange:
        raise KitError(f"{foreign.path}: these tensors hold NaN or infinity: {', '.join(strange)}")
    return weights


def export(experiment: Experiment, model: nn.Module, encoder: Encoder, format: str, folder: Path) -> None:
    """Writes a folder that others can load; it appears whole or not at all. `format` is one of FORMATS.

    Raises KitError where the folder is not empty, or where the format cannot express the model.
    """
    folder = folder.absolute()
    if format not in FORMATS:
        raise KitError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitError(f"{folder} exists already and is not empty")
    check_writable(folder.parent)
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    try:
        partial.mkdir(parents=True)
        if format == "huggingface":
            gpt2.write(partial, experiment, weights, encoder.vocab_size, encoder.eot_id)
        elif format == "nanogpt":
            nanogpt.write(partial, experiment, weights, encoder.vocab_size, encoder.state())
        else:
            store.save_weights(model, partial / "model.safetensors")
            write_atomically(partial / "experiment.toml", experiment.to_toml(with_copies=True))
            write_json(partial / "tokenizer.json", TokenizerRecord.of(experiment, encoder).as_json())
            for path, source in experiment.component_sources.items():
                (partial / "components").mkdir(exist_ok=True)
                write_atomically(partial / "components" / path.name, source)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except FULL_DISK as error:
        raise KitError(f"{folder} cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
