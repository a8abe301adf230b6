"""Everything a component may import from the toolkit: base classes, contexts, hooks, errors, parts of models and data.

Names that need torch or a large library are imported on first use, so that importing this module stays fast.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from nanogpt_kit.core.array_cache import computed_once
from nanogpt_kit.core.deprecation import Deprecation
from nanogpt_kit.core.errors import KitError, option_error
from nanogpt_kit.core.hooks import hookimpl
from nanogpt_kit.core.kinds import (
    MLP,
    Attention,
    Callback,
    Dataset,
    Document,
    Encoder,
    EvaluateContext,
    Evaluator,
    ExportedModel,
    Format,
    ImportedModel,
    Init,
    LayerContext,
    LiveRun,
    Loss,
    MarkedText,
    MemorySampler,
    Mixer,
    MixerContext,
    Model,
    ModelContext,
    Multipliers,
    Norm,
    Optimizer,
    Order,
    OrderContext,
    PackedOrder,
    PackedWindows,
    Parallel,
    ParameterShape,
    Position,
    Sampler,
    Schedule,
    TextContext,
    Tokenizer,
    TrainingBatch,
    WarmupSchedule,
)
from nanogpt_kit.core.kinds.mixer_options import check_mixer_options
from nanogpt_kit.core.layered_slots import Layered, listed, of_layer
from nanogpt_kit.core.options import Options, PathStr, RunContext, slot
from nanogpt_kit.corpus.hash_split import HashSplitDataset
from nanogpt_kit.corpus.hashes import content_hash
from nanogpt_kit.corpus.hub import HubText
from nanogpt_kit.corpus.sources import text_files
from nanogpt_kit.corpus.text_files import TextFile
from nanogpt_kit.system.json_files import read_json

if TYPE_CHECKING:
    from nanogpt_kit import load_run, open_run
    from nanogpt_kit.corpus.bpe import BPEEncoder
    from nanogpt_kit.corpus.library_encoder import LibraryEncoder
    from nanogpt_kit.corpus.token_file import TokenFile
    from nanogpt_kit.nn.arithmetic import multiplies_bf16
    from nanogpt_kit.nn.cache import KVCache
    from nanogpt_kit.nn.combined_optimizer import CombinedOptimizer
    from nanogpt_kit.nn.loss import linear_cross_entropy, regularized_cross_entropy
    from nanogpt_kit.nn.parallel import ParallelModel
    from nanogpt_kit.nn.parts import FusedLinear, HeadLinear, Positional, ResidualLinear, TwoLayerMLP
    from nanogpt_kit.nn.tensor_files import read_safetensors, read_torch_file
    from nanogpt_kit.nn.training_loss import TrainingLoss, add_extras, take_extra
    from nanogpt_kit.nn.view import View

DEPRECATED: dict[str, Deprecation] = {}  # by old name
LAZY = {
    "BPEEncoder": "nanogpt_kit.corpus.bpe",
    "CombinedOptimizer": "nanogpt_kit.nn.combined_optimizer",
    "FusedLinear": "nanogpt_kit.nn.parts",
    "HeadLinear": "nanogpt_kit.nn.parts",
    "KVCache": "nanogpt_kit.nn.cache",
    "LibraryEncoder": "nanogpt_kit.corpus.library_encoder",
    "ParallelModel": "nanogpt_kit.nn.parallel",
    "Positional": "nanogpt_kit.nn.parts",
    "ResidualLinear": "nanogpt_kit.nn.parts",
    "TokenFile": "nanogpt_kit.corpus.token_file",
    "TrainingLoss": "nanogpt_kit.nn.training_loss",
    "TwoLayerMLP": "nanogpt_kit.nn.parts",
    "View": "nanogpt_kit.nn.view",
    "add_extras": "nanogpt_kit.nn.training_loss",
    "linear_cross_entropy": "nanogpt_kit.nn.loss",
    "load_run": "nanogpt_kit",  # from above, by name, as open_run: verbs of plugins need runs and their models
    "multiplies_bf16": "nanogpt_kit.nn.arithmetic",
    "open_run": "nanogpt_kit",
    "read_safetensors": "nanogpt_kit.nn.tensor_files",
    "read_torch_file": "nanogpt_kit.nn.tensor_files",
    "regularized_cross_entropy": "nanogpt_kit.nn.loss",
    "take_extra": "nanogpt_kit.nn.training_loss",
}

__all__ = [
    "MLP",
    "Attention",
    "BPEEncoder",
    "Callback",
    "CombinedOptimizer",
    "Dataset",
    "Document",
    "Encoder",
    "EvaluateContext",
    "Evaluator",
    "ExportedModel",
    "Field",
    "Format",
    "FusedLinear",
    "HashSplitDataset",
    "HeadLinear",
    "HubText",
    "ImportedModel",
    "Init",
    "KVCache",
    "KitError",
    "LayerContext",
    "Layered",
    "LibraryEncoder",
    "LiveRun",
    "Loss",
    "MarkedText",
    "MemorySampler",
    "Mixer",
    "MixerContext",
    "Model",
    "ModelContext",
    "Multipliers",
    "Norm",
    "Optimizer",
    "Options",
    "Order",
    "OrderContext",
    "PackedOrder",
    "PackedWindows",
    "Parallel",
    "ParallelModel",
    "ParameterShape",
    "PathStr",
    "Position",
    "Positional",
    "ResidualLinear",
    "RunContext",
    "Sampler",
    "Schedule",
    "TextContext",
    "TextFile",
    "TokenFile",
    "Tokenizer",
    "TrainingBatch",
    "TrainingLoss",
    "TwoLayerMLP",
    "View",
    "WarmupSchedule",
    "add_extras",
    "check_mixer_options",
    "computed_once",
    "content_hash",
    "hookimpl",
    "linear_cross_entropy",
    "listed",
    "load_run",
    "model_validator",
    "multiplies_bf16",
    "of_layer",
    "open_run",
    "option_error",
    "read_json",
    "read_safetensors",
    "read_torch_file",
    "regularized_cross_entropy",
    "slot",
    "take_extra",
    "text_files",
]


def __getattr__(name: str) -> Any:
    if deprecation := DEPRECATED.get(name):
        deprecation.warn_author(f"nanogpt_kit.api.{name}", f"nanogpt_kit.api.{deprecation.replacement}")
        return getattr(sys.modules[__name__], deprecation.replacement)
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)
