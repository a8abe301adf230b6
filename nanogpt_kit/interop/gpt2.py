"""GPT-2 as Hugging Face keeps it: config.json and safetensors in a folder, or on its hub.

Source: Radford et al. 2019; the layout is that of transformers' GPT2LMHeadModel, whose `Conv1D` holds matrices
transposed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from nanogpt_kit.checkpoint.store import read_tensors
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.interop.foreign import HEAD, SOFTMAX, Foreign, by_our_names, check_shaped, exported
from nanogpt_kit.runs.files import write_json

logger = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
BIASED = ("ln_1.weight", "ln_2.weight", "ln_f.weight", *TRANSPOSED)
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old files hold
ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}
PLAIN = {  # what else would change the network
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
SHAPED = {  # the networks that its format can hold
    "use": ("gpt",),
    "position.use": ("learned",),
    "norm.use": ("layernorm",),
    "mlp.use": ("gelu",),
    "attention.use": SOFTMAX,
    "attention.window": (None,),
    "logit_softcap": (None,),
    "qk_norm": (False,),
}


def download(name: str) -> Path:
    """A published GPT-2 in the hub's own cache. Raises KitError where it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logger.info("looking for %s on the Hugging Face hub", name)
    try:
        found = snapshot_download(f"openai-community/{name}", allow_patterns=["config.json", "*.safetensors"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise KitError(
            f"{name} cannot be downloaded from the Hugging Face hub ({cause}); "
            "with its config.json and model.safetensors in a folder, import that folder"
        ) from None
    return Path(found)


def read(folder: Path, name: str) -> Foreign:
    """A folder that transformers' `save_pretrained` wrote. Raises KitError for what is not GPT-2."""
    config = read_config(folder / "config.json")
    weights = by_our_names(read_weights(folder), folder)
    weights = {key: value for key, value in weights.items() if not key.endswith(MASKS)}
    for key, value in weights.items():
        if key.endswith(TRANSPOSED) and value.ndim == 2:
            weights[key] = value.t().contiguous()
    tied = config.get("tie_word_embeddings", True)
    if tied:
        weights.pop(HEAD, None)
    drops = {config.get(key, 0.1) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    options = {
        "use": "gpt",
        "n_layer": config["n_layer"],
        "n_head": config["n_head"],
        "n_embd": config["n_embd"],
        "block_size": config["n_positions"],
        "bias": True,
        "dropout": drops.pop() if len(drops) == 1 else 0.0,  # ours is one for all three
        "weight_tying": tied,
        "norm": {"use": "layernorm", "eps": config.get("layer_norm_epsilon", 1e-5)},
        "mlp": {
            "use": "gelu",
            "approximate": ACTIVATIONS[config.get("activation_function", "gelu_new")],
            "width": (config.get("n_inner") or 4 * config["n_embd"]) / config["n_embd"],
        },
    }
    return Foreign(folder, name, options, weights)


def read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"{path} cannot be read: {error}") from None
    sizes = ("n_layer", "n_head", "n_embd", "n_positions")
    if not isinstance(config, dict) or config.get("model_type") != "gpt2":
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise KitError(f"{path} describes a model of type {kind!r}; only gpt2 can be imported")
    faults = [f"{path}: {key} is missing" for key in sizes if not isinstance(config.get(key), int)]
    faults += [
        f"{path}: {key} = {config[key]!r} is another network than GPT-2, which has {value!r}"
        for key, value in PLAIN.items()
        if config.get(key, value) != value
    ]
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        faults.append(f"{path}: activation_function = {activation!r}; known are {', '.join(ACTIVATIONS)}")
    if faults:
        raise KitError(*faults)
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    files = weight_files(folder)
    if not files:
        pickled = " (its .bin files are pickles, which can run code)" if any(folder.glob("*.bin")) else ""
        raise KitError(f"{folder} holds no .safetensors file{pickled}; save_pretrained of transformers writes them")
    lacking = [file.name for file in files if not file.exists()]
    if lacking:
        raise KitError(f"{folder} lacks {', '.join(lacking)}, which its {INDEX} names")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights |= read_tensors(file)
        except (OSError, SafetensorError) as error:
            raise KitError(f"{file} is no safetensors file, or not all of one: {error}") from None
    return weights


def weight_files(folder: Path) -> list[Path]:
    """The one file, or those that the index of a large model names."""
    try:
        parts = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except FileNotFoundError:
        return sorted(folder.glob("*.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(f"{folder / INDEX} cannot be read: {error}") from None
    return [folder / part for part in sorted(set(map(str, parts)))]


def write(
    folder: Path, experiment: Experiment, weights: Mapping[str, Tensor], vocab_size: int, eot_id: int | None
) -> None:
    """What transformers' `GPT2LMHeadModel.from_pretrained` loads. Raises KitError for a model that GPT-2 is not."""
    model = experiment.resolved()["model"]
    check_shaped(model, {**SHAPED, "n_kv_head": (None, model["n_head"])}, "GPT-2")
    n_embd, tied = model["n_embd"], model["weight_tying"]
    tensors = exported(weights, vocab_size)
    if tied:
        del tensors[HEAD]
    for key in list(tensors):
        if key.endswith(TRANSPOSED):
            tensors[key] = tensors[key].t().contiguous()
    for key in [key for key in tensors if key.endswith(BIASED)]:
        bias = key.removesuffix("weight") + "bias"
        if bias not in tensors:  # GPT-2 always has them, and zeros change nothing
            tensors[bias] = torch.zeros(tensors[key].size(-1))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    activation = {"tanh": "gelu_new", "none": "gelu"}[model["mlp"]["approximate"]]
    config = {
        "architectures": ["GPT2LMHeadModel"],
        **PLAIN,
        **{key: model[key] for key in ("n_layer", "n_head", "n_embd")},
        "n_positions": model["block_size"],
        "n_inner": tensors["transformer.h.0.mlp.c_fc.bias"].numel(),
        "vocab_size": vocab_size,
        "activation_function": activation,
        "layer_norm_epsilon": model["norm"]["eps"],
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), model["dropout"]),
        "tie_word_embeddings": tied,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "dtype": "float32",
    }
    write_json(folder / "config.json", config)
    logger.info("wrote a GPT-2 of %d layers, %d wide, %d tokens", model["n_layer"], n_embd, vocab_size)
