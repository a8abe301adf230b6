"""Models whose weights come from elsewhere, or are not wanted at all: built without drawing any."""

from __future__ import annotations

import inspect
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Model, ModelContext

LARGEST = 10**15  # bytes of a model: more than the GPUs of any one cluster hold


def build_uninitialized(model: Model, vocab_size: int, device: str = "cpu") -> nn.Module:
    """With undefined weights, to be loaded over. Raises KitError where its parts do not go together, and where it is
    larger than this machine's memory.
    """
    most = None if device == "meta" else memory_bytes()
    module = None if most is None else build_on_meta(model, vocab_size)
    if most is not None and module is not None:
        check_size(model, size_bytes(module), most, "of this machine's memory")
    with torch.device(device), Undrawn():
        return model.build(ModelContext(vocab_size=vocab_size))


def build_on_meta(model: Model, vocab_size: int = 1) -> nn.Module | None:
    """Without memory: shapes only. Raises KitError where its parts do not go together.

    None where a part needs real numbers while it is built, as the code of plugins may.
    """
    try:
        return build_uninitialized(model, vocab_size, "meta")
    except KitError:
        raise
    except Exception:  # of a component's own code, which on a real device may be right
        return None


def size_bytes(module: nn.Module) -> int:
    """Of its weights and buffers, each once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def check_size(model: Model, needed: int, most: int, what: str) -> None:
    """Raises KitError where `needed` bytes are more than the `most`; it names the options that make the model large."""
    if needed > most:
        sizes = {key: value for key, value in model if isinstance(value, int) and not isinstance(value, bool)}
        written = model.model_fields_set & sizes.keys() or sizes.keys()
        largest = max(sorted(written), key=lambda key: sizes[key], default="")
        options = ", ".join(f"{key} = {value}" for key, value in sizes.items())
        reason = f"needs at least {needed:,} bytes with {options}, and {most:,} {what} are the most; make it smaller"
        raise KitError(Fault(f"the model {reason}", f"model.{largest}" if largest else "model"))


def memory_bytes() -> int | None:
    """Of this machine, in use or not, swap included; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    with suppress(OSError, StopIteration):  # only Linux says it there
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("SwapTotal"))
    return total


def check_parts(experiment: Experiment, vocab_size: int = 1) -> nn.Module | None:
    """Puts the model together on the meta device, before any data is touched.

    Raises KitError where its parts do not go together, and where it is larger than any machine.
    """
    try:
        module = build_on_meta(experiment.model, vocab_size)
        if module is not None:
            check_size(experiment.model, size_bytes(module), LARGEST, "bytes")
    except KitError as error:
        raise KitError(*(at_model(one, experiment) for one in error.faults)) from None
    takes = {"segments"} if module is None else inspect.signature(module.forward).parameters
    if experiment.model.document_mask and "segments" not in takes:
        use, place = experiment.entry_of(experiment.model).name, experiment.location(("model", "document_mask"))
        reason = f"{use} cannot keep documents apart: its forward takes no segments"
        raise KitError(Fault(reason, "model.document_mask", place))
    return module


def at_model(fault: Fault, experiment: Experiment) -> Fault:
    """At the option that it names, or else where the model was chosen."""
    key = tuple((fault.key or "model.use").split("."))
    return Fault(fault.message, fault.key or "model", fault.location or experiment.location(key))


class Undrawn(TorchFunctionMode):
    """Leaves out torch's initial draws of parameters: seconds for a large model, and on meta an import of dynamo."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if isinstance(tensor, nn.Parameter):  # buffers are not loaded, so they are filled
                return tensor
        return func(*args, **kwargs)
