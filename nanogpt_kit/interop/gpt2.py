"""GPT-2 in Hugging Face's format: config.json and safetensors in a folder, or on the hub.

Source: Radford et al. 2019; the layout is that of transformers' GPT2LMHeadModel, whose `Conv1D` holds matrices
transposed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nanogpt_kit.checkpoint.damaged import read_tensors
from nanogpt_kit.core.errors import KitError, catch_rust_panic
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.interop.gpt2_config import ACTIVATIONS, DROPOUTS, REQUIRED, read_gpt2_config
from nanogpt_kit.interop.layer_lists import model_options
from nanogpt_kit.interop.weights import (
    HEAD,
    ImportedModel,
    check_expressible,
    drop_mask_buffers,
    equal_tensors,
    format_value,
    rename_weights,
    resolve_weight_tying,
    weights_to_export,
)
from nanogpt_kit.runs.files import read_json, write_json

logger = logging.getLogger(__name__)

PUBLISHED_VOCABULARY = 50_257  # tokens of the published models
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
WITH_BIAS = ("ln_1.weight", "ln_2.weight", "ln_f.weight", *TRANSPOSED)
EXPRESSIBLE = {  # options of [model] -> the values that the format can express
    "use": ("gpt",),
    "position.use": ("learned",),
    "norm.use": ("layernorm",),
    "mlp.use": ("gelu",),
    "attention.window": (None,),
    "logit_softcap": (None,),
    "qk_norm": (False,),
}


def download_gpt2(name: str) -> Path:
    """The folder of a published GPT-2 in the hub's cache. Raises KitError if it cannot be downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logger.info("fetching %s from the Hugging Face hub, unless it is cached", name)
    try:
        found = snapshot_download(f"openai-community/{name}", allow_patterns=["config.json", "*.safetensors"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise KitError(
            f"{name} cannot be downloaded from the Hugging Face hub ({cause}); "
            "put its config.json and model.safetensors into a folder, and import that instead"
        ) from None
    return Path(found)


def read_gpt2(folder: Path, name: str) -> ImportedModel:
    """Reads a folder written by transformers' `save_pretrained`. Raises KitError if it is not a GPT-2."""
    config = read_gpt2_config(folder / "config.json")
    files = find_weight_files(folder)
    weights = drop_mask_buffers(rename_weights(read_weight_files(files), folder), folder)
    for key, value in weights.items():
        if key.endswith(TRANSPOSED) and value.ndim == 2:
            weights[key] = value.t().contiguous()
    tied = config["tie_word_embeddings"] and resolve_weight_tying(
        weights, folder, "its config.json ties the head to the embedding"
    )
    options = {
        "use": "gpt",
        "n_layer": config["n_layer"],
        "n_head": config["n_head"],
        "n_embd": config["n_embd"],
        "block_size": config["n_positions"],
        "bias": True,
        "dropout": single_dropout(config, folder),
        "weight_tying": tied,
        "norm": {"use": "layernorm", "eps": config["layer_norm_epsilon"]},
        "mlp": {
            "use": "gelu",
            "approximate": ACTIVATIONS[config["activation_function"]],
            "width": (config["n_inner"] or 4 * config["n_embd"]) / config["n_embd"],
        },
    }
    imported = ImportedModel(folder, name, options, weights, (folder / "config.json", *files))
    if config["vocab_size"] != imported.vocab_size:
        reason = f"vocab_size is {config['vocab_size']:,}, but wte.weight has {imported.vocab_size:,} rows"
        raise KitError(f"{folder / 'config.json'}: {reason}")
    return imported


def single_dropout(config: Mapping[str, Any], folder: Path) -> float:
    """The one dropout rate for GPT-2's three; warns where they differ."""
    rates = {key: float(config[key]) for key in DROPOUTS}
    if len(set(rates.values())) == 1:
        return rates[DROPOUTS[0]]
    listed = ", ".join(f"{key} = {rate:g}" for key, rate in rates.items())
    logger.warning("%s has %s; imported with model.dropout = 0.0, which matters in training only", folder, listed)
    return 0.0


def read_weight_files(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of the files. Raises KitError for a damaged file, and for a tensor that differs between two files."""
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            with catch_rust_panic(str(file)):
                found = read_tensors(file)
        except KitError:
            raise
        except Exception as error:  # a hostile file may raise anything
            raise KitError(f"{file} is not a complete safetensors file: {error}") from None
        differ = [name for name in found.keys() & weights.keys() if not equal_tensors(found[name], weights[name])]
        if differ:
            raise KitError(f"{file} contains {min(differ)}, which differs from the one in another file of the model")
        weights |= found
    return weights


def find_weight_files(folder: Path) -> list[Path]:
    """The files that transformers would read, or else the only one. Raises KitError if that is ambiguous."""
    if (folder / ADAPTER_CONFIG).exists():
        raise KitError(
            f"{folder} has an adapter ({ADAPTER_CONFIG}), which is not applied; merge it into the weights first"
        )
    present = sorted(path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    candidates = [name for name in present if name.endswith(".safetensors")]
    if WEIGHTS in candidates:
        files = [WEIGHTS]
    elif (folder / INDEX).exists():
        files = read_weight_index(folder / INDEX)
    elif len(candidates) > 1:
        are_parts = all("-of-" in name for name in candidates)
        remedy = f"copy their {INDEX}, too" if are_parts else f"rename the right one to {WEIGHTS}"
        raise KitError(
            f"{folder} has {', '.join(candidates)}, but no {WEIGHTS} or {INDEX} that names the right ones; {remedy}"
        )
    else:
        files = candidates
    if not files:
        pickled = " (its .bin files are pickles, which can run code)" if present else ""
        raise KitError(f"{folder} has no .safetensors file{pickled}; save_pretrained of transformers writes one")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise KitError(f"{folder} lacks {', '.join(missing)}, which its {INDEX} names")
    ignored = [name for name in present if name not in files]
    if ignored:
        logger.warning("%s: read %s; ignored %s", folder, ", ".join(files), ", ".join(ignored))
    return [folder / name for name in files]


def read_weight_index(index: Path) -> list[str]:
    """The names of a model's files. Raises KitError if one is outside the folder."""
    try:
        parts = set(map(str, read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KitError(f"{index} cannot be read: {error}") from None
    outside = [part for part in parts if Path(part).name != part]
    if outside:
        raise KitError(f"{index} names {format_value(min(outside))}; expected names of files in the same folder")
    return sorted(parts)


def write_gpt2(
    folder: Path, experiment: Experiment, weights: Mapping[str, Tensor], vocab_size: int, eot_id: int | None
) -> None:
    """Writes what transformers' `GPT2LMHeadModel.from_pretrained` reads. Raises KitError for a model unlike GPT-2."""
    model = model_options(experiment)
    check_expressible(experiment, {**EXPRESSIBLE, "n_kv_head": (None, model["n_head"])}, "GPT-2")
    n_embd, tied = model["n_embd"], model["weight_tying"]
    tensors = weights_to_export(weights, vocab_size, tied)
    if tied:
        del tensors[HEAD]
    for key in list(tensors):
        if key.endswith(TRANSPOSED):
            tensors[key] = tensors[key].t().contiguous()
    for key in [key for key in tensors if key.endswith(WITH_BIAS)]:
        bias = key.removesuffix("weight") + "bias"
        if bias not in tensors:  # GPT-2 always has biases; zeros change nothing
            tensors[bias] = torch.zeros(tensors[key].size(-1))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    activation = {"tanh": "gelu_new", "none": "gelu"}[model["mlp"]["approximate"]]
    config = {
        "architectures": ["GPT2LMHeadModel"],
        **REQUIRED,
        **{key: model[key] for key in ("n_layer", "n_head", "n_embd")},
        "n_positions": model["block_size"],
        "n_inner": tensors["transformer.h.0.mlp.c_fc.bias"].numel(),
        "vocab_size": vocab_size,
        "activation_function": activation,
        "layer_norm_epsilon": model["norm"]["eps"],
        **dict.fromkeys(DROPOUTS, model["dropout"]),
        "tie_word_embeddings": tied,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "dtype": "float32",
    }
    write_json(folder / "config.json", config)
    logger.info("wrote a GPT-2 of %d layers, %d features and %s tokens", model["n_layer"], n_embd, f"{vocab_size:,}")
    if vocab_size != PUBLISHED_VOCABULARY:
        logger.info("its tokenizer is not GPT-2's and is not part of this format; --format safetensors includes it")
