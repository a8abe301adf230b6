"""A checkout of nanoGPT, and how it is made to train the same shape on the same tokens as an experiment.

Its files are executed in processes of their own only: `nanogpt_process`. Nothing is written into the checkout.
"""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.core.targets import LEARNING_RATE
from nanogpt_kit.data.prepared_data import PreparedData, tokens_file
from nanogpt_kit.runs.working_tree import run_git

OPTION = "--nanogpt"
FILES = ("model.py", "train.py", "configurator.py")
SOURCE = "git clone https://github.com/karpathy/nanoGPT"
GPT2_TOKENS = 50257
MOST_TOKENS = 2**16  # of a vocabulary, since its data files have 16 bits for each token
FOREVER = 10**9  # steps: its process is ended before


@dataclass(frozen=True)
class Checkout:
    """A folder with nanoGPT's own files."""

    folder: Path
    commit: str | None  # abbreviated; None where git does not know it
    modified: tuple[str, ...]  # those of FILES that differ from the commit

    @classmethod
    def open(cls, text: str) -> Checkout:
        """Raises KitError where files are missing."""
        folder = Path(text).absolute()
        if not text or not folder.is_dir():
            raise checkout_error(f"{text!r} is not a folder")
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise checkout_error(f"{text!r} is not a checkout of nanoGPT: it has no {', '.join(missing)}")
        try:
            run_git(folder, "ls-files", "--error-unmatch", *FILES)  # the commit may be one of a folder around it
            commit = run_git(folder, "rev-parse", "--short=7", "HEAD").decode().strip()
            changed = run_git(folder, "diff", "--no-ext-diff", "--name-only", "--relative", "HEAD", "--", *FILES)
        except (OSError, subprocess.CalledProcessError):
            return cls(folder, None, ())
        return cls(folder, commit, tuple(changed.decode().split()))

    def __str__(self) -> str:
        commit = self.commit or "of unknown commit"
        return f"nanoGPT {commit}" + (f" with changes in {', '.join(self.modified)}" if self.modified else "")


def checkout_error(message: str) -> KitError:
    return KitError(Fault(f"{message}; to get one: {SOURCE}", OPTION, COMMAND_LINE))


def model_arguments(experiment: Experiment, vocab_size: int) -> dict[str, Any]:
    """The arguments of nanoGPT's GPTConfig for a model of the same sizes. Raises KitError where it has other ones."""
    model = experiment.model
    missing = [name for name in ("n_layer", "n_head", "n_embd", "block_size") if not hasattr(model, name)]
    if missing:
        use = experiment.entry_of(model).name
        message = f"nanoGPT cannot be given the sizes of model.use = {use!r}, which has no {', '.join(missing)}"
        raise KitError(Fault(message, "model.use", experiment.location(("model", "use"))))
    if vocab_size > MOST_TOKENS:
        message = f"nanoGPT's data files have 16 bits for each token, and the vocabulary has {vocab_size:,} tokens"
        raise KitError(Fault(f"{message}; use a smaller tokenizer", "tokenizer.use"))
    sizes = {name: int(getattr(model, name)) for name in ("n_layer", "n_head", "n_embd", "block_size")}
    bias, dropout = bool(getattr(model, "bias", False)), float(getattr(model, "dropout", 0.0))
    return {**sizes, "bias": bias, "dropout": dropout, "vocab_size": vocab_size}


def training_options(
    experiment: Experiment,
    model: Mapping[str, Any],
    device: str,
    micro_batch_size: int,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """The options of train.py, apart from those of `link_data`; `model` is what `model_arguments` returns.

    Of the optimizer those of AdamW, if it is one; train.py has its own otherwise. On a GPU train.py computes as it does
    by default: in bf16 where possible, compiled. On other devices its README says what to write.
    """
    options = {name: value for name, value in model.items() if name != "vocab_size"}
    windows = experiment.train.batch_tokens // experiment.model.block_size
    size = next(size for size in range(min(micro_batch_size, windows), 0, -1) if windows % size == 0)
    options |= {"batch_size": size, "gradient_accumulation_steps": windows // size}
    options |= {"grad_clip": float(experiment.train.grad_clip or 0.0), "device": device}
    if isinstance(optimizer, torch.optim.AdamW):
        (beta1, beta2), peak = optimizer.defaults["betas"], float(optimizer.defaults["lr"])
        decay = max(float(group["weight_decay"]) for group in optimizer.param_groups)
        options |= {"learning_rate": peak, "min_lr": peak / 10, "beta1": float(beta1), "beta2": float(beta2)}
        options |= {"weight_decay": decay}
    warmup = int(getattr(experiment.schedule_of(LEARNING_RATE), "warmup_steps", 0))
    options |= {"warmup_iters": warmup, "lr_decay_iters": FOREVER, "max_iters": FOREVER}
    options |= {"eval_interval": FOREVER, "eval_iters": 1, "log_interval": 1, "always_save_checkpoint": False}
    return options if device.startswith("cuda") else {**options, "dtype": "float32", "compile": False}


def link_data(data: PreparedData, folder: Path) -> dict[str, Any]:
    """Makes a folder of nanoGPT's data in `folder`, with links to the prepared tokens; returns options of train.py.

    meta.pkl has the vocabulary as nanoGPT's data has it: without padding, and absent for GPT-2's, which train.py pads.
    """
    target = folder / "data"
    target.mkdir()
    for name, split in {"train": "train", "val": "val" if "val" in data.splits else "train"}.items():
        os.symlink(tokens_file(data.path, split).absolute(), target / f"{name}.bin")
    if data.encoder.vocab_size != GPT2_TOKENS:
        (target / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": data.encoder.vocab_size}))
    return {"dataset": str(target), "out_dir": str(folder / "out")}
