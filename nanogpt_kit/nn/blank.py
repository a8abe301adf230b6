"""Models whose weights come from elsewhere, or are not wanted at all: built without drawing any."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Model, ModelContext


def blank(model: Model, vocab_size: int, device: str = "cpu") -> nn.Module:
    """With undefined weights, to be loaded over. Raises KitError where its parts do not go together."""
    with torch.device(device), Undrawn():
        return model.build(ModelContext(vocab_size=vocab_size))


def on_meta(model: Model, vocab_size: int = 1) -> nn.Module | None:
    """Without memory: shapes only. Raises KitError where its parts do not go together.

    None where a part needs real numbers while it is built, as the code of plugins may.
    """
    try:
        return blank(model, vocab_size, "meta")
    except KitError:
        raise
    except Exception:  # of a component's own code, which on a real device may be right
        return None


def check_parts(experiment: Experiment) -> None:
    """Puts the model together, before any data is touched. Raises KitError where its parts do not go together."""
    try:
        module = on_meta(experiment.model)
    except KitError as error:
        place = experiment.place(("model", "use"))
        raise KitError(*(Fault(one.message, one.key or "model", one.place or place) for one in error.faults)) from None
    takes = {"segments"} if module is None else inspect.signature(module.forward).parameters
    if experiment.model.document_mask and "segments" not in takes:
        use, place = experiment.entry_of(experiment.model).name, experiment.place(("model", "document_mask"))
        reason = f"{use} cannot keep documents apart: its forward takes no segments"
        raise KitError(Fault(reason, "model.document_mask", place))


class Undrawn(TorchFunctionMode):
    """Leaves out torch's initial draws of parameters: seconds for a large model, and on meta an import of dynamo."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if isinstance(tensor, nn.Parameter):  # buffers are not loaded, so they are filled
                return tensor
        return func(*args, **kwargs)
