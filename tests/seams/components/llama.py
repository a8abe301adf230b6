"""Llama in transformers' files: config.json and safetensors. The model is `gpt` with rope, rmsnorm and swiglu.

Source: Touvron et al. 2023, arXiv:2302.13971; names and layout are those of transformers' LlamaForCausalLM.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nanogpt_kit.api import ExportedModel, Format, ImportedModel, KitError, read_json, read_safetensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIZES = {  # options of [model] by Llama's names
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "block_size",
}
FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
}
OTHERS = (  # keys that the model is built from, or that do not change the logits
    *("num_key_value_heads", "intermediate_size", "head_dim", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
    *("vocab_size", "architectures", "dtype", "transformers_version", "initializer_range", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
EXPRESSIBLE = {  # options of [model]: the possible values; None: any
    **dict.fromkeys(("n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "dropout", "weight_tying")),
    **dict.fromkeys(("vocab_multiple", "document_mask", "init_from", "bf16_residual")),
    **dict.fromkeys(("position.base", "norm.eps", "mlp.width")),
    "use": ("gpt",),
    "bias": (False,),
    "qk_norm": (False,),
    "mixer.use": ("softmax",),
    "position.use": ("rope",),
    "position.partial": (1.0,),
    "norm.use": ("rmsnorm",),
    "norm.gain": (True,),
    "mlp.use": ("swiglu",),
}
LAYER = {  # of our layer `h.0`: the tensors of `model.layers.0` that it consists of
    "ln_1.weight": ("input_layernorm.weight",),
    "attn.c_attn.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attn.c_proj.weight": ("self_attn.o_proj.weight",),
    "ln_2.weight": ("post_attention_layernorm.weight",),
    "mlp.c_gate.weight": ("mlp.gate_proj.weight",),
    "mlp.c_fc.weight": ("mlp.up_proj.weight",),
    "mlp.c_proj.weight": ("mlp.down_proj.weight",),
}
OUTSIDE = {
    "wte.weight": ("model.embed_tokens.weight",),
    "ln_f.weight": ("model.norm.weight",),
    "lm_head.weight": ("lm_head.weight",),
}


class Llama(Format):
    sources = f'a folder with {CONFIG} of "model_type": "llama"'

    def detects(self, path: Path) -> bool:
        try:
            return bool(read_json(path / CONFIG)["model_type"] == "llama")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def read(self, path: Path) -> ImportedModel:
        try:
            model = options_of(read_json(path / CONFIG))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise KitError(f"{path / CONFIG} is not the configuration of a Llama: {error!r}") from None
        theirs = read_safetensors(path / WEIGHTS)
        weights = {}
        for ours, parts in names(model["n_layer"], model["weight_tying"]).items():
            missing = [name for name in parts if name not in theirs]
            if missing:
                raise KitError(f"{path / WEIGHTS} has no tensor {missing[0]}")
            weights[ours] = torch.cat([theirs.pop(name) for name in parts])
        if theirs:
            raise KitError(f"{path / WEIGHTS}: {min(theirs)} is not a tensor of a Llama of {model['n_layer']} layers")
        return ImportedModel(
            experiment={"model": model, "tokenizer": {"use": "huggingface", "file": str(path / "tokenizer.json")}},
            weights=weights,
            files=(path / CONFIG, path / WEIGHTS),
            token_weights=("wte.weight", "lm_head.weight"),
        )

    def check_model(self, exported: ExportedModel) -> None:
        exported.check_options("Llama", EXPRESSIBLE)

    def write(self, folder: Path, exported: ExportedModel) -> None:
        model, rows = exported.experiment["model"], exported.encoder.vocab_size
        heads, size = model["n_head"], model["n_embd"] // model["n_head"]
        groups = model.get("n_kv_head", heads)
        tensors = {}
        for ours, parts in names(model["n_layer"], model["weight_tying"]).items():
            value = exported.weights[ours]
            if ours in ("wte.weight", "lm_head.weight"):
                value = value[:rows]  # without the padding of the vocabulary
            several = value.split([heads * size, groups * size, groups * size]) if len(parts) > 1 else [value]
            tensors |= {name: part.contiguous() for name, part in zip(parts, several, strict=True)}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        norm, position = (part[0] if isinstance(part, list) else part for part in (model["norm"], model["position"]))
        config = {
            **FIXED,
            **{theirs: model[ours] for theirs, ours in SIZES.items()},
            "architectures": ["LlamaForCausalLM"],
            "num_key_value_heads": groups,
            "head_dim": size,
            "intermediate_size": exported.weights["h.0.mlp.c_fc.weight"].size(0),
            "rms_norm_eps": norm["eps"],
            "rope_parameters": {"rope_type": "default", "rope_theta": position["base"]},
            "tie_word_embeddings": model["weight_tying"],
            "vocab_size": rows,
            "bos_token_id": exported.encoder.eot_id,
            "eos_token_id": exported.encoder.eot_id,
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def options_of(config: dict[str, Any]) -> dict[str, Any]:
    """The table [model]. Raises KitError for a configuration of another network."""
    faults = [f"Llama has no key {key!r}" for key in config if key not in (*FIXED, *SIZES, *OTHERS)]
    faults += [f"{key} is {config[key]!r}; expected {value!r}" for key, value in FIXED.items() if config[key] != value]
    rope = config["rope_parameters"]
    if rope.keys() != {"rope_type", "rope_theta"} or rope["rope_type"] != "default":
        faults.append(f"rope_parameters are {rope!r}; expected those of the type 'default'")
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        faults.append(f"head_dim is {config['head_dim']}; expected hidden_size / num_attention_heads")
    if faults:
        raise KitError(*faults)
    return {
        "use": "gpt",
        **{ours: config[theirs] for theirs, ours in SIZES.items()},
        "n_kv_head": config["num_key_value_heads"],
        "bias": False,
        "weight_tying": config["tie_word_embeddings"],
        "position": {"use": "rope", "base": rope["rope_theta"]},
        "norm": {"use": "rmsnorm", "eps": config["rms_norm_eps"]},
        "mlp": {"use": "swiglu", "width": config["intermediate_size"] / config["hidden_size"]},
    }


def names(n_layer: int, tied: bool) -> dict[str, tuple[str, ...]]:
    """The tensors of Llama that each of ours consists of, one below the other."""
    found = {ours: parts for ours, parts in OUTSIDE.items() if not (tied and ours == "lm_head.weight")}
    for layer in range(n_layer):
        for ours, parts in LAYER.items():
            found[f"h.{layer}.{ours}"] = tuple(f"model.layers.{layer}.{part}" for part in parts)
    return found
