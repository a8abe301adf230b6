"""The options of nanoGPT's train.py, with their defaults: a config file of nanoGPT says which of them differ.

Source: train.py of nanoGPT at commit 3adf61e, of November 2025.
"""

from __future__ import annotations

from nanogpt_kit.core.errors import did_you_mean

Value = bool | int | float | str

# In the order of train.py
DEFAULTS: dict[str, Value] = {
    "out_dir": "out",
    "eval_interval": 2000,
    "log_interval": 1,
    "eval_iters": 200,
    "eval_only": False,
    "always_save_checkpoint": True,
    "init_from": "scratch",
    "wandb_log": False,
    "wandb_project": "owt",
    "wandb_run_name": "gpt2",
    "dataset": "openwebtext",
    "gradient_accumulation_steps": 40,
    "batch_size": 12,
    "block_size": 1024,
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "dropout": 0.0,
    "bias": False,
    "learning_rate": 6e-4,
    "max_iters": 600_000,
    "weight_decay": 0.1,
    "beta1": 0.9,
    "beta2": 0.95,
    "grad_clip": 1.0,
    "decay_lr": True,
    "warmup_iters": 2000,
    "lr_decay_iters": 600_000,
    "min_lr": 6e-5,
    "backend": "nccl",
    "device": "cuda",
    "dtype": "bfloat16",  # float16 on a GPU without bfloat16
    "compile": True,
}
MACHINE_DEPENDENT = ("dtype",)  # no other option may be computed from them
POSITIVE = ("batch_size", "gradient_accumulation_steps", "block_size")  # factors of the tokens of a step

# Of the programs that train.py does not share its options with, and where they are set here
ELSEWHERE = {
    **dict.fromkeys(("start", "num_samples", "max_new_tokens"), ("sample.py", "[sample]")),
    **dict.fromkeys(("temperature", "top_k"), ("sample.py", "[[sampler]]")),
    "seed": ("sample.py and bench.py", "train.seed; that of train.py is always 1337, as it is here by default"),
    **dict.fromkeys(("real_data", "profile"), ("bench.py", "the options of `nanogpt-kit bench`")),
}

# The sizes of OpenAI's models: n_layer, n_head, n_embd. Source: Radford et al. 2019, table 2; model.py, from_pretrained
PUBLISHED = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280)}
PUBLISHED |= {"gpt2-xl": (48, 25, 1600)}
PUBLISHED_BLOCK_SIZE = 1024


def name_fault(name: str) -> str | None:
    """Why train.py has no option of this name; None where it has one."""
    if name in DEFAULTS:
        return None
    if name in ELSEWHERE:
        program, place = ELSEWHERE[name]
        return f"{name!r} is an option of nanoGPT's {program}, which train.py ignores; remove it, and set {place}"
    remedy = "If your fork added it, remove it here; it becomes an option of your component."
    return f"nanoGPT's train.py has no option {name!r}{did_you_mean(name, DEFAULTS)} {remedy}"


def type_fault(name: str, value: Value) -> str | None:
    """Why an option cannot have this value, by its type; None where it can."""
    default = DEFAULTS[name]
    if isinstance(default, bool):
        expected, fits = "True or False", isinstance(value, bool)
    elif isinstance(default, str):
        expected, fits = "text", isinstance(value, str)
    elif isinstance(default, int):
        expected, fits = "a whole number", is_number(value) and float(value) == int(value)
    else:
        expected, fits = "a number", is_number(value)
    if fits and name in POSITIVE and int(value) < 1:
        expected, fits = "at least 1", False
    return None if fits else f"{name} = {value!r}; expected {expected}"


def is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
