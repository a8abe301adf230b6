"""GPT-2 in transformers' files: config.json and safetensors in a folder. The tokenizer is not part of it.

Source: Radford et al. 2019; the layout is that of transformers' GPT2LMHeadModel, whose `Conv1D` holds matrices
transposed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from nanogpt_kit.api import ExportedModel, Field, Format, ImportedModel, KitError, read_json
from nanogpt_kit.components.format.gpt2_config import ACTIVATIONS, DROPOUTS, REQUIRED, read_gpt2_config
from nanogpt_kit.components.format.gpt2_export import check_gpt2_model, tensors_to_export
from nanogpt_kit.components.format.gpt2_shape import (
    HEAD,
    drop_mask_buffers,
    gpt2_model,
    rename_weights,
    resolve_weight_tying,
)
from nanogpt_kit.components.format.gpt2_weight_files import WEIGHTS, find_weight_files, read_weight_files

logger = logging.getLogger(__name__)

CONFIG = "config.json"
MAX_CONFIG_BYTES = 1 << 20  # that of a GPT-2 has about 1,000; a larger file is not opened to detect the format
PUBLISHED_VOCABULARY = 50_257  # tokens of the published models
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
WITH_BIAS = ("ln_1.weight", "ln_2.weight", "ln_f.weight", *TRANSPOSED)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class HuggingFace(Format):
    sources = f'a folder with {CONFIG} of "model_type": "gpt2"'
    dtype: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="type of the weights in an exported model")

    def detects(self, path: Path) -> bool:
        """Also true of a config.json that cannot be read, or that has GPT-2's sizes without a type, so that reading it
        reports that."""
        file = path / CONFIG
        try:
            config = read_json(file) if file.stat().st_size <= MAX_CONFIG_BYTES else {"model_type": "gpt2"}
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return os.path.lexists(file)
        if not isinstance(config, dict):
            return False
        return config.get("model_type") == "gpt2" or ("n_embd" in config and config.get("model_type") is None)

    def read(self, path: Path) -> ImportedModel:
        if not (path / CONFIG).exists():
            raise KitError(f"{path} has no {CONFIG}, so it is not a model saved by transformers")
        config = read_gpt2_config(path / CONFIG)
        files = find_weight_files(path)
        weights = drop_mask_buffers(rename_weights(read_weight_files(files), path), path)
        for key, value in weights.items():
            if key.endswith(TRANSPOSED) and value.ndim == 2:
                weights[key] = value.t().contiguous()
        tied = config["tie_word_embeddings"] and resolve_weight_tying(
            weights, path, "its config.json ties the head to the embedding"
        )
        options = {
            "n_layer": config["n_layer"],
            "n_head": config["n_head"],
            "n_embd": config["n_embd"],
            "block_size": config["n_positions"],
            "bias": True,
            "dropout": single_dropout(config, path),
            "weight_tying": tied,
            "norm": {"use": "layernorm", "eps": config["layer_norm_epsilon"]},
            "mlp": {
                "use": "gelu",
                "approximate": ACTIVATIONS[config["activation_function"]],
                "width": (config["n_inner"] or 4 * config["n_embd"]) / config["n_embd"],
            },
        }
        return gpt2_model(path, options, config["vocab_size"], weights, (path / CONFIG, *files))

    def check_model(self, exported: ExportedModel) -> None:
        check_gpt2_model(exported, "GPT-2")

    def write(self, folder: Path, exported: ExportedModel) -> None:
        """What transformers' `GPT2LMHeadModel.from_pretrained` reads."""
        tensors = tensors_to_export(exported)
        if exported.experiment["model"]["weight_tying"]:
            del tensors[HEAD]
        for key in list(tensors):
            if key.endswith(TRANSPOSED):
                tensors[key] = tensors[key].t().contiguous()
        for key in [key for key in tensors if key.endswith(WITH_BIAS)]:
            bias = key.removesuffix("weight") + "bias"
            if bias not in tensors:  # GPT-2 always has biases; zeros change nothing
                tensors[bias] = torch.zeros(tensors[key].size(-1))
        save_file(converted(tensors, self.dtype), folder / WEIGHTS, metadata={"format": "pt"})
        config = gpt2_config(exported, inner=tensors["transformer.h.0.mlp.c_fc.bias"].numel())
        config["dtype"] = str(DTYPES[self.dtype]).removeprefix("torch.")
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        layers, tokens = config["n_layer"], config["vocab_size"]
        logger.info("wrote a GPT-2 of %d layers, %d features and %s tokens", layers, config["n_embd"], f"{tokens:,}")
        if tokens != PUBLISHED_VOCABULARY:
            logger.info("its tokenizer is not GPT-2's and is not part of this format; --format safetensors includes it")


def single_dropout(config: Mapping[str, Any], folder: Path) -> float:
    """The one dropout rate for GPT-2's three; warns where they differ."""
    rates = {key: float(config[key]) for key in DROPOUTS}
    if len(set(rates.values())) == 1:
        return rates[DROPOUTS[0]]
    shown = ", ".join(f"{key} = {rate:g}" for key, rate in rates.items())
    logger.warning("%s has %s; imported with model.dropout = 0.0, which matters in training only", folder, shown)
    return 0.0


def converted(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The tensors in the type that was chosen. Raises KitError for one whose numbers are too large for it."""
    result = {name: value.to(DTYPES[dtype]) for name, value in tensors.items()}
    too_large = [name for name, value in tensors.items() if (value.isfinite() & ~result[name].isfinite()).any()]
    if too_large:
        raise KitError(f"{min(too_large)} has numbers that are too large for {dtype}; use format.dtype=bf16")
    return result


def gpt2_config(exported: ExportedModel, inner: int) -> dict[str, Any]:
    """The content of config.json; `inner` is the width of the MLP."""
    model, encoder = exported.experiment["model"], exported.encoder
    norm, mlp = (part[0] if isinstance(part, list) else part for part in (model["norm"], model["mlp"]))
    return {
        "architectures": ["GPT2LMHeadModel"],
        **REQUIRED,
        **{key: model[key] for key in ("n_layer", "n_head", "n_embd")},
        "n_positions": model["block_size"],
        "n_inner": inner,
        "vocab_size": encoder.vocab_size,
        "activation_function": {"tanh": "gelu_new", "none": "gelu"}[mlp["approximate"]],
        "layer_norm_epsilon": norm["eps"],
        **dict.fromkeys(DROPOUTS, model["dropout"]),
        "tie_word_embeddings": model["weight_tying"],
        "bos_token_id": encoder.eot_id,
        "eos_token_id": encoder.eot_id,
    }
