"""The config.json of transformers' GPT-2: the meaning of every key, so that an unknown one is never ignored.

Source: transformers' GPT2Config and PretrainedConfig, current and older versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanogpt_kit.api import KitError, read_json
from nanogpt_kit.components.format.foreign_values import MAX_SIZE, format_value, number_fault

ACTIVATIONS = {
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "tanh"),
    **dict.fromkeys(("gelu", "gelu_python"), "none"),
}
ALIASES = {  # other names that GPT2Config accepts
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
SIZES = ("n_layer", "n_head", "n_embd", "n_positions")
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
DEFAULTS = {  # of GPT2Config, for keys that become options here
    **dict.fromkeys(DROPOUTS, 0.1),
    "n_inner": None,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "tie_word_embeddings": True,
    "vocab_size": 50257,
}
REQUIRED: dict[str, Any] = {  # any other value is another network
    "model_type": "gpt2",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
NEUTRAL: dict[str, Any] = {  # keys of any model, with the values that change nothing
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "quantization_config": None,
    "tie_encoder_decoder": False,
    "use_bfloat16": False,
    "n_special": 0,  # rows of the embedding beyond the vocabulary
}
IGNORED_BY_REASON = {  # keys that do not change the logits
    "names, versions and types of files": (
        *("_name_or_path", "name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype"),
        *("_commit_hash", "finetuning_task", "torchscript", "author", "license", "created_date", "language"),
        *("transformers.js_config",),
    ),
    "how weights are drawn or trained": (
        *("initializer_range", "gradient_checkpointing", "_gradient_checkpointing", "tf_legacy_loss", "xla_device"),
    ),
    "heads that classify texts, whose weights would be refused by name": (
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
        *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "predict_special_tokens"),
    ),
    "outputs of a call, and the kernel that computes them": (
        *("use_cache", "output_past", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
        *(
            "_attn_implementation",
            "attn_implementation",
            "_attn_implementation_autoset",
            "_attn_implementation_internal",
        ),
        *("_output_attentions", "is_decoder", "reorder_and_upcast_attn"),
    ),
    "settings of generation, which [sample] and [[sampler]] replace": (
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "cls_token_id"),
        *("mask_token_id", "decoder_start_token_id", "prefix"),
        *("task_specific_params", "do_sample", "early_stopping", "max_length", "min_length", "length_penalty"),
        *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "diversity_penalty", "num_beams"),
        *("num_beam_groups", "num_return_sequences", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
        *("bad_words_ids", "begin_suppress_tokens", "suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
        *("exponential_decay_length_penalty", "remove_invalid_values", "return_dict_in_generate", "output_scores"),
        *("tokenizer_class",),
    ),
}
IGNORED = {key for keys in IGNORED_BY_REASON.values() for key in keys}


def read_gpt2_config(path: Path) -> dict[str, Any]:
    """All keys of a config.json, with defaults of omitted ones. Raises KitError with each key that is not GPT-2's."""
    try:
        config = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise KitError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(config, dict) or config.get("model_type") != "gpt2":
        kind = config.get("model_type") if isinstance(config, dict) else None
        remedy = "" if kind else '; if it is a GPT-2 (files of 2019 do not state it), add "model_type": "gpt2"'
        raise KitError(f"{path} describes a model of type {format_value(kind)}; only gpt2 can be imported{remedy}")
    faults = []
    for alias in ALIASES.keys() & config.keys():
        value, key = config.pop(alias), ALIASES[alias]
        if config.setdefault(key, value) != value:
            other = f"{key} = {format_value(config[key])}"
            faults.append(f"{path}: {alias} = {format_value(value)}, but {other}; they are the same option")
    faults += [f"{path}: {key} is missing" for key in SIZES if config.get(key) is None]
    values = {**DEFAULTS, **config}
    faults += [
        f"{path}: {key} = {format_value(values[key])}{fault}" for key in values if (fault := key_fault(key, values))
    ]
    if faults:
        raise KitError(*faults)
    return values


def key_fault(key: str, config: Mapping[str, Any]) -> str | None:
    """The message after `key = value`; None if the value is valid."""
    value = config[key]
    fault = None
    if key in (*SIZES, "vocab_size", "n_inner"):
        fault = None if value is None and key != "vocab_size" else number_fault(value, 1, MAX_SIZE, integer=True)
    elif key in (*DROPOUTS, "layer_norm_epsilon"):
        fault = number_fault(value, 0, 1)
    elif key == "activation_function":
        is_known = isinstance(value, str) and value in ACTIVATIONS
        fault = None if is_known else f"expected one of {', '.join(ACTIVATIONS)}"
    elif key == "tie_word_embeddings":
        fault = None if isinstance(value, bool) else "expected true or false"
    elif key in REQUIRED or key in NEUTRAL or key == "n_ctx":  # n_ctx: side of the mask, in old files
        expected = {**REQUIRED, **NEUTRAL, "n_ctx": config.get("n_positions")}[key]
        is_same = value == expected and type(value) is type(expected)
        return None if is_same else f" makes it another network than GPT-2, which has {format_value(expected)}"
    elif key not in IGNORED:
        return " is not a key of GPT-2, so the model may be another network; if it changes nothing, remove it"
    return f"; {fault}" if fault else None
