"""nanoGPT's checkpoints: `ckpt.pt` as its train.py writes it and its sample.py reads it, and `meta.pkl`.

Both are pickles. Nothing of them is executed: tensors and plain values are all that is taken.
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
from nanogpt_kit.core.reading import open_regular
from nanogpt_kit.corpus.meta_pickle import read_meta_characters
from nanogpt_kit.interop.foreign import (
    LARGEST,
    SOFTMAX,
    Foreign,
    by_our_names,
    check_bytes,
    check_number,
    check_shaped,
    exported,
    is_tied,
    shown,
    without_buffers,
)

logger = logging.getLogger(__name__)

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
GPT2_TOKENS = 50257
PARTS = {  # of a checkpoint; all but the first two are of training, and left aside
    *("model", "model_args", "config", "optimizer", "scaler", "scheduler", "lr_scheduler", "rng_state"),
    *("iter_num", "step", "epoch", "best_val_loss", "train_loss", "val_loss", "run_id", "wandb_run_id"),
}
SHAPED = {  # the networks that nanoGPT's model.py is
    "use": ("gpt",),
    "position.use": ("learned",),
    "norm.use": ("layernorm",),
    "norm.eps": (1e-5,),
    "mlp.use": ("gelu",),
    "mlp.approximate": ("none",),
    "mlp.width": (4.0,),
    "attention.use": SOFTMAX,
    "attention.window": (None,),
    "logit_softcap": (None,),
    "qk_norm": (False,),
    "weight_tying": (True,),
}


def read(path: Path, name: str, meta: Path | None) -> Foreign:
    """`meta` is the meta.pkl of a character-level model; left out, it is looked for where nanoGPT has it."""
    checkpoint = load_plain(path)
    arguments = checkpoint.get("model_args")
    if not isinstance(arguments, dict) or not isinstance(checkpoint.get("model"), dict):
        raise KitError(f"{path} is no checkpoint of nanoGPT: it lacks `model` or `model_args`")
    check_keys(path, checkpoint, arguments)
    check_bytes(checkpoint["model"].values(), path)
    weights = without_buffers(by_our_names(checkpoint["model"], path), path)
    tied = is_tied(weights, path, "nanoGPT ties the head to the embedding")
    options = {
        "use": "gpt",
        **{key: arguments[key] for key in SIZES if key != "vocab_size"},
        "bias": arguments.get("bias", True),
        "dropout": float(arguments.get("dropout", 0.0)),
        "weight_tying": tied,
    }
    config = checkpoint.get("config")
    meta = meta or nearby_meta(path, config.get("dataset") if isinstance(config, dict) else None)
    if meta is None:
        foreign = Foreign(path, name, options, weights, (path,))
    else:
        state = {"characters": read_meta_characters(meta)}
        foreign = Foreign(path, name, options, weights, (path, meta), {"use": "char"}, state)
    if arguments["vocab_size"] != foreign.vocab_size:
        reason = f"vocab_size is {arguments['vocab_size']:,}, and wte.weight has {foreign.vocab_size:,} rows"
        raise KitError(f"{path}: model_args: {reason}")
    return foreign


def check_keys(path: Path, checkpoint: Mapping[Any, Any], arguments: Mapping[Any, Any]) -> None:
    """Raises KitError with each key that may say something about the network and is not nanoGPT's."""
    others = {key: value for key, value in checkpoint.items() if key not in PARTS}
    aside = [key for key, value in others.items() if isinstance(value, int | float | str | None)]
    if aside:
        logger.info("%s: left aside: %s", path, ", ".join(map(shown, aside)))
    faults = [f"{path}: {shown(key)} is not part of a checkpoint of nanoGPT" for key in others if key not in aside]
    lacking = [key for key in SIZES if key not in arguments]
    if lacking:
        faults.append(f"{path}: model_args lacks {', '.join(lacking)}")
    for key, value in arguments.items():
        if key in SIZES:
            fault = check_number(value, 1, LARGEST, whole=True)
        elif key == "dropout":
            fault = check_number(value, 0, 1)
        elif key == "bias":
            fault = None if isinstance(value, bool) else "expected true or false"
        else:
            fault = "it may be another network than nanoGPT's, which has no such key"
        if fault:
            faults.append(f"{path}: model_args: {key} = {shown(value)}; {fault}")
    if faults:
        raise KitError(*faults)


def nearby_meta(path: Path, dataset: object) -> Path | None:
    """<nanoGPT>/out-.../ckpt.pt belongs to <nanoGPT>/data/<dataset>/meta.pkl."""
    if not isinstance(dataset, str) or not dataset:
        return None
    found = path.absolute().parent.parent / "data" / dataset / "meta.pkl"
    return found if found.is_file() else None


def load_plain(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, without running any of it. Raises KitError for what is damaged, foreign or hostile."""
    try:
        with open_regular(path) as file:
            beginning = file.read(2)
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}") from None
    if beginning[:1] == b"\x80":
        raise KitError(f"{path} is a bare pickle, which can run code when it is loaded; only ckpt.pt files are read")
    if not zipfile.is_zipfile(path):
        what = "is not all of a checkpoint: its end is missing" if beginning == b"PK" else "is no torch checkpoint"
        raise KitError(f"{path} {what}")
    try:
        check_stored(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that was made to harm may raise anything; none of it has run
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise KitError(f"{path} is damaged, or not a torch checkpoint ({describe_error(error)})") from None
        raise KitError(
            f"{path} holds more than tensors and plain values: loading it would call {culprit[1]}, so it is refused"
        ) from None
    if not isinstance(checkpoint, dict):
        raise KitError(f"{path} is no checkpoint of nanoGPT: it holds a {type(checkpoint).__name__}")
    return checkpoint


def write(
    folder: Path, experiment: Experiment, weights: Mapping[str, Tensor], vocab_size: int, state: Mapping[str, Any]
) -> None:
    """`ckpt.pt`, and `meta.pkl` for a model of characters. Raises KitError for a model that nanoGPT's is not."""
    model = experiment.resolved()["model"]
    bias = model["bias"]
    own = {"n_kv_head": (None, model["n_head"]), "norm.bias": (None, bias)}
    check_shaped(model, {**SHAPED, **own}, "nanoGPT")
    arguments = {key: model[key] for key in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
    checkpoint = {
        "model": exported(weights, vocab_size, tied=True),
        "model_args": {**arguments, "vocab_size": vocab_size},
        "config": {"dataset": experiment.name},
    }
    torch.save(checkpoint, folder / "ckpt.pt")
    if "characters" not in state and vocab_size != GPT2_TOKENS:
        logger.warning("nanoGPT's sample.py will take the %d tokens for GPT-2's, and write nonsense", vocab_size)
    if "characters" in state:
        letters = dict(enumerate(state["characters"]))
        meta = {
            "vocab_size": vocab_size,
            "itos": letters,
            "stoi": {letter: number for number, letter in letters.items()},
        }
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
