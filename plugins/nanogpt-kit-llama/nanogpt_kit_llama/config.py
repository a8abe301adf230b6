"""The config.json of Llama-shaped models: each key is used, known to change nothing, or refused.

Source: transformers' LlamaConfig, MistralConfig and Qwen2Config, versions 4 and 5.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanogpt_kit.api import KitError, read_json

logger = logging.getLogger(__name__)

Config = Mapping[str, Any]

CONFIG = "config.json"
MAX_BYTES = 1 << 20  # of a config.json, which has about 1,000; a larger file is not read
MAX_SIZE = 2**31 - 1  # of any dimension; no memory holds a larger one
WIDTH_MULTIPLE = 8  # to which `swiglu` rounds its inner features
FAMILIES = ("llama", "mistral", "qwen2")
OTHER_FAMILIES = {  # that are nearly of this shape
    "qwen3": "its head_dim is not hidden_size / num_attention_heads, and it normalizes queries and keys",
    "gemma": "its embeddings are multiplied, its norms add 1 to their gains, and its MLP uses GELU",
    "gemma2": "its norms are also after each part, and its logits are capped",
    "gemma3_text": "its norms are also after each part",
    "phi3": "its tensors are fused, and its positions are scaled by length",
    "olmo2": "its norms are after each part",
    "smollm3": "some of its layers have no positions",
    "granite": "its embeddings, residuals and logits are multiplied",
    "mixtral": "its MLP is a mixture of experts",
}
KEY_HEADS = "num_key_value_heads"
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
ROPE_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "rope_theta": None,
    "rope_scaling": None,
    "rope_parameters": None,
    "sliding_window": None,
    "use_sliding_window": False,
    "layer_types": None,
}
REQUIRED: dict[str, Any] = {  # any other value is another network
    "hidden_act": "silu",
    "rope_interleaved": False,
    "quantization_config": None,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "chunk_size_feed_forward": 0,
    "use_sliding_window": False,
}
IGNORED = {  # what names files and versions, how weights are drawn, how a call is made, and settings of generation
    *("model_type", "architectures", "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype"),
    *("_commit_hash", "finetuning_task", "transformers.js_config", "is_llama_config", "auto_map", "torchscript"),
    *("initializer_range", "gradient_checkpointing", "pretraining_tp", "max_window_layers", "use_bfloat16"),
    *("use_cache", "output_attentions", "output_hidden_states", "return_dict", "is_decoder", "problem_type"),
    *("_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "id2label", "label2id"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"),
    *("tokenizer_class", "task_specific_params", "prefix", "temperature", "top_k", "top_p", "do_sample"),
    *("max_length", "min_length", "num_beams", "num_return_sequences", "repetition_penalty", "length_penalty"),
}


def type_of_model(folder: Path) -> object:
    """The model_type that a config.json states; None where there is none."""
    file = folder / CONFIG
    try:
        content = read_json(file) if file.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("model_type") if isinstance(content, dict) else None


def read_config(folder: Path) -> dict[str, Any]:
    """All keys of a config.json, with the defaults of omitted ones. Raises KitError with each key that cannot be used.

    `num_key_value_heads` and `rope_parameters` are as transformers would complete them.
    """
    path = folder / CONFIG
    try:
        config = read_json(path) if path.stat().st_size <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise KitError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(config, dict) or kind not in FAMILIES:
        reason = OTHER_FAMILIES.get(kind, "") if isinstance(kind, str) else ""
        raise KitError(
            f"{path}: model_type = {shown(kind)}; expected {', '.join(FAMILIES)}{f': {reason}' if reason else ''}"
        )
    values = {**DEFAULTS, **config}
    faults = [*faults_of_keys(values), *faults_of_numbers(values)]
    if not faults:
        values |= completed(values)
        faults = [*faults_of_shape(values), *faults_of_rope(values["rope_parameters"])]
    if faults:
        raise KitError(*(f"{path}: {fault}" for fault in faults))
    if values["attention_dropout"]:
        dropout = f"attention_dropout = {values['attention_dropout']}"
        logger.warning("%s has %s; imported with model.dropout = 0.0, which matters in training only", path, dropout)
    return values


def faults_of_keys(config: Config) -> Iterator[str]:
    """Keys that are unknown, missing, or whose value makes it another network."""
    for key, value in config.items():
        if key in REQUIRED and value != REQUIRED[key]:
            yield f"{key} = {shown(value)}; expected {shown(REQUIRED[key])}"
        elif key not in REQUIRED and key not in IGNORED and key not in (*DEFAULTS, *SIZES, "vocab_size"):
            yield f"{key} = {shown(value)} is not a key of {config['model_type']}; if it changes nothing, remove it"
    required = (*SIZES, "vocab_size") if config["model_type"] == "llama" else (*SIZES, "vocab_size", KEY_HEADS)
    yield from (f"{key} is missing" for key in required if config.get(key) is None)


def faults_of_numbers(config: Config) -> Iterator[str]:
    """Values of another type, or out of range."""
    for key in (*SIZES, "vocab_size", KEY_HEADS, "head_dim", "sliding_window"):
        value = config.get(key)
        if value is not None and not is_number(value, 1, MAX_SIZE, int):
            yield f"{key} = {shown(value)}; expected an integer from 1 to {MAX_SIZE:,}"
    for key, low, high in (("rms_norm_eps", 1e-20, 1), ("attention_dropout", 0, 1), ("rope_theta", 1, 1e12)):
        value = config[key]
        if not (is_number(value, low, high) or (value is None and key == "rope_theta")):
            yield f"{key} = {shown(value)}; expected a number from {low:g} to {high:g}"
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        if not isinstance(config[key], bool):
            yield f"{key} = {shown(config[key])}; expected true or false"


def completed(config: Config) -> dict[str, Any]:
    """The keys that transformers completes."""
    found = config["rope_parameters"] or config["rope_scaling"] or {}
    scaling = dict(found) if isinstance(found, Mapping) else {"rope_type": found}
    kind = scaling.pop("type", None)
    scaling.setdefault("rope_type", kind or "default")
    theta = config["rope_theta"]
    if theta is not None and scaling.setdefault("rope_theta", theta) != theta:
        scaling["rope_type"] = f"with rope_theta = {shown(scaling['rope_theta'])}, but {shown(theta)} outside"
    return {
        KEY_HEADS: config[KEY_HEADS] or config["num_attention_heads"],
        "rope_parameters": {"rope_theta": 10_000.0, **scaling},
        "sliding_window": config["sliding_window"] if config["model_type"] == "mistral" else None,
    }


def faults_of_shape(config: Config) -> Iterator[str]:
    """Sizes that `gpt` does not have."""
    heads, groups, size = config["num_attention_heads"], config[KEY_HEADS], config["hidden_size"]
    if size % heads:
        yield f"hidden_size = {size}; expected a multiple of num_attention_heads ({heads})"
    elif config["head_dim"] not in (None, size // heads):
        yield f"head_dim = {config['head_dim']}; expected hidden_size / num_attention_heads ({size // heads})"
    if heads % groups:
        yield f"{KEY_HEADS} = {groups}; expected a divisor of num_attention_heads ({heads})"
    if config["intermediate_size"] % WIDTH_MULTIPLE:
        yield f"intermediate_size = {config['intermediate_size']}; expected a multiple of {WIDTH_MULTIPLE}"
    others = {"full_attention"} if config["model_type"] == "qwen2" else set()
    if config["layer_types"] and set(map(str, config["layer_types"])) - others:
        yield f"layer_types has {shown(config['layer_types'][0])}; expected the same attention in all layers"


def faults_of_rope(rope: Config) -> Iterator[str]:
    kind, theta = rope["rope_type"], rope["rope_theta"]
    if kind not in ("default", "llama3"):
        yield f"rope_parameters.rope_type = {shown(kind)}; expected 'default' or 'llama3'"
        return
    if not is_number(theta, 1, 1e12) or theta == 1:
        yield f"rope_parameters.rope_theta = {shown(theta)}; expected a number above 1"
    numbers = ROPE_NUMBERS if kind == "llama3" else ()
    for key in numbers:
        if not is_number(rope.get(key), 1e-6, MAX_SIZE):
            yield f"rope_parameters.{key} = {shown(rope.get(key))}; expected a number above 0"
    for key, value in rope.items():
        is_neutral = key == "partial_rotary_factor" and value == 1
        if key not in (*numbers, "rope_type", "rope_theta") and not is_neutral:
            yield f"rope_parameters.{key} = {shown(value)} is not a key of the type {kind!r}"


def is_number(value: object, low: float, high: float, kind: type | tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high  # type: ignore[operator]


def shown(value: object) -> str:
    """A value short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
