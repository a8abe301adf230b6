"""Models whose weights come from elsewhere, or are not wanted at all: built without drawing any."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nanogpt_kit.core.kinds import Model, ModelContext


def blank(model: Model, vocab_size: int, device: str = "cpu") -> nn.Module:
    """With undefined weights, to be loaded over. Raises KitError where its parts do not go together."""
    with torch.device(device), Undrawn():
        return model.build(ModelContext(vocab_size=vocab_size))


def on_meta(model: Model, vocab_size: int = 1) -> nn.Module:
    """Without memory: shapes only. Raises KitError where its parts do not go together."""
    return blank(model, vocab_size, "meta")


class Undrawn(TorchFunctionMode):
    """Leaves out torch's own initial draws, which take seconds for a large model, and an import of dynamo on meta."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
