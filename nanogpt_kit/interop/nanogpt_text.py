"""The experiment file that a config file of nanoGPT becomes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import tomli_w

from nanogpt_kit.core.errors import Fault, Key, KitError, key_parts, printable
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import ExperimentKeys
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.interop.nanogpt_config import NanoGPTConfig, read_nanogpt_config
from nanogpt_kit.interop.nanogpt_data import TEXTS
from nanogpt_kit.interop.nanogpt_experiment import RESUMED, Entry, entries_of, has_decay, imported_name, is_published

COMMENT_COLUMN = 35  # as in the experiments that are shipped
GROUPED = 10_000  # from here on the digits of a number are grouped


@dataclass(frozen=True)
class ConvertedConfig:
    text: str  # of the experiment file
    checkpoint: str | None  # nanoGPT's, which has to be imported first
    imported_as: str
    token_folder: str | None  # the prepared data that it names


def experiment_of_nanogpt(path: Path, name: str, source: str | None = None) -> ConvertedConfig:
    """The experiment `name`, which trains what a config file of nanoGPT does.

    `source`: the text, or the folder of prepared data. Raises KitError with every fault of the stage that found some:
    what the file contains; values that no experiment has; names, types, bounds and relations of the experiment.
    """
    config = read_nanogpt_config(path)
    entries = entries_of(config, name, source)
    experiment = validated_experiment(config, entries)
    written = [entry for entry in entries if entry.stays or not is_default(experiment, entry)]
    text = "".join([*map(comment_line, header_comments(config, name)), *lines_of_tables(written)])
    values = {entry.key: entry.value for entry in entries}
    return ConvertedConfig(
        text,
        checkpoint_of(config) if config["init_from"] == RESUMED else None,
        values.get("model.init_from", ""),
        None if config["dataset"] in TEXTS else values["dataset.source"],
    )


def checkpoint_of(config: NanoGPTConfig) -> str:
    return str(Path(str(config["out_dir"]), "ckpt.pt"))


def validated_experiment(config: NanoGPTConfig, entries: list[Entry]) -> Experiment:
    """The experiment. Raises KitError with its faults, each at the option of nanoGPT that decides it."""
    options = {key_parts(entry.key): entry.options for entry in entries}
    values: dict[str, Any] = {}
    for entry in entries:
        *path, last = entry.key.split(".")
        table = values
        for part in path:
            table = table.setdefault(part, {})
        table[last] = entry.value

    def options_of(key: Key) -> tuple[str, ...]:
        return next((options[key[:n]] for n in range(len(key), 0, -1) if key[:n] in options), ())

    layers = Layers(ExperimentKeys(Experiment))
    try:
        layers.add(values, lambda key: config.location(*options_of(key)))
        return Experiment.of(layers, Path())
    except KitError as error:
        faults = []
        for fault in error.faults:
            names = ", ".join(options_of(key_parts(fault.key)))
            faults.append(Fault(fault.message, f"{names} ({fault.key})" if names else fault.key, fault.location))
        raise KitError(*faults) from None


def is_default(experiment: Experiment, entry: Entry) -> bool:
    """Whether the experiment is the same without the entry."""
    *path, last = entry.key.split(".")
    table: Any = experiment
    for part in path:
        table = getattr(table, part)
    return bool(type(table).model_fields[last].default == entry.value)


def header_comments(config: NanoGPTConfig, name: str) -> Iterator[str]:
    """Comments: where the experiment comes from, and the options of that file that it leaves out, with the reasons."""
    yield f"The training of nanoGPT's {config.path.name}."
    if config["init_from"] == RESUMED:
        command = shlex.join(["nanogpt-kit", "import", checkpoint_of(config), imported_name(config)])
        yield f"Before its first run, `{command}` takes the weights of that checkpoint."
    reasons = {option: reason for option, reason in left_out_options(config, name) if option in config.lines}
    if reasons:
        yield "What that file sets, and this one does not:"
    for reason, options in groupby(reasons, reasons.__getitem__):
        yield f"- {', '.join(options)}: {reason}"


def left_out_options(config: NanoGPTConfig, name: str) -> Iterator[tuple[str, str]]:
    yield "out_dir", f"a run has a new folder below runs/{name}/"
    yield "eval_iters", "an evaluation covers the whole validation split, and no part of the training split"
    for option in ("wandb_log", "wandb_project", "wandb_run_name"):
        yield option, "curves are written for TensorBoard; other trackers are callbacks of plugins"
    if is_published(config):
        for option in ("n_layer", "n_head", "n_embd", "bias"):
            yield option, "those of the published model count"
    if config["eval_only"]:
        for option in ("max_iters", "eval_interval", "always_save_checkpoint", "decay_lr"):
            yield option, "nothing is trained"
    if not has_decay(config):
        for option in ("warmup_iters", "lr_decay_iters", "min_lr"):
            yield option, "the learning rate is constant, without warmup"
    yield "backend", "processes communicate by nccl on GPUs, by gloo elsewhere"
    device = str(config["device"])
    if ":" in device:
        yield "device", "which GPU is used is chosen with CUDA_VISIBLE_DEVICES"
    elif device == "cuda":
        yield "device", "a GPU is used where there is one"
    else:
        yield "dtype", "without CUDA nanoGPT computes in float32"
    if config["compile"]:
        yield "compile", "a run that gains from it is compiled"


def lines_of_tables(entries: list[Entry]) -> Iterator[str]:
    """The lines of the experiment, a table for each first part of a key."""
    for table, members in groupby(entries, lambda entry: entry.key.rpartition(".")[0]):
        if table:
            yield f"\n[{table}]\n"
        for entry in members:
            line = f"{entry.key.rpartition('.')[2]} = {toml_value(entry.value)}"
            comment = f"{line:{COMMENT_COLUMN - 2}}  # {one_line(entry.comment)}" if entry.comment else line
            yield f"{comment}\n"


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml_value(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, int) and not isinstance(value, bool) and value >= GROUPED:
        return f"{value:_}"
    return printable(tomli_w.dumps({"x": value}).partition("= ")[2].strip())


def comment_line(text: str) -> str:
    return f"# {one_line(text)}\n"


def one_line(text: str) -> str:
    """As a comment of TOML may have it, whatever names it contains."""
    return printable(text).replace("\n", "\\n")
