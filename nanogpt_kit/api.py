"""All that a component may import from the toolkit: kinds, contexts, hooks, errors, and the parts of `nn`.

The parts of `nn` need torch and are imported on first use, so that importing this module stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from nanogpt_kit.core.errors import KitError, did_you_mean, no_panic, option_error
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
    Init,
    LayerContext,
    LiveRun,
    Model,
    ModelContext,
    Norm,
    Optimizer,
    Order,
    OrderContext,
    Parallel,
    ParallelModel,
    Position,
    Role,
    Sampler,
    Schedule,
    SplitLoss,
    Stream,
    TextContext,
    Tokenizer,
    WarmedUp,
    with_weight_decay,
)
from nanogpt_kit.core.options import Options, PathStr, PathStrs, RunContext, slot, slots
from nanogpt_kit.core.toml import read_text
from nanogpt_kit.corpus.files import TextFile
from nanogpt_kit.corpus.hash_split import HashSplitDataset, LongDocument
from nanogpt_kit.corpus.hashes import content_hash
from nanogpt_kit.corpus.hub import HubText
from nanogpt_kit.corpus.meta_pickle import read_meta_characters
from nanogpt_kit.corpus.sources import text_files

if TYPE_CHECKING:
    from nanogpt_kit.corpus.bpe import BPEEncoder
    from nanogpt_kit.corpus.library_decoder import LibraryDecoder, LibraryStream
    from nanogpt_kit.corpus.token_file import TokenFile
    from nanogpt_kit.nn.arithmetic import multiplies_bf16
    from nanogpt_kit.nn.cache import KVCache
    from nanogpt_kit.nn.loss import linear_cross_entropy, softcapped
    from nanogpt_kit.nn.optimizers import without_dynamo
    from nanogpt_kit.nn.parts import HeadLinear, Positional, ResidualLinear, TwoLayerMLP, transformer_blocks
    from nanogpt_kit.nn.sharded import clip_gradients, distribute_like
    from nanogpt_kit.nn.view import View

LAZY = {
    "BPEEncoder": "nanogpt_kit.corpus.bpe",
    "HeadLinear": "nanogpt_kit.nn.parts",
    "KVCache": "nanogpt_kit.nn.cache",
    "LibraryDecoder": "nanogpt_kit.corpus.library_decoder",
    "LibraryStream": "nanogpt_kit.corpus.library_decoder",
    "Positional": "nanogpt_kit.nn.parts",
    "ResidualLinear": "nanogpt_kit.nn.parts",
    "TokenFile": "nanogpt_kit.corpus.token_file",
    "TwoLayerMLP": "nanogpt_kit.nn.parts",
    "View": "nanogpt_kit.nn.view",
    "clip_gradients": "nanogpt_kit.nn.sharded",
    "distribute_like": "nanogpt_kit.nn.sharded",
    "linear_cross_entropy": "nanogpt_kit.nn.loss",
    "multiplies_bf16": "nanogpt_kit.nn.arithmetic",
    "softcapped": "nanogpt_kit.nn.loss",
    "transformer_blocks": "nanogpt_kit.nn.parts",
    "without_dynamo": "nanogpt_kit.nn.optimizers",
}

__all__ = [
    "MLP",
    "Attention",
    "BPEEncoder",
    "Callback",
    "Dataset",
    "Document",
    "Encoder",
    "EvaluateContext",
    "Evaluator",
    "Field",
    "HashSplitDataset",
    "HeadLinear",
    "HubText",
    "Init",
    "KVCache",
    "KitError",
    "LayerContext",
    "LibraryDecoder",
    "LibraryStream",
    "LiveRun",
    "LongDocument",
    "Model",
    "ModelContext",
    "Norm",
    "Optimizer",
    "Options",
    "Order",
    "OrderContext",
    "Parallel",
    "ParallelModel",
    "PathStr",
    "PathStrs",
    "Position",
    "Positional",
    "ResidualLinear",
    "Role",
    "RunContext",
    "Sampler",
    "Schedule",
    "SplitLoss",
    "Stream",
    "TextContext",
    "TextFile",
    "TokenFile",
    "Tokenizer",
    "TwoLayerMLP",
    "View",
    "WarmedUp",
    "clip_gradients",
    "content_hash",
    "did_you_mean",
    "distribute_like",
    "hookimpl",
    "linear_cross_entropy",
    "model_validator",
    "multiplies_bf16",
    "no_panic",
    "option_error",
    "read_meta_characters",
    "read_text",
    "slot",
    "slots",
    "softcapped",
    "text_files",
    "transformer_blocks",
    "with_weight_decay",
    "without_dynamo",
]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)
