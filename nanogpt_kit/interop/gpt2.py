"""GPT-2 as Hugging Face keeps it: config.json and safetensors in a folder, or on its hub.

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
from nanogpt_kit.core.errors import KitError, no_panic
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.interop.foreign import (
    HEAD,
    Foreign,
    by_our_names,
    check_shaped,
    equal,
    exported,
    is_tied,
    shown,
    without_buffers,
)
from nanogpt_kit.interop.gpt2_config import ACTIVATIONS, DROPOUTS, PLAIN, read_config
from nanogpt_kit.runs.files import read_json, write_json

logger = logging.getLogger(__name__)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
BIASED = ("ln_1.weight", "ln_2.weight", "ln_f.weight", *TRANSPOSED)
SHAPED = {  # the networks that its format can hold
    "use": ("gpt",),
    "position.use": ("learned",),
    "norm.use": ("layernorm",),
    "mlp.use": ("gelu",),
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
    files = weight_files(folder)
    weights = without_buffers(by_our_names(read_weights(files), folder), folder)
    for key, value in weights.items():
        if key.endswith(TRANSPOSED) and value.ndim == 2:
            weights[key] = value.t().contiguous()
    tied = config["tie_word_embeddings"] and is_tied(weights, folder, "its config.json ties the head to the embedding")
    options = {
        "use": "gpt",
        "n_layer": config["n_layer"],
        "n_head": config["n_head"],
        "n_embd": config["n_embd"],
        "block_size": config["n_positions"],
        "bias": True,
        "dropout": dropout(config, folder),
        "weight_tying": tied,
        "norm": {"use": "layernorm", "eps": config["layer_norm_epsilon"]},
        "mlp": {
            "use": "gelu",
            "approximate": ACTIVATIONS[config["activation_function"]],
            "width": (config["n_inner"] or 4 * config["n_embd"]) / config["n_embd"],
        },
    }
    foreign = Foreign(folder, name, options, weights, (folder / "config.json", *files))
    if config["vocab_size"] != foreign.vocab_size:
        reason = f"vocab_size is {config['vocab_size']:,}, and wte.weight has {foreign.vocab_size:,} rows"
        raise KitError(f"{folder / 'config.json'}: {reason}")
    return foreign


def dropout(config: Mapping[str, Any], folder: Path) -> float:
    """Ours is one for all three places."""
    rates = {key: float(config[key]) for key in DROPOUTS}
    if len(set(rates.values())) == 1:
        return rates[DROPOUTS[0]]
    listed = ", ".join(f"{key} = {rate:g}" for key, rate in rates.items())
    logger.warning("%s has %s; imported as model.dropout = 0.0, which is used in training only", folder, listed)
    return 0.0


def read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """Raises KitError for what is damaged, and for a tensor that two files hold and is not the same in both."""
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            with no_panic(str(file)):
                found = read_tensors(file)
        except KitError:
            raise
        except Exception as error:  # a file that was made to harm may raise anything
            raise KitError(f"{file} is no safetensors file, or not all of one: {error}") from None
        differ = [name for name in found.keys() & weights.keys() if not equal(found[name], weights[name])]
        if differ:
            raise KitError(f"{file} contains {min(differ)}, which differs from the one in another file of the model")
        weights |= found
    return weights


def weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads, or else the one that there is. Raises KitError where that is not certain."""
    if (folder / ADAPTER).exists():
        raise KitError(f"{folder} has an adapter ({ADAPTER}), which is not applied; merge it into the weights first")
    there = sorted(path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    choices = [name for name in there if name.endswith(".safetensors")]
    if WEIGHTS in choices:
        files = [WEIGHTS]
    elif (folder / INDEX).exists():
        files = parts_of(folder / INDEX)
    elif len(choices) > 1:
        parts = all("-of-" in name for name in choices)
        remedy = f"copy their {INDEX}, too" if parts else f"call one of them {WEIGHTS}"
        raise KitError(
            f"{folder} has {', '.join(choices)}, and neither {WEIGHTS} nor {INDEX} says which of them are the model; "
            f"{remedy}"
        )
    else:
        files = choices
    if not files:
        pickled = " (its .bin files are pickles, which can run code)" if there else ""
        raise KitError(f"{folder} lacks a .safetensors file{pickled}; save_pretrained of transformers writes them")
    lacking = [name for name in files if not (folder / name).is_file()]
    if lacking:
        raise KitError(f"{folder} lacks {', '.join(lacking)}, which its {INDEX} names")
    aside = [name for name in there if name not in files]
    if aside:
        logger.warning("%s: read %s; left aside: %s", folder, ", ".join(files), ", ".join(aside))
    return [folder / name for name in files]


def parts_of(index: Path) -> list[str]:
    """The files of a large model. Raises KitError where one lies elsewhere."""
    try:
        parts = set(map(str, read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise KitError(f"{index} cannot be read: {error}") from None
    outside = [part for part in parts if Path(part).name != part]
    if outside:
        raise KitError(f"{index} names {shown(min(outside))}; expected names of files beside it")
    return sorted(parts)


def write(
    folder: Path, experiment: Experiment, weights: Mapping[str, Tensor], vocab_size: int, eot_id: int | None
) -> None:
    """What transformers' `GPT2LMHeadModel.from_pretrained` loads. Raises KitError for a model that GPT-2 is not."""
    model = experiment.resolved()["model"]
    check_shaped(experiment, {**SHAPED, "n_kv_head": (None, model["n_head"])}, "GPT-2")
    n_embd, tied = model["n_embd"], model["weight_tying"]
    tensors = exported(weights, vocab_size, tied)
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
        **dict.fromkeys(DROPOUTS, model["dropout"]),
        "tie_word_embeddings": tied,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "dtype": "float32",
    }
    write_json(folder / "config.json", config)
    logger.info("wrote a GPT-2 of %d layers, %d wide, %d tokens", model["n_layer"], n_embd, vocab_size)
