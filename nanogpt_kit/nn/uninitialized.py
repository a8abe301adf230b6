"""Building models without initializing weights: to be loaded over, or on the meta device."""

from __future__ import annotations

import inspect
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nanogpt_kit.core.errors import Fault, Key, KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Model, ModelContext
from nanogpt_kit.core.layers import Layers

MAX_MODEL_BYTES = 10**15  # more than the GPUs of any one cluster hold


def build_uninitialized(model: Model, ctx: ModelContext, device: str = "cpu") -> nn.Module:
    """A model with undefined weights. Raises KitError where its parts do not fit together or memory is too small."""
    most = None if device == "meta" else machine_memory_bytes()
    module = None if most is None else build_on_meta(model, ctx.vocab_size)
    if most is not None and module is not None:
        check_model_size(model, tensor_bytes(module), most, "of this machine's memory")
    with torch.device(device), SkipInit():
        return model.build(ctx)


def build_on_meta(model: Model, vocab_size: int = 1) -> nn.Module | None:
    """A model without memory: shapes only. Raises KitError where its parts do not fit together.

    None where a part needs real numbers while it is built, as parts of plugins may.
    """
    try:
        return build_uninitialized(model, ModelContext(vocab_size=vocab_size), "meta")
    except KitError:
        raise
    except Exception:  # from a component's code, which may work on a real device
        return None


def tensor_bytes(module: nn.Module) -> int:
    """Bytes of weights and buffers, each counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def check_model_size(model: Model, needed: int, most: int, what: str, purpose: str = "") -> None:
    """Raises KitError where `needed` bytes exceed `most`; it names the options that make the model large.

    `purpose` says what the bytes are, where they are more than the weights.
    """
    if needed > most:
        sizes = {key: value for key, value in model if isinstance(value, int) and not isinstance(value, bool)}
        written = model.model_fields_set & sizes.keys() or sizes.keys()
        largest = max(sorted(written), key=lambda key: sizes[key], default="")
        options = ", ".join(f"{key} = {value}" for key, value in sizes.items())
        bytes_text = f"{needed:,} bytes for {purpose}" if purpose else f"{needed:,} bytes"
        reason = f"needs at least {bytes_text} with {options}, more than the {most:,} {what}; make it smaller"
        raise KitError(Fault(f"the model {reason}", f"model.{largest}" if largest else "model"))


def machine_memory_bytes() -> int | None:
    """Memory of this machine, swap included, in use or not; None where the system does not report it."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    with suppress(OSError, StopIteration):  # only Linux has this file
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("SwapTotal"))
    return total


def check_model_parts(experiment: Experiment, vocab_size: int = 1) -> nn.Module | None:
    """Builds the model on the meta device, before any data is touched.

    Raises KitError where its parts do not fit together, and where it is larger than any machine.
    """
    try:
        module = build_on_meta(experiment.model, vocab_size)
        if module is not None:
            check_model_size(experiment.model, tensor_bytes(module), MAX_MODEL_BYTES, "bytes")
    except KitError as error:
        raise KitError(*(add_model_location(one, experiment) for one in error.faults)) from None
    takes = {"segments"} if module is None else inspect.signature(module.forward).parameters
    if experiment.model.document_mask and "segments" not in takes:
        use, place = experiment.entry_of(experiment.model).name, experiment.location(("model", "document_mask"))
        reason = f"{use} cannot keep documents apart: its forward takes no segments"
        raise KitError(Fault(reason, "model.document_mask", place))
    return module


def add_model_location(fault: Fault, experiment: Experiment) -> Fault:
    """The fault at the location of its option; of one between parts, at what was written last of the model."""
    if fault.key:
        return Fault(fault.message, fault.key, fault.location or experiment.location(tuple(fault.key.split("."))))
    key = last_written(experiment.layers, ("model",))
    heights = experiment.layers.height
    use: Key = ("model", "use")
    is_of_one_layer = key == ("model",) and heights(use) == heights(key)
    return Fault(fault.message, dotted(key), fault.location or experiment.location(use if is_of_one_layer else key))


def last_written(layers: Layers, table: Key) -> Key:
    """The only option in a table that the highest of its layers has written; the table where there are several."""
    inside = [key for key in layers.heights if key[: len(table)] == table]
    options = [key for key in inside if not any(other[:-1] == key for other in inside)]
    top = max(map(layers.height, options), default=0)
    highest = [key for key in options if layers.height(key) == top]
    return highest[0] if len(highest) == 1 else table


class SkipInit(TorchFunctionMode):
    """Skips torch's initialization of parameters: seconds for a large model, and on meta an import of dynamo."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if isinstance(tensor, nn.Parameter):  # buffers may not be loaded later, so they are filled
                return tensor
        return func(*args, **kwargs)
