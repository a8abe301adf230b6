"""One base class per kind of component. A component *is* its options; its methods are the behaviour.

Kinds import no torch: tensors and modules appear in signatures only. Contexts are frozen and may gain fields; the
methods of a component never gain required arguments.
"""

from __future__ import annotations

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import KitError, did_you_mean
from nanogpt_kit.core.kinds.init import Init, ParameterShape
from nanogpt_kit.core.kinds.interchange import ExportedModel, Format, ImportedModel
from nanogpt_kit.core.kinds.marked_text import MarkedText
from nanogpt_kit.core.kinds.network import (
    MLP,
    Attention,
    LayerContext,
    Loss,
    Mixer,
    MixerContext,
    Model,
    ModelContext,
    Multipliers,
    Norm,
    Position,
    Role,
)
from nanogpt_kit.core.kinds.observation import (
    Callback,
    EvaluateContext,
    Evaluator,
    LiveRun,
    MemorySampler,
    Sampler,
    SplitLoss,
    StepScalars,
    TrainingBatch,
)
from nanogpt_kit.core.kinds.optimization import (
    Optimizer,
    Parallel,
    Schedule,
    WarmupSchedule,
    WrappedModel,
)
from nanogpt_kit.core.kinds.order import Order, OrderContext, PackedOrder, PackedWindows
from nanogpt_kit.core.kinds.parameter_group import ParameterGroup
from nanogpt_kit.core.kinds.text import Dataset, Document, Encoder, Stream, TextContext, Tokenizer
from nanogpt_kit.core.options import Component

__all__ = [
    "KINDS",
    "MLP",
    "Attention",
    "Callback",
    "Dataset",
    "Document",
    "Encoder",
    "EvaluateContext",
    "Evaluator",
    "ExportedModel",
    "Format",
    "ImportedModel",
    "Init",
    "LayerContext",
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
    "Order",
    "OrderContext",
    "PackedOrder",
    "PackedWindows",
    "Parallel",
    "ParameterGroup",
    "ParameterShape",
    "Position",
    "Role",
    "Sampler",
    "Schedule",
    "SplitLoss",
    "StepScalars",
    "Stream",
    "TextContext",
    "Tokenizer",
    "TrainingBatch",
    "WarmupSchedule",
    "WrappedModel",
    "load_entry",
]

KINDS: dict[str, type[Component]] = {
    base.kind: base
    for base in (
        *(Dataset, Tokenizer, Order),
        *(Model, Init, Mixer, Attention, Position, Norm, MLP, Loss),
        *(Optimizer, Schedule, Parallel),
        *(Sampler, Evaluator, Callback),
        Format,
    )
}


def load_entry(entry: Entry) -> type[Component]:
    """Imports the class of an entry. Raises KitError where its kind is unknown or it does not derive from its base."""
    if entry.kind not in KINDS:
        raise KitError(f"{entry.origin}: unknown kind {entry.kind!r}{did_you_mean(entry.kind, KINDS)}")
    return entry.load(KINDS[entry.kind])
