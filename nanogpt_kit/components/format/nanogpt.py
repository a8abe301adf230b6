"""nanoGPT's checkpoints: `ckpt.pt` as its train.py writes it and its sample.py reads it, and `meta.pkl`.

Both are pickles. They are read without executing code: only tensors and plain values are accepted.
"""

from __future__ import annotations

import logging
import os  # whose isfile is False also for a name that is too long
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nanogpt_kit.api import (
    ExportedModel,
    Field,
    Format,
    ImportedModel,
    KitError,
    PathStr,
    TokenFile,
    read_torch_file,
)
from nanogpt_kit.components.format.foreign_values import MAX_SIZE, format_value, number_fault
from nanogpt_kit.components.format.gpt2_export import check_gpt2_model, tensors_to_export
from nanogpt_kit.components.format.gpt2_shape import (
    check_tensor_bytes,
    drop_mask_buffers,
    gpt2_model,
    rename_weights,
    resolve_weight_tying,
)

logger = logging.getLogger(__name__)

CHECKPOINT, META = "ckpt.pt", "meta.pkl"
SUFFIXES = (".pt", ".pth", ".ckpt")  # of files that are taken for a checkpoint whatever they contain
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
GPT2_TOKENS = 50257
META_REMEDY = f"`import` a character-level model with format.meta=data/<dataset>/{META}"
KNOWN_KEYS = {  # of a checkpoint; all but the first two concern training, and are ignored
    *("model", "model_args", "config", "optimizer", "scaler", "scheduler", "lr_scheduler", "rng_state"),
    *("iter_num", "step", "epoch", "best_val_loss", "train_loss", "val_loss", "run_id", "wandb_run_id"),
}
RESTRICTED = {  # options of [model] -> the values that nanoGPT's model.py has
    "norm.eps": (1e-5,),
    "mlp.approximate": ("none",),
    "mlp.width": (4.0,),
    "weight_tying": (True,),
}


class NanoGPT(Format):
    sources = f"{CHECKPOINT} of nanoGPT, or the folder that contains it"
    meta: PathStr | None = Field(
        None,
        min_length=1,
        description=f"{META} of a character-level model; omitted: the one beside {CHECKPOINT}, or that of the dataset",
    )

    def detects(self, path: Path) -> bool:
        if path.is_dir():
            return (path / CHECKPOINT).is_file()
        return path.is_file() and (path.suffix in SUFFIXES or is_torch_file(path))

    def read(self, path: Path) -> ImportedModel:
        path = path / CHECKPOINT if path.is_dir() else path
        checkpoint = read_torch_file(path)
        if not isinstance(checkpoint, dict):
            raise KitError(f"{path} is not a checkpoint of nanoGPT: it contains a {type(checkpoint).__name__}")
        arguments = checkpoint.get("model_args")
        if not isinstance(arguments, dict) or not isinstance(checkpoint.get("model"), dict):
            raise KitError(f"{path} is not a checkpoint of nanoGPT: it lacks `model` or `model_args`")
        check_known_keys(path, checkpoint, arguments)
        check_tensor_bytes(checkpoint["model"].values(), path)
        weights = drop_mask_buffers(rename_weights(checkpoint["model"], path), path)
        tied = resolve_weight_tying(weights, path, "nanoGPT ties the head to the embedding")
        options = {
            **{key: arguments[key] for key in SIZES if key != "vocab_size"},
            "bias": arguments.get("bias", True),
            "dropout": float(arguments.get("dropout", 0.0)),
            "weight_tying": tied,
        }
        meta = Path(self.meta) if self.meta else find_meta_pickle(path, checkpoint.get("config"))
        model = path, options, arguments["vocab_size"], weights
        if meta is None:
            return gpt2_model(*model, (path,), tokenizer_remedy=META_REMEDY)
        characters = TokenFile.vocabulary(meta)
        if characters is None:
            raise KitError(f"{meta} is not a file")
        return gpt2_model(*model, (path, meta), "char", characters)

    def check_model(self, exported: ExportedModel) -> None:
        bias = exported.experiment["model"].get("bias")
        check_gpt2_model(exported, "nanoGPT", {**RESTRICTED, "norm.bias": (None, bias)})

    def write(self, folder: Path, exported: ExportedModel) -> None:
        model, vocab_size = exported.experiment["model"], exported.encoder.vocab_size
        arguments = {key: model[key] for key in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
        checkpoint = {
            "model": tensors_to_export(exported),
            "model_args": {**arguments, "vocab_size": vocab_size},
            "config": {"dataset": exported.experiment["name"]},
        }
        torch.save(checkpoint, folder / CHECKPOINT)
        state = exported.encoder.state()
        if "characters" in state:
            characters = dict(enumerate(state["characters"]))
            ids = {character: index for index, character in characters.items()}
            (folder / META).write_bytes(pickle.dumps({"vocab_size": vocab_size, "itos": characters, "stoi": ids}))
            logger.info("nanoGPT's sample.py expects %s in its data/%s/", META, exported.experiment["name"])
        elif vocab_size != GPT2_TOKENS:
            logger.warning(
                "nanoGPT's sample.py will decode the %d tokens as GPT-2's, which gives meaningless text", vocab_size
            )


def is_torch_file(path: Path) -> bool:
    """Whether `torch.save` may have written it: a zip archive that contains a data.pkl."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith("/data.pkl") for name in file.namelist())
    except Exception:  # not an archive, or a hostile one
        return False


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


def find_meta_pickle(path: Path, config: object) -> Path | None:
    """The meta.pkl beside a ckpt.pt, or in nanoGPT's data/<dataset>/ that belongs to its out-<name>/; None without."""
    dataset = config.get("dataset") if isinstance(config, dict) else None
    places = [path.parent / META]
    if isinstance(dataset, str) and dataset:
        places.append(path.absolute().parent.parent / "data" / dataset / META)
    return next((place for place in places if os.path.isfile(place)), None)
