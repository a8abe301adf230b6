"""Llama and models of its shape in transformers' files: config.json, safetensors, and the tokenizer where it can be.

The model is `gpt` with rope, rmsnorm and swiglu.

Source: Touvron et al. 2023, arXiv:2302.13971; windows: Jiang et al. 2023, arXiv:2310.06825 (Mistral); biases: Yang et
al. 2024, arXiv:2407.10671 (Qwen2). Names and layout are those of transformers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from nanogpt_kit.api import ExportedModel, Field, Format, ImportedModel, KitError
from nanogpt_kit_llama.config import CONFIG, FAMILIES, ROPE_NUMBERS, read_config, type_of_model
from nanogpt_kit_llama.tensors import EMBEDDING, HEAD, WEIGHTS, has_bias, join, read_weights, split, tensors_of
from nanogpt_kit_llama.tokenizer_files import end_token, write_tokenizer

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIZES = {  # options of [model] by Llama's names
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "block_size",
}
SLOWED = {  # options of llama3_rope by Llama's names
    **dict(zip(ROPE_NUMBERS[:3], ROPE_NUMBERS[:3], strict=True)),
    "original_max_position_embeddings": "original_context",
}
SLOWED_ROPE = "nanogpt-kit-llama/llama3_rope"
EXPRESSIBLE: Mapping[str, tuple[Any, ...] | None] = {  # options of [model]: the possible values; None: any
    **dict.fromkeys(("n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "dropout", "weight_tying", "bias")),
    **dict.fromkeys(("vocab_multiple", "document_mask", "init_from", "bf16_residual")),
    **dict.fromkeys(("norm.eps", "mlp.width", "attention.window")),
    **dict.fromkeys(("position.base", *(f"position.{name}" for name in SLOWED.values()))),
    "use": ("gpt",),
    "qk_norm": (False,),
    "mixer.use": ("softmax",),
    "position.use": ("rope", "llama3_rope", SLOWED_ROPE),
    "position.partial": (None, 1.0),
    "norm.use": ("rmsnorm",),
    "norm.gain": (True,),
    "mlp.use": ("swiglu",),
}


class Llama(Format):
    sources = f'a folder with {CONFIG} of "model_type": {", ".join(map(json.dumps, FAMILIES))}'
    dtype: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="type of the weights in an exported model")

    def detects(self, path: Path) -> bool:
        return type_of_model(path) in FAMILIES

    def read(self, path: Path) -> ImportedModel:
        config = read_config(path)
        theirs, files = read_weights(path)
        named = (name for _, parts in tensors_of(config, True) for name in parts if name.endswith(".bias"))
        biases = [has_bias(name, config) for name in named]
        if any(biases) and not all(biases):
            logger.info("%s has biases in some layers only; those of the others are zeros, and are trained, too", path)
        weights = join(theirs, config, any(biases), path)
        tokenizer = {"use": "huggingface", "file": str(path / "tokenizer.json"), **end_token(path, config)}
        return ImportedModel(
            experiment={"model": options_of(config, any(biases)), "tokenizer": tokenizer},
            weights=weights,
            files=(path / CONFIG, *files),
            token_weights=(EMBEDDING, HEAD),
        )

    def check_model(self, exported: ExportedModel) -> None:
        exported.check_options("Llama", EXPRESSIBLE)
        model, weights = exported.experiment["model"], exported.weights
        if model["bias"] and window_of(model) is not None:
            raise KitError(
                f"Llama cannot express model.bias = true with model.attention.window = {window_of(model)}: "
                "models with windows are written as Mistral, which has no biases"
            )
        if model["weight_tying"] and not torch.equal(weights[HEAD], weights[EMBEDDING]):
            raise KitError(f"the model's {HEAD} differs from its {EMBEDDING}, so they cannot be exported as tied")
        names = {name for name, _ in tensors_of(config_of(exported), model["bias"])}
        unknown = sorted(exported.inference_weights().keys() - names - {HEAD})
        if unknown:
            raise KitError(*(f"Llama has no tensor for {name}" for name in unknown))

    def write(self, folder: Path, exported: ExportedModel) -> None:
        """What `AutoModelForCausalLM.from_pretrained` of transformers reads."""
        config, dtype = config_of(exported), DTYPES[self.dtype]
        tensors = split(exported.weights, config, exported.experiment["model"]["bias"])
        save_file(converted(tensors, dtype), folder / WEIGHTS, metadata={"format": "pt"})
        end = exported.encoder.eot_id
        ends = {} if end is None else {"bos_token_id": end, "eos_token_id": end}
        write_json(folder / CONFIG, {**config, "dtype": str(dtype).removeprefix("torch."), **ends})
        write_json(folder / "generation_config.json", {"_from_model_config": True, **ends})
        write_tokenizer(folder, exported.encoder, config["max_position_embeddings"])


def options_of(config: Mapping[str, Any], bias: bool) -> dict[str, Any]:
    """The table [model]."""
    rope = config["rope_parameters"]
    position: dict[str, Any] = {"use": "rope", "base": float(rope["rope_theta"])}
    if rope["rope_type"] == "llama3":
        position["use"] = SLOWED_ROPE
        position |= {ours: float(rope[theirs]) for theirs, ours in SLOWED.items()}
        position["original_context"] = int(rope["original_max_position_embeddings"])
    window = config["sliding_window"]
    attention = {"attention": {"use": "sdpa", "window": window}} if window is not None else {}
    return {
        "use": "gpt",
        **{ours: config[theirs] for theirs, ours in SIZES.items()},
        **attention,
        "bias": bias,
        "weight_tying": config["tie_word_embeddings"],
        "position": position,
        "norm": {"use": "rmsnorm", "eps": float(config["rms_norm_eps"])},
        "mlp": {"use": "swiglu", "width": config["intermediate_size"] / config["hidden_size"]},
    }


def config_of(exported: ExportedModel) -> dict[str, Any]:
    """The content of config.json, without the tokens that texts begin and end with."""
    model = exported.experiment["model"]
    norm, position = (one_of(model[slot]) for slot in ("norm", "position"))
    slowed = position["use"] != "rope"
    rope = {"rope_type": "llama3" if slowed else "default", "rope_theta": position["base"]}
    rope |= {theirs: position[ours] for theirs, ours in SLOWED.items()} if slowed else {}
    window = window_of(model)
    kind = {"model_type": "llama", "attention_bias": model["bias"], "mlp_bias": model["bias"]}
    return {
        **(kind if window is None else {"model_type": "mistral", "sliding_window": window}),
        "architectures": ["LlamaForCausalLM" if window is None else "MistralForCausalLM"],
        **{theirs: model.get(ours, model["n_head"]) for theirs, ours in SIZES.items()},
        "intermediate_size": exported.weights["h.0.mlp.c_fc.weight"].size(0),
        "hidden_act": "silu",
        "rms_norm_eps": norm["eps"],
        "rope_theta": position["base"],  # for transformers 4
        **({"rope_scaling": {name: rope[name] for name in rope if name != "rope_theta"}} if slowed else {}),
        "rope_parameters": rope,
        "attention_dropout": 0.0,
        "tie_word_embeddings": model["weight_tying"],
        "vocab_size": exported.encoder.vocab_size,
    }


def one_of(slot: Any) -> Any:
    """The component of all layers, which may be in a list."""
    return slot[0] if isinstance(slot, list) else slot


def window_of(model: Mapping[str, Any]) -> int | None:
    """The window of all layers; None where it is not shorter than the context. Raises KitError where they differ."""
    slot, context = model["attention"], model["block_size"]
    windows = [part.get("window") for part in (slot if isinstance(slot, list) else [slot])]
    shorter = [None if window is None or window >= context else window for window in windows]
    if len(set(shorter)) > 1:
        found = " and ".join("none" if window is None else str(window) for window in dict.fromkeys(shorter))
        raise KitError(f"Llama has one attention for all layers, and model.attention.window is {found}")
    return shorter[0]


def converted(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors in the type that was chosen. Raises KitError for one whose numbers are too large for it."""
    result = {name: value.to(dtype) for name, value in tensors.items()}
    too_large = [name for name, value in tensors.items() if (value.isfinite() & ~result[name].isfinite()).any()]
    if too_large:
        raise KitError(f"{min(too_large)} has numbers that are too large for {dtype}; use format.dtype=bf16")
    return result


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
