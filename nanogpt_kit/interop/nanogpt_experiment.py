"""What a config file of nanoGPT trains, as the keys of an experiment, each with the options of nanoGPT that decide it.

nanoGPT's options are global: their defaults are those of train.py. Where train.py ignores an option, such as the sizes
of a model that is loaded, so does the experiment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.interop.nanogpt_config import NanoGPTConfig
from nanogpt_kit.interop.nanogpt_data import data_entries
from nanogpt_kit.interop.nanogpt_options import PUBLISHED, PUBLISHED_BLOCK_SIZE

DIGITS = 12  # of a ratio, so that 6e-5 / 6e-4 is 0.1
PRECISIONS = {"float32": "tf32", "bfloat16": "bf16", "float16": "fp16"}  # on CUDA, where train.py allows TF32
DEVICES = ("cpu", "cuda", "mps")
RESUMED = "resume"


@dataclass(frozen=True)
class Entry:
    """A key of the experiment; one with nanoGPT's value is left out where that is the default here, unless `stays`."""

    key: str  # dotted
    value: Any
    options: tuple[str, ...] = ()  # of nanoGPT, those that decide it
    comment: str = ""
    stays: bool = False


def entries_of(config: NanoGPTConfig, name: str, source: str | None) -> list[Entry]:
    """The experiment `name`, in the order of its file; `source`: text or prepared data to train on.

    Raises KitError with the faults of values that no experiment can express.
    """
    entries, faults = [Entry("name", name, stays=True)], list[Fault]()
    parts = (
        data_and_order(config, source),
        model_entries(config),
        optimizer_and_schedule(config),
        steps_and_machine(config),
        evaluations_and_checkpoints(config),
    )
    for part in parts:
        try:
            entries += part
        except KitError as error:
            faults += error.faults
    if faults:
        raise KitError(*faults)
    return entries


def value_fault(config: NanoGPTConfig, option: str, message: str) -> KitError:
    return KitError(Fault(f"{option} = {config[option]!r}: {message}", location=config.location(option)))


def data_and_order(config: NanoGPTConfig, source: str | None) -> Iterator[Entry]:
    for key, value, comment in data_entries(config, source):
        yield Entry(key, value, ("dataset",), comment, stays=True)
    yield Entry("order.use", "random", comment="nanoGPT's: windows are drawn with replacement", stays=True)


def is_published(config: NanoGPTConfig) -> bool:
    return config["init_from"] not in ("scratch", RESUMED)


def model_entries(config: NanoGPTConfig) -> Iterator[Entry]:
    start, block_size = str(config["init_from"]), config.whole("block_size")
    yield Entry("model.use", "gpt", stays=True)
    if not is_published(config):
        if start == RESUMED:
            comment = "a run imported from nanoGPT's checkpoint; steps and optimizer begin again"
            yield Entry("model.init_from", imported_name(config), ("init_from", "out_dir"), comment)
        for size in ("n_layer", "n_head", "n_embd"):
            yield Entry(f"model.{size}", config.whole(size), (size,), stays=True)
    elif start not in PUBLISHED:
        raise value_fault(config, "init_from", f"no such start of the training{did_you_mean(start, startings())}")
    elif block_size > PUBLISHED_BLOCK_SIZE:
        raise value_fault(config, "block_size", f"{start} has a context of {PUBLISHED_BLOCK_SIZE} tokens")
    else:
        yield Entry("model.init_from", start, ("init_from",), "downloaded unless a run has this name")
        for size, value in zip(("n_layer", "n_head", "n_embd"), PUBLISHED[start], strict=True):
            yield Entry(f"model.{size}", value, ("init_from",), stays=True)
    yield Entry("model.block_size", block_size, ("block_size",), stays=True)
    yield Entry("model.dropout", float(config.number("dropout")), ("dropout",))
    if is_published(config):
        comment = "that of GPT-2; nanoGPT computes the exact one"
        yield Entry("model.mlp", {"use": "gelu", "approximate": "tanh"}, ("init_from",), comment)
    else:
        yield Entry("model.bias", config["bias"], ("bias",))


def startings() -> list[str]:
    return ["scratch", RESUMED, *PUBLISHED]


def imported_name(config: NanoGPTConfig) -> str:
    """The name of the run that `nanogpt-kit import` makes of a checkpoint of nanoGPT."""
    out_dir = config.values["out_dir"]
    if not isinstance(out_dir, str) or not out_dir.isprintable():
        message = "out_dir should be the folder of the checkpoint that init_from = 'resume' reads"
        raise KitError(Fault(message, location=config.location("out_dir")))
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(out_dir).name)
    return name.strip("-")[-80:].strip("-") or "nanogpt"


