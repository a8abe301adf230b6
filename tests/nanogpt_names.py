"""Names of nanoGPT at commit 3adf61e that the documentation explains: facts, for the tests of its pages."""

from __future__ import annotations

# The options of each file, in its order: those of its programs, the fields of GPTConfig, constants of its prepare.py
OPTIONS: dict[str, tuple[str, ...]] = {
    "train.py": (
        *("out_dir", "eval_interval", "log_interval", "eval_iters", "eval_only", "always_save_checkpoint", "init_from"),
        *("wandb_log", "wandb_project", "wandb_run_name", "dataset", "gradient_accumulation_steps", "batch_size"),
        *("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias", "learning_rate", "max_iters", "weight_decay"),
        *("beta1", "beta2", "grad_clip", "decay_lr", "warmup_iters", "lr_decay_iters", "min_lr", "backend", "device"),
        *("dtype", "compile"),
    ),
    "sample.py": (
        *("init_from", "out_dir", "start", "num_samples", "max_new_tokens", "temperature", "top_k", "seed", "device"),
        *("dtype", "compile"),
    ),
    "bench.py": (*("batch_size", "block_size", "bias", "real_data", "seed", "device", "dtype", "compile", "profile"),),
    "model.py": ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias"),
    "prepare.py": ("num_proc", "num_proc_load_dataset", "enc", "input_file_path", "data_url"),
}
COMMANDS = {
    "python train.py config/train_x.py",
    "python train.py config/train_x.py --n_layer=4",
    "python train.py config/train_x.py --init_from=resume",
    "torchrun --standalone --nproc_per_node=8 train.py config/train_x.py",
    "python data/openwebtext/prepare.py",
    "python sample.py --out_dir=out-x",
    "python sample.py --init_from=gpt2-xl",
    "python train.py config/eval_gpt2.py",
    "python bench.py",
}
OTHERS = {  # of commands and code
    *(
        "--batch_size=32",
        "--key=value",
        "import time",
        "time.time()",
        "5 * 8",
        "nanoGPT",
        "nanoGPT/data/shakespeare_char",
    ),
    *("estimate_loss", "get_batch", "get_lr", "configure_optimizers", "crop_block_size", "_init_weights"),
    *("--source nanoGPT/data/shakespeare_char", "-m nanogpt_kit run x", "runs/<name>/<run id>/", "x"),
    *("from_pretrained", "estimate_mfu", "generate", "out-x/ckpt.pt", "train_shakespeare_char.py"),
}
NAMES = {*(name for names in OPTIONS.values() for name in names), *COMMANDS, *OTHERS}
# What train_shakespeare_char.py assigns
CONFIG = """\
out_dir = 'out-shakespeare-char'
eval_interval = 250
always_save_checkpoint = False
wandb_log = False
dataset = 'shakespeare_char'
gradient_accumulation_steps = 1
batch_size = 64
block_size = 256
n_layer = 6
n_head = 6
n_embd = 384
dropout = 0.2
learning_rate = 1e-3
max_iters = 5000
lr_decay_iters = 5000
min_lr = 1e-4
beta2 = 0.99
warmup_iters = 100
"""
