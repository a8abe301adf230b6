"""All that a component may import from the toolkit: kinds, contexts, hooks, errors, and the parts of `nn`.

The parts of `nn` need torch and are imported on first use, so that importing this module stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from nanogpt_kit.core.contents import content_hash
from nanogpt_kit.core.errors import KitError, fault, nearest, no_panic
from nanogpt_kit.core.hooks import hookimpl
from nanogpt_kit.core.hub import HubText
from nanogpt_kit.core.kinds import (
    MLP,
    Attention,
    Callback,
    Dataset,
    Divided,
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
    Position,
    Role,
    Sampler,
    Schedule,
    SplitLoss,
    Spread,
    Stream,
    TextContext,
    Tokenizer,
    WarmedUp,
    decayed,
)
from nanogpt_kit.core.kinds.divided import LongDocument
from nanogpt_kit.core.options import Options, PathStr, PathStrs, RunContext, slot, slots
from nanogpt_kit.core.plain_pickle import characters
from nanogpt_kit.core.sources import text_files
from nanogpt_kit.core.text_files import TextFile
from nanogpt_kit.core.toml import read_text

if TYPE_CHECKING:
    from nanogpt_kit.core.bpe import BPEEncoder
    from nanogpt_kit.core.library_decoder import LibraryDecoder, LibraryStream
    from nanogpt_kit.core.token_file import TokenFile
    from nanogpt_kit.nn.arithmetic import multiplies_bf16
    from nanogpt_kit.nn.cache import KVCache
    from nanogpt_kit.nn.loss import linear_cross_entropy, softcapped
    from nanogpt_kit.nn.optimizers import uncompiled
    from nanogpt_kit.nn.parts import HeadLinear, Positional, ResidualLinear, TwoLayerMLP, blocks
    from nanogpt_kit.nn.spread import clip, laid_out
    from nanogpt_kit.nn.view import View

LAZY = {
    "BPEEncoder": "nanogpt_kit.core.bpe",
    "HeadLinear": "nanogpt_kit.nn.parts",
    "KVCache": "nanogpt_kit.nn.cache",
    "LibraryDecoder": "nanogpt_kit.core.library_decoder",
    "LibraryStream": "nanogpt_kit.core.library_decoder",
    "Positional": "nanogpt_kit.nn.parts",
    "ResidualLinear": "nanogpt_kit.nn.parts",
    "TokenFile": "nanogpt_kit.core.token_file",
    "TwoLayerMLP": "nanogpt_kit.nn.parts",
    "View": "nanogpt_kit.nn.view",
    "blocks": "nanogpt_kit.nn.parts",
    "clip": "nanogpt_kit.nn.spread",
    "laid_out": "nanogpt_kit.nn.spread",
    "linear_cross_entropy": "nanogpt_kit.nn.loss",
    "multiplies_bf16": "nanogpt_kit.nn.arithmetic",
    "softcapped": "nanogpt_kit.nn.loss",
    "uncompiled": "nanogpt_kit.nn.optimizers",
}

__all__ = [
    "MLP",
    "Attention",
    "BPEEncoder",
    "Callback",
    "Dataset",
    "Divided",
    "Document",
    "Encoder",
    "EvaluateContext",
    "Evaluator",
    "Field",
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
    "Spread",
    "Stream",
    "TextContext",
    "TextFile",
    "TokenFile",
    "Tokenizer",
    "TwoLayerMLP",
    "View",
    "WarmedUp",
    "blocks",
    "characters",
    "clip",
    "content_hash",
    "decayed",
    "fault",
    "hookimpl",
    "laid_out",
    "linear_cross_entropy",
    "model_validator",
    "multiplies_bf16",
    "nearest",
    "no_panic",
    "read_text",
    "slot",
    "slots",
    "softcapped",
    "text_files",
    "uncompiled",
]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)
