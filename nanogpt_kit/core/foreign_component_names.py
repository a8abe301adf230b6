"""Other programs' names of components, and what is written here instead."""

from __future__ import annotations

import re
from collections.abc import Collection

from nanogpt_kit.core.errors import allowed_text, did_you_mean
from nanogpt_kit.core.foreign_names import Answer, plain

FLASH_KERNELS = ("sdpa", "torch's choice of kernel, flash attention among them")
TEXT_FILES = ("text", "with dataset.source")
HUB = ("huggingface", "with its name on the hub as dataset.source")
# By kind: a component's name elsewhere -> (its name here, a remark).
FOREIGN_COMPONENTS: dict[str, dict[str, Answer]] = {
    "attention": {
        "flash": FLASH_KERNELS,
        "flash_attention": FLASH_KERNELS,
        "flash_attention_2": FLASH_KERNELS,
        "eager": ("naive", ""),
        "flex_attention": ("flex", ""),
    },
    "callback": {
        "wandb": ("tensorboard", ""),
        "progress_bar": ("console", ""),
        "earlystopping": ("early_stopping", ""),
    },
    "dataset": {
        "shakespeare_char": ("shakespeare", "with tokenizer=char"),
        "tinyshakespeare": ("shakespeare", ""),
        "owt": ("openwebtext", ""),
        "hf": ("huggingface", "with dataset.source"),
        "file": TEXT_FILES,
        "folder": TEXT_FILES,
        "txt": TEXT_FILES,
        "bin": ("token_files", "with dataset.source"),
        **dict.fromkeys(("wikitext", "c4", "the_pile", "fineweb", "fineweb_edu", "tinystories"), HUB),
    },
    "evaluator": {"ppl": ("perplexity", ""), "bpb": ("bits_per_byte", ""), "val_loss": ("loss", "")},
    "format": {"hf": ("huggingface", ""), "transformers": ("huggingface", "")},
    "mlp": {
        "relu_squared": ("relu2", ""),
        "squared_relu": ("relu2", ""),
        "silu": ("swiglu", "which gates by SiLU"),
        "swish": ("swiglu", "which gates by SiLU"),
        "gelu_new": ("gelu", 'with model.mlp.approximate="tanh"'),
    },
    "norm": {"ln": ("layernorm", ""), "rms": ("rmsnorm", "")},
    "optimizer": {
        "adam": ("adamw", "with optimizer.weight_decay=0 it is Adam"),
        "adam_w": ("adamw", ""),
        "adamw_torch": ("adamw", ""),
        "adamw_torch_fused": ("adamw", ""),
        "fused_adamw": ("adamw", ""),
    },
    "order": {"shuffle": ("shuffled", ""), "in_order": ("sequential", ""), "none": ("sequential", "")},
    "parallel": {"zero": ("fsdp", ""), "deepspeed": ("fsdp", ""), "none": ("single", ""), "dp": ("ddp", "")},
    "position": {
        "rotary": ("rope", ""),
        "absolute": ("learned", ""),
        "nope": ("none", ""),
        "embedding": ("learned", ""),
    },
    "sampler": {
        "nucleus": ("top_p", ""),
        "argmax": ("greedy", ""),
        "temp": ("temperature", ""),
        "topk": ("top_k", ""),
        "topp": ("top_p", ""),
        "minp": ("min_p", ""),
    },
    "schedule": {
        "cosine_annealing": ("cosine", ""),
        "cosine_decay": ("cosine", ""),
        "cosine_with_warmup": ("cosine", "with schedule.warmup_steps"),
        "warmup_cosine": ("cosine", "with schedule.warmup_steps"),
        "constant_with_warmup": ("constant", "with schedule.warmup_steps"),
        "linear_with_warmup": ("linear", "with schedule.warmup_steps"),
        "warmup_stable_decay": ("wsd", ""),
        "trapezoidal": ("wsd", ""),
        "none": ("constant", ""),
    },
    "tokenizer": {
        "bytes": ("byte", ""),
        "character": ("char", ""),
        "characters": ("char", ""),
        "cl100k_base": ("tiktoken", "with tokenizer.encoding"),
        "o200k_base": ("tiktoken", "with tokenizer.encoding"),
        "r50k_base": ("gpt2", ""),
        "hf": ("huggingface", ""),
    },
}


def foreign_components(name: str) -> list[Answer]:
    """The components that another program's name means here, of any kind."""
    return list(dict.fromkeys(names[plain(name)] for names in FOREIGN_COMPONENTS.values() if plain(name) in names))


def did_you_mean_component(kind: str, name: str, allowed: Collection[str]) -> str:
    """As `did_you_mean`, for a component: other programs' names count too."""
    if kind == "dataset" and "text" in allowed and re.search(r"[./]", name):
        return f"; did you mean 'text' (with dataset.source={name})?{allowed_text(allowed)}"
    ours, remark = FOREIGN_COMPONENTS.get(kind, {}).get(plain(name), ("", ""))
    if ours not in allowed:
        return did_you_mean(name, allowed)
    return f"; did you mean {ours!r}{f' ({remark})' if remark else ''}?{allowed_text(allowed)}"
