"""nanoGPT's checkpoints: `ckpt.pt` as its train.py writes it and its sample.py reads it, and `meta.pkl`.

Both are pickles. They are read without executing code: only tensors and plain values are accepted.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.checkpoint.damaged import check_stored, describe_error
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.corpus.meta_pickle import read_meta_characters
from nanogpt_kit.interop.layer_lists import model_options
from nanogpt_kit.interop.weights import (
    MAX_SIZE,
    ImportedModel,
    check_expressible,
    check_tensor_bytes,
    drop_mask_buffers,
    format_value,
    number_fault,
    rename_weights,
    resolve_weight_tying,
    weights_to_export,
)
from nanogpt_kit.system.reading import open_regular_file

logger = logging.getLogger(__name__)

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
GPT2_TOKENS = 50257
KNOWN_KEYS = {  # of a checkpoint; all but the first two concern training, and are ignored
    *("model", "model_args", "config", "optimizer", "scaler", "scheduler", "lr_scheduler", "rng_state"),
    *("iter_num", "step", "epoch", "best_val_loss", "train_loss", "val_loss", "run_id", "wandb_run_id"),
}
EXPRESSIBLE = {  # options of [model] -> the values that nanoGPT's model.py has
    "use": ("gpt",),
    "position.use": ("learned",),
    "norm.use": ("layernorm",),
    "norm.eps": (1e-5,),
    "mlp.use": ("gelu",),
    "mlp.approximate": ("none",),
    "mlp.width": (4.0,),
    "attention.window": (None,),
    "logit_softcap": (None,),
    "qk_norm": (False,),
    "weight_tying": (True,),
}


def read_nanogpt(path: Path, name: str, meta: Path | None) -> ImportedModel:
    """Reads a ckpt.pt. `meta` is the meta.pkl of a character-level model; None: searched where nanoGPT stores it."""
    checkpoint = load_tensors_only(path)
    arguments = checkpoint.get("model_args")
    if not isinstance(arguments, dict) or not isinstance(checkpoint.get("model"), dict):
        raise KitError(f"{path} is not a checkpoint of nanoGPT: it lacks `model` or `model_args`")
    check_known_keys(path, checkpoint, arguments)
    check_tensor_bytes(checkpoint["model"].values(), path)
    weights = drop_mask_buffers(rename_weights(checkpoint["model"], path), path)
    tied = resolve_weight_tying(weights, path, "nanoGPT ties the head to the embedding")
    options = {
        "use": "gpt",
        **{key: arguments[key] for key in SIZES if key != "vocab_size"},
        "bias": arguments.get("bias", True),
        "dropout": float(arguments.get("dropout", 0.0)),
        "weight_tying": tied,
    }
    config = checkpoint.get("config")
    meta = meta or find_meta_pickle(path, config.get("dataset") if isinstance(config, dict) else None)
    if meta is None:
        imported = ImportedModel(path, name, options, weights, (path,))
    else:
        state = {"characters": read_meta_characters(meta)}
        imported = ImportedModel(path, name, options, weights, (path, meta), {"use": "char"}, state)
    if arguments["vocab_size"] != imported.vocab_size:
        reason = f"vocab_size is {arguments['vocab_size']:,}, but wte.weight has {imported.vocab_size:,} rows"
        raise KitError(f"{path}: model_args: {reason}")
    return imported


def check_known_keys(path: Path, checkpoint: Mapping[Any, Any], arguments: Mapping[Any, Any]) -> None:
    """Raises KitError with each unknown key that may describe another network; unknown plain values are ignored."""
    unknown = {key: value for key, value in checkpoint.items() if key not in KNOWN_KEYS}
    ignored = [key for key, value in unknown.items() if isinstance(value, int | float | str | None)]
    if ignored:
        logger.info("%s: ignored %s", path, ", ".join(map(format_value, ignored)))
    faults = [
        f"{path}: {format_value(key)} is not part of a checkpoint of nanoGPT" for key in unknown if key not in ignored
    ]
    missing = [key for key in SIZES if key not in arguments]
    if missing:
        faults.append(f"{path}: model_args lacks {', '.join(missing)}")
    for key, value in arguments.items():
        if key in SIZES:
            fault = number_fault(value, 1, MAX_SIZE, integer=True)
        elif key == "dropout":
            fault = number_fault(value, 0, 1)
        elif key == "bias":
            fault = None if isinstance(value, bool) else "expected true or false"
        else:
            fault = "nanoGPT has no such key, so the model may be another network"
        if fault:
            faults.append(f"{path}: model_args: {key} = {format_value(value)}; {fault}")
    if faults:
        raise KitError(*faults)


def find_meta_pickle(path: Path, dataset: object) -> Path | None:
    """The meta.pkl in nanoGPT's data/<dataset>/ that belongs to its out-<name>/ckpt.pt, if there is one."""
    if not isinstance(dataset, str) or not dataset:
        return None
    found = path.absolute().parent.parent / "data" / dataset / "meta.pkl"
    return found if found.is_file() else None


def load_tensors_only(path: Path) -> dict[str, Any]:
    """Reads a file of `torch.save` without executing code. Raises KitError for a damaged, foreign or malicious file."""
    try:
        with open_regular_file(path) as file:
            beginning = file.read(2)
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}") from None
    if beginning[:1] == b"\x80":
        raise KitError(
            f"{path} is a bare pickle, which can run code when it is loaded; only files of torch.save are read"
        )
    if not zipfile.is_zipfile(path):
        what = "is truncated" if beginning == b"PK" else "is not a torch checkpoint"
        raise KitError(f"{path} {what}")
    try:
        check_stored(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a malicious file may raise anything; none of its code has run
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise KitError(f"{path} is damaged, or not a torch checkpoint ({describe_error(error)})") from None
        raise KitError(
            f"{path} holds more than tensors and plain values: loading it would call {culprit[1]}, so it is refused"
        ) from None
    if not isinstance(checkpoint, dict):
        raise KitError(f"{path} is not a checkpoint of nanoGPT: it contains a {type(checkpoint).__name__}")
    return checkpoint


def write_nanogpt(
    folder: Path, experiment: Experiment, weights: Mapping[str, Tensor], vocab_size: int, state: Mapping[str, Any]
) -> None:
    """Writes ckpt.pt, and meta.pkl for a character-level model. Raises KitError if nanoGPT cannot express the model."""
    model = model_options(experiment)
    bias = model["bias"]
    allowed = {**EXPRESSIBLE, "n_kv_head": (None, model["n_head"]), "norm.bias": (None, bias)}
    check_expressible(experiment, allowed, "nanoGPT")
    arguments = {key: model[key] for key in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
    checkpoint = {
        "model": weights_to_export(weights, vocab_size, tied=True),
        "model_args": {**arguments, "vocab_size": vocab_size},
        "config": {"dataset": experiment.name},
    }
    torch.save(checkpoint, folder / "ckpt.pt")
    if "characters" not in state and vocab_size != GPT2_TOKENS:
        logger.warning(
            "nanoGPT's sample.py will decode the %d tokens as GPT-2's, which gives meaningless text", vocab_size
        )
    if "characters" in state:
        characters = dict(enumerate(state["characters"]))
        meta = {
            "vocab_size": vocab_size,
            "itos": characters,
            "stoi": {character: index for index, character in characters.items()},
        }
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
