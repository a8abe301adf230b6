"""A model of another program, read from a file or folder: its experiment, and its weights for our model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt_kit.checkpoint.fit import check_weights_match
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import ExperimentKeys
from nanogpt_kit.core.kinds import ImportedModel
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.made_with import MadeWith
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.interop.formats import NamedFormat
from nanogpt_kit.nn.uninitialized import build_on_meta
from nanogpt_kit.runs.recorded_experiment import load_made_with

FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # fewer bits need scales


@dataclass(frozen=True)
class Source:
    """A model of another program, as it was read from a file or folder."""

    path: Path
    model: ImportedModel

    @property
    def token_rows(self) -> int | None:
        """The number of rows that its weights have for tokens; None where they are as the model has them."""
        found = [self.model.weights[name].size(0) for name in self.model.token_weights if name in self.model.weights]
        return found[0] if found else None

    @property
    def has_experiment_file(self) -> bool:
        """Whether it comes with its whole experiment, and so with the tokenizer that it was trained with."""
        return isinstance(self.model.experiment, Path)

    def tokenizer_state(self, use: str) -> Mapping[str, Any] | None:
        """The state of its tokenizer, if `use` is the name of that."""
        tables = self.model.experiment
        is_same = isinstance(tables, Path) or tables.get("tokenizer", {}).get("use") == use
        return self.model.tokenizer_state if is_same else None


def read_source(path: Path, format: NamedFormat) -> Source:
    """Reads a model and checks what was read. Raises KitError."""
    read = format.format.read(path)
    for name in read.token_weights:
        shape = list(read.weights[name].shape) if name in read.weights else [0, 0]
        if len(shape) != 2:
            raise KitError(f"{path}: {name} is {shape}; expected a matrix with a row for each token")
    for name, value in read.weights.items():
        if value.dtype not in FLOAT_TYPES and (value.is_floating_point() or value.is_complex()):
            raise KitError(f"{path}: {name} is {value.dtype}; expected {', '.join(map(str, FLOAT_TYPES))}")
    return Source(path, read)


def default_experiment_name(path: Path) -> str:
    """A name for the experiment, from that of the folder."""
    folder = path.resolve()
    folder = folder.parent if path.is_file() else folder
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-._") or "imported"


def experiment_of_import(source: Source, overrides: Sequence[str], trust_code: bool = False) -> Experiment:
    """The experiment file of the source; else one with its tables and the required ones, and with 0 steps, so that it
    only evaluates."""
    tables = source.model.experiment
    if isinstance(tables, Path):
        if any(re.match(r"tokenizer\b", text) for text in overrides):
            reason = f"the model of {source.path} has its own tokenizer, so none can be given"
            raise KitError(Fault(reason, "tokenizer", COMMAND_LINE))
        return load_made_with(MadeWith(), tables, overrides, trust_code)
    layers = Layers(ExperimentKeys(Experiment))
    values: dict[str, Any] = {
        "name": default_experiment_name(source.path),
        "dataset": {"use": "python_stdlib"},
        "optimizer": {"use": "adamw"},
        "schedule": {"use": "constant"},
        **{name: dict(table) if isinstance(table, Mapping) else table for name, table in tables.items()},
    }
    values.setdefault("train", {"steps": 0, "batch_tokens": values["model"]["block_size"]})
    layers.add(values, lambda _: str(source.path))
    layers.override(overrides)
    return Experiment.of(layers, Path.cwd(), trust_code)


def fit_token_weights(source: Source, experiment: Experiment, vocab_size: int) -> dict[str, Tensor]:
    """The weights in fp32, with as many token rows as our model has; rows beyond the vocabulary are never used.

    Raises KitError if they do not fit, before anything is allocated.
    """
    shapes = build_on_meta(experiment.model, vocab_size)
    read = source.model.weights.items()
    weights = {name: value.float() if value.is_floating_point() else value for name, value in read}
    ours = {} if shapes is None else shapes.state_dict()
    for name in source.model.token_weights:
        if name in weights and name in ours and source.token_rows is not None:
            padding = ours[name].size(0) - source.token_rows  # negative: surplus rows are cut off
            weights[name] = F.pad(weights[name], (0, 0, 0, padding))
    if shapes is not None:
        check_weights_match(shapes, weights, str(source.path))
    not_finite = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if not_finite:
        raise KitError(f"{source.path}: these tensors contain NaN or infinity: {', '.join(not_finite)}")
    return weights