def optimizer_and_schedule(config: NanoGPTConfig) -> Iterator[Entry]:
    rate, lowest = float(config.number("learning_rate")), float(config.number("min_lr"))
    betas = [float(config.number("beta1")), float(config.number("beta2"))]
    yield Entry("optimizer.use", "adamw", stays=True)
    yield Entry("optimizer.lr", rate, ("learning_rate",), stays=True)
    yield Entry("optimizer.betas", betas, ("beta1", "beta2"), stays=True)
    yield Entry("optimizer.weight_decay", float(config.number("weight_decay")), ("weight_decay",), stays=True)
    if not has_decay(config):
        yield Entry("schedule.use", "constant", ("decay_lr",), stays=True)
        return
    if lowest > rate:
        message = (
            f"it is above learning_rate = {rate!r}, so that the rate would rise; lower it, or set decay_lr = False"
        )
        location = config.location("min_lr", "learning_rate")
        raise KitError(Fault(f"min_lr = {lowest!r}: {message}", location=location))
    steps, end = config.whole("max_iters"), config.whole("lr_decay_iters")
    yield Entry("schedule.use", "cosine", stays=True)
    yield Entry("schedule.warmup_steps", config.whole("warmup_iters"), ("warmup_iters",), stays=True)
    if end != steps:
        late = "after the last step, so that the rate does not reach its minimum" if end > steps else ""
        yield Entry("schedule.decay_steps", end, ("lr_decay_iters", "max_iters"), late)
    fraction = float(f"{lowest / rate:.{DIGITS}g}") if rate > 0 else 0.0
    comment = f"min_lr = {lowest:g} divided by learning_rate"
    yield Entry("schedule.final_fraction", fraction, ("min_lr", "learning_rate"), comment, stays=True)


def has_decay(config: NanoGPTConfig) -> bool:
    return bool(config["decay_lr"]) and not config["eval_only"]


def steps_and_machine(config: NanoGPTConfig) -> Iterator[Entry]:
    batch, accumulation = config.whole("batch_size"), config.whole("gradient_accumulation_steps")
    if config["eval_only"]:
        yield Entry("train.steps", 0, ("eval_only",), "only evaluate", stays=True)
    else:
        yield Entry("train.steps", config.whole("max_iters"), ("max_iters",), stays=True)
    tokens = batch * accumulation * config.whole("block_size")
    comment = f"{batch * accumulation:,} windows of {config.whole('block_size'):,}"
    options = ("batch_size", "gradient_accumulation_steps", "block_size")
    yield Entry("train.batch_tokens", tokens, options, comment, stays=True)
    if accumulation > 1:
        yield Entry("train.micro_batch_size", batch, ("batch_size",), stays=True)
    yield Entry("train.grad_clip", float(config.number("grad_clip")), ("grad_clip",))
    yield from device_and_precision(config)
    if not config["compile"]:
        yield Entry("train.compile", "off", ("compile",))
    yield Entry("train.log_every_steps", config.whole("log_interval"), ("log_interval",))


def device_and_precision(config: NanoGPTConfig) -> Iterator[Entry]:
    """The device, except the first choice of both programs, and the precision, except where nanoGPT chooses it."""
    device, dtype = str(config["device"]).partition(":")[0], str(config["dtype"])
    if device not in DEVICES:
        raise value_fault(config, "device", f"no such device{did_you_mean(device, DEVICES)}")
    if dtype not in PRECISIONS:
        raise value_fault(config, "dtype", f"no such type{did_you_mean(dtype, PRECISIONS)}")
    if device != "cuda":
        yield Entry("train.device", device, ("device",))
        comment = "nanoGPT has other types on CUDA only; `auto` may be faster"
        yield Entry("train.precision", "fp32", ("device",), comment)
    elif "dtype" in config.lines:
        comment = "float32 with products in TF32, as train.py has it" if dtype == "float32" else ""
        yield Entry("train.precision", PRECISIONS[dtype], ("dtype",), comment)


def evaluations_and_checkpoints(config: NanoGPTConfig) -> Iterator[Entry]:
    every = config.whole("eval_interval")
    if config["eval_only"]:
        yield Entry("sample.num_samples", 0, ("eval_only",))
        return
    yield Entry("evaluate.every_steps", every, ("eval_interval",), stays=True)
    if config["always_save_checkpoint"]:
        yield Entry("checkpoint.every_steps", every, ("eval_interval", "always_save_checkpoint"), stays=True)
    else:
        options, end = ("always_save_checkpoint",), max(1, config.whole("max_iters"))
        yield Entry("checkpoint.every_steps", end, options, "the last step; besides, the best one", True)
        yield Entry("checkpoint.keep_best", "val/loss", options)
    yield Entry("checkpoint.keep_last", 1, ("always_save_checkpoint",), "nanoGPT keeps a single checkpoint")
