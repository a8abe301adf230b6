"""Imports a model of another program as a run, for sampling, evaluation and further training."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.fit import check_weights_match, load_matching_weights
from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import ExperimentKeys
from nanogpt_kit.core.kinds import Encoder, TextContext
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.corpus.bpe import BPEEncoder
from nanogpt_kit.corpus.library_decoder import byte_level_bytes
from nanogpt_kit.data.encoders import restore_encoder
from nanogpt_kit.data.tokenizer_of_run import state_from_run
from nanogpt_kit.data.tokenizer_record import TokenizerRecord
from nanogpt_kit.interop import gpt2, nanogpt
from nanogpt_kit.interop.weights import VOCABULARY_MATRICES, WRITE_ERRORS, ImportedModel, format_value
from nanogpt_kit.nn.uninitialized import build_on_meta, build_uninitialized
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs import provenance
from nanogpt_kit.runs.files import check_writable, read_json
from nanogpt_kit.runs.find import PUBLISHED_MODELS
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import Imported, Machine
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.system.writing import write_atomically

logger = logging.getLogger(__name__)

MAX_PADDING_ROWS = 64  # of the embedding, which no token has; more mean that the tokenizer is another one


def import_run(source: str, name: str = "", overrides: Sequence[str] = (), meta: Path | None = None) -> RunFolder:
    """Creates a run folder with the weights of a published GPT-2, a folder saved by transformers, or nanoGPT's ckpt.pt.

    `name` names the run's experiment, `overrides` are its options, `meta` has the characters of a nanoGPT model. Raises
    KitError if the source cannot be read or is not a GPT-2; then no run is left behind.
    """
    imported = read_source_model(source, name, meta)
    experiment = experiment_of_import(imported, overrides)
    check_writable(runs.runs_root() / experiment.name, "NANOGPT_KIT_RUNS")
    encoder = encoder_of_import(imported, experiment)
    weights = pad_vocabulary(imported, experiment, encoder.vocab_size)
    model = build_uninitialized(experiment.model, experiment.model_context(encoder.vocab_size))
    load_matching_weights(model, weights, str(imported.path))
    files = {file.name: sha256_file(file) for file in imported.files}
    origin, _ = provenance.collect_provenance(
        experiment, Machine.of_this_machine(), imported=Imported(source=source, files=files)
    )
    folder = runs.new_run_folder(experiment.name, experiment.train.seed, experiment.fingerprint())
    try:
        store.save_checkpoint(
            folder.checkpoints, 0, model, {"step": 0}, TokenizerRecord.of(experiment, encoder).as_json()
        )
        folder.write_provenance(origin)
        folder.set_status("finished", step=0, total_steps=0, imported=True)
        write_atomically(folder.experiment, experiment.to_toml())  # last: a folder without it is not a run
    except BaseException as error:
        shutil.rmtree(folder.path, ignore_errors=True)
        if isinstance(error, WRITE_ERRORS):
            raise KitError(f"the run folder {folder} cannot be written: {error}") from None
        raise
    return folder


def read_source_model(source: str, name: str, meta: Path | None) -> ImportedModel:
    """Reads a file, a folder or a published GPT-2. Raises KitError if `source` is none of them."""
    path = Path(source)
    if path.is_file():
        return nanogpt.read_nanogpt(path, name or default_experiment_name(path.resolve().parent), meta)
    if meta is not None:
        raise KitError(f"--meta {meta} belongs to a ckpt.pt of nanoGPT, which {source} is not")
    if (path / "checkpoints").is_dir():
        raise KitError(f"{source} is a run already; model.init_from={source} starts from it")
    if (path / "config.json").exists():
        return gpt2.read_gpt2(path, name or default_experiment_name(path.resolve()))
    if source in PUBLISHED_MODELS:
        return gpt2.read_gpt2(gpt2.download_gpt2(source), name or source)
    if path.is_dir():
        raise KitError(f"{source} has no config.json, so it is not a model saved by transformers")
    guess = did_you_mean(source, PUBLISHED_MODELS)
    raise KitError(f"{source!r} is neither a file or folder nor a published GPT-2{guess}")


def default_experiment_name(path: Path) -> str:
    """A name for the experiment, from that of the folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.name).strip("-._") or "imported"


def experiment_of_import(imported: ImportedModel, overrides: Sequence[str]) -> Experiment:
    """An experiment with the model's options and the required ones; with 0 steps, so that it only evaluates."""
    layers = Layers(ExperimentKeys(Experiment))
    values: dict[str, Any] = {
        "name": imported.name,
        "dataset": {"use": "python_stdlib"},
        "tokenizer": dict(imported.tokenizer),
        "model": dict(imported.options),
        "optimizer": {"use": "adamw"},
        "schedule": {"use": "constant"},
        "train": {"steps": 0, "batch_tokens": imported.options["block_size"]},
    }
    layers.add(values, lambda _: str(imported.path))
    layers.override(overrides)
    return Experiment.of(layers, Path.cwd())


