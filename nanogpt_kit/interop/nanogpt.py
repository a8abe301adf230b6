"""nanoGPT's checkpoints: `ckpt.pt` as its train.py writes it and its sample.py reads it, and `meta.pkl`.

Both are pickles. Nothing of them is executed: tensors and plain values are all that is taken.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.interop.foreign import HEAD, Foreign, check_shaped, exported, our_name

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
MASK = ".attn.bias"  # the causal mask, which nanoGPT keeps where torch has no fused attention
GPT2_ROWS = (50257, 50304)  # of GPT-2's vocabulary, as it is and padded
SHAPED = {  # the networks that nanoGPT's model.py is
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


def read(path: Path, name: str, meta: Path | None) -> Foreign:
    """`meta` is the meta.pkl of a character-level model; left out, it is looked for where nanoGPT has it."""
    checkpoint = load_plain(path)
    arguments = checkpoint.get("model_args")
    if not isinstance(arguments, dict) or not isinstance(checkpoint.get("model"), dict):
        raise KitError(f"{path} is no checkpoint of nanoGPT: it lacks `model` or `model_args`")
    lacking = [key for key in SIZES if not isinstance(arguments.get(key), int)]
    if lacking:
        raise KitError(f"{path}: model_args lacks {', '.join(lacking)}")
    weights = {our_name(key): value.float() for key, value in checkpoint["model"].items() if not key.endswith(MASK)}
    weights.pop(HEAD, None)  # tied
    if "wte.weight" not in weights:
        raise KitError(f"{path} is no checkpoint of nanoGPT: no tensor is called transformer.wte.weight")
    options = {
        "use": "gpt",
        **{key: arguments[key] for key in SIZES if key != "vocab_size"},
        "bias": arguments.get("bias", True),
        "dropout": arguments.get("dropout", 0.0),
    }
    dataset = (checkpoint.get("config") or {}).get("dataset", "")
    meta = meta or nearby_meta(path, dataset)
    if meta is not None:
        state = {"characters": characters(meta)}
        return Foreign(path, name, options, weights, {"use": "char"}, state)
    if arguments["vocab_size"] not in GPT2_ROWS:
        raise KitError(
            f"{path} has {arguments['vocab_size']} tokens, which is not GPT-2's vocabulary; "
            f"--meta data/{dataset or '<dataset>'}/meta.pkl would say what they are"
        )
    return Foreign(path, name, options, weights)


def nearby_meta(path: Path, dataset: str) -> Path | None:
    """<nanoGPT>/out-.../ckpt.pt belongs to <nanoGPT>/data/<dataset>/meta.pkl."""
    if not dataset:
        return None
    found = path.absolute().parent.parent / "data" / dataset / "meta.pkl"
    return found if found.exists() else None


def load_plain(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, without running any of it. Raises KitError for what is damaged, foreign or hostile."""
    try:
        with path.open("rb") as file:
            beginning = file.read(2)
    except OSError as error:
        raise KitError(f"{path} cannot be read: {error.strerror}") from None
    if beginning[:1] == b"\x80":
        raise KitError(f"{path} is a bare pickle, which can run code when it is loaded; only ckpt.pt files are read")
    if not zipfile.is_zipfile(path):
        what = "is not all of a checkpoint: its end is missing" if beginning == b"PK" else "is no torch checkpoint"
        raise KitError(f"{path} {what}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        culprit = re.search(r"Unsupported (?:global|class): (?:GLOBAL )?(\S+)", str(error))
        if culprit is None:
            cause = str(error).partition("\n")[0]
            raise KitError(f"{path} is damaged or no torch checkpoint: {cause}") from None
        raise KitError(
            f"{path} holds more than tensors and plain values: loading it would call {culprit[1]}, so it is refused"
        ) from None
    if not isinstance(checkpoint, dict):
        raise KitError(f"{path} is no checkpoint of nanoGPT: it holds a {type(checkpoint).__name__}")
    return checkpoint


class PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, strings, numbers: whatever names a class or a function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def characters(meta: Path) -> str:
    """The characters of a meta.pkl in the order of their ids."""
    try:
        with meta.open("rb") as file:
            values = PlainUnpickler(file).load()
        by_id = values["itos"]
        found = [by_id[number] for number in range(len(by_id))]
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError) as error:
        raise KitError(f"{meta} is no meta.pkl of nanoGPT's character-level data: {error}") from None
    if not all(isinstance(character, str) and len(character) == 1 for character in found):
        raise KitError(f"{meta} is no meta.pkl of nanoGPT's character-level data: its itos holds no characters")
    return "".join(found)


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
        "model": exported(weights, vocab_size),
        "model_args": {**arguments, "vocab_size": vocab_size},
        "config": {"dataset": experiment.name},
    }
    torch.save(checkpoint, folder / "ckpt.pt")
    if "characters" in state:
        letters = dict(enumerate(state["characters"]))
        meta = {
            "vocab_size": vocab_size,
            "itos": letters,
            "stoi": {letter: number for number, letter in letters.items()},
        }
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