def encoder_of_import(imported: ImportedModel, experiment: Experiment) -> Encoder:
    """The experiment's tokenizer. Raises KitError if its vocabulary is not the model's."""
    use, location = experiment.resolved()["tokenizer"]["use"], experiment.location(("tokenizer", "use"))

    def no_text(split: str) -> Iterator[str]:
        reason = f"{use} learns its tokens from text, and {imported.path} does not contain the model's tokens"
        raise KitError(Fault(reason, "tokenizer", location))

    def check_size(tokens: int) -> None:
        if not tokens <= rows < tokens + MAX_PADDING_ROWS:
            reason = f"{use} has {tokens:,} tokens, but the model of {imported.path} has {rows:,}"
            raise KitError(Fault(f"{reason}; {tokenizer_remedy(imported.path)}", "tokenizer", location))

    rows, known = imported.vocab_size, experiment.tokenizer.known_vocab_size()
    if known is not None:
        check_size(known)  # before anything is downloaded
    taken = state_from_run(experiment)
    if taken is not None:
        encoder = restore_encoder(experiment.tokenizer, taken)
    elif imported.tokenizer_state is not None and use == imported.tokenizer["use"]:
        encoder = restore_encoder(experiment.tokenizer, imported.tokenizer_state)
    else:
        encoder = experiment.tokenizer.build(TextContext(splits=experiment.dataset.splits, documents=no_text))
    tokens = encoder.vocab_size
    check_size(tokens)
    if tokens < rows and rows % 64:  # a multiple of 64 is a padded vocabulary, like ours
        logger.warning(
            "%s has %d tokens that %s lacks; they are neither read nor generated", imported.path, rows - tokens, use
        )
    if difference := token_difference(imported.path, encoder):
        raise KitError(Fault(f"{use} has other tokens than the model: {difference}", "tokenizer", location))
    return encoder


def tokenizer_remedy(path: Path) -> str:
    file = path / "tokenizer.json"
    of_run = "tokenizer.use=bpe tokenizer.from_run=RUN, which takes that of a run"
    example = f"tokenizer.use=huggingface tokenizer.file={file}" if file.is_file() else of_run
    remedy = f"name the tokenizer that it was trained with, as in {example}"
    if path.is_file():
        remedy += ", or `import` a character-level model with --meta data/<dataset>/meta.pkl"
    return remedy


def token_difference(folder: Path, encoder: Encoder) -> str | None:
    """The first token that differs between a byte-level encoder and the tokenizer files of a model, with a remedy.

    None if all agree, and if there are no files that can be compared.
    """
    path = next((folder / name for name in ("tokenizer.json", "vocab.json") if (folder / name).is_file()), None)
    if path is None or not isinstance(encoder, BPEEncoder):
        return None
    try:
        content = read_json(path)
        vocabulary = content["model"]["vocab"] if path.name == "tokenizer.json" else content
        if not isinstance(vocabulary, dict):  # of pairs (token, score), in the order of ids
            vocabulary = {token: index for index, (token, _) in enumerate(vocabulary)}
        tokens = {index: token for token, index in vocabulary.items() if 0 <= index < encoder.vocab_size}
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("%s cannot be read, so its tokens are not compared with the tokenizer's", path)
        return None
    for index, token in tokens.items():
        expected = encoder.decode_bytes([index])
        if expected and expected != byte_level_bytes(token):  # special tokens have no bytes
            file = folder / "tokenizer.json"
            how = "" if file == path else "; AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it"
            remedy = f"tokenizer.use=huggingface tokenizer.file={file} uses the model's{how}"
            return f"token {index} is {format_value(token)} in {path.name}, but {expected!r} here; {remedy}"
    return None


def pad_vocabulary(imported: ImportedModel, experiment: Experiment, vocab_size: int) -> dict[str, Tensor]:
    """The weights in fp32, with as many token rows as our model has; rows beyond the vocabulary are never used.

    Raises KitError if they do not fit, before anything is allocated.
    """
    shapes = build_on_meta(experiment.model, vocab_size)
    rows = shapes.state_dict()["wte.weight"].size(0) if shapes is not None else imported.vocab_size
    padding = (0, 0, 0, rows - imported.vocab_size)  # negative: surplus rows are cut off
    weights = {
        name: F.pad(value.float(), padding) if name in VOCABULARY_MATRICES and value.ndim == 2 else value.float()
        for name, value in imported.weights.items()
    }
    if shapes is not None:
        check_weights_match(shapes, weights, str(imported.path))
    not_finite = [name for name, value in weights.items() if not value.isfinite().all()]
    if not_finite:
        raise KitError(f"{imported.path}: these tensors contain NaN or infinity: {', '.join(not_finite)}")
    return weights
