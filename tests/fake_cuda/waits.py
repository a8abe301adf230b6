"""Finds where the host waits for the device, or sends it something, while a fake device computes.

A value that is read from the device is a wait, and so is a copy between host and device that is not `non_blocking`. A
wait for an event is one only where the device was given nothing to do since the event: else it goes on computing
meanwhile. Values that are read have no meaning: 1.0, 0 or True.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
PACKAGE = "nanogpt_kit"


class DeviceLog(TorchDispatchMode):
    """Between `begin` and `end`: the waits, and the copies that do not wait, each with its line in the kit."""

    current: ClassVar[DeviceLog]

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.copies: list[str] = []
        self.operations = 0  # that the device was given
        DeviceLog.current = self

    def begin(self) -> None:
        self.waits, self.copies = [], []

    def end(self) -> dict[str, list[str]]:
        return {"waits": self.waits, "copies": self.copies}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            torch.is_inference_mode_enabled() and func.namespace == "aten" and func._can_decompose()
        ):  # elsewhere autograd has done it before
            with self:
                return func.decompose(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self.note_read(args[0], ".item()")
            return meaningless_value(args[0].dtype)
        if func is aten.equal.default:
            self.note_read(args[0], "torch.equal")
            return True
        if func is aten._pin_memory.default:  # which fake tensors do not have; nothing here depends on it
            return args[0]
        result = func(*args, **kwargs)
        if func in COPIES:
            self.note_copy(func, args, kwargs, result)
        if isinstance(result, Tensor) and result.device.type == "cuda":
            self.operations += 1
        return result

    def note_copy(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        source = args[0] if func is aten._to_copy.default else args[1]
        if source.device.type == result.device.type or "meta" in (source.device.type, result.device.type):
            return
        non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        entry = f"{source.device.type} to {result.device.type} {tuple(source.shape)} at {location()}"
        (self.copies if non_blocking else self.waits).append(entry)

    def note_read(self, tensor: Tensor, what: str) -> None:
        if tensor.device.type == "cuda":
            self.waits.append(f"{what} at {location()}")


@flex_attention.py_impl(DeviceLog)
def log_flex_attention(log: DeviceLog, *args: Any, **kwargs: Any) -> Any:
    log.operations += 1
    return flex_attention(*args, **kwargs)


@flex_attention_backward.py_impl(DeviceLog)
def log_flex_attention_backward(log: DeviceLog, *args: Any, **kwargs: Any) -> Any:
    log.operations += 1
    return flex_attention_backward(*args, **kwargs)


class Event:
    """In place of torch.cuda.Event."""

    def __init__(self, **options: bool) -> None:
        self.recorded_at = -1

    def record(self, stream: object = None) -> None:
        self.recorded_at = DeviceLog.current.operations

    def query(self) -> bool:
        return DeviceLog.current.operations > self.recorded_at

    def synchronize(self) -> None:
        if not self.query():
            DeviceLog.current.waits.append(f"an event that was recorded last at {location()}")


def tolist(self: Tensor) -> Any:
    """In place of FakeTensor's, which reads the elements one by one."""
    DeviceLog.current.note_read(self, ".tolist()")
    value: Any = meaningless_value(self.dtype)
    for size in reversed(self.shape):
        value = [value] * size
    return value


def synchronize(device: object = None) -> None:
    DeviceLog.current.waits.append(f"torch.cuda.synchronize at {location()}")


def move_model(self: nn.Module, device: str) -> nn.Module:
    """In place of Module.to, which exchanges the contents of tensors; fake ones have none. Tied weights stay tied."""
    moved: dict[int, Any] = {}
    for module in self.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in moved:
                    copy = torch.empty_like(tensor, device=device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                if tensor is not None:
                    tensors[name] = moved[id(tensor)]
    return self


def meaningless_value(dtype: torch.dtype) -> float | int | bool:
    return 1.0 if dtype.is_floating_point else True if dtype == torch.bool else 0


def location() -> str:
    """The innermost line of the kit in this thread's stack: "nn/view.py:63"; in a backward pass there may be none."""
    frame: Any = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parts:
            inside = path.parts[len(path.parts) - path.parts[::-1].index(PACKAGE) :]
            return f"{'/'.join(inside)}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch's backward pass"


@contextmanager
def fake_tensors() -> Iterator[DeviceLog]:
    """While entered, every new tensor is fake, on whatever device, and what waits is noted."""
    FakeTensor.tolist = tolist  # type: ignore[method-assign]
    torch.cuda.Event = Event  # type: ignore[misc, assignment]
    torch.cuda.synchronize = synchronize
    nn.Module.to = move_model  # type: ignore[assignment, method-assign]
    # Torch computes nothing with constants on the device, and makes those of torch.tensor on the host, to copy them
    FakeTensorMode.avoid_device_init = True  # type: ignore[assignment, method-assign]
    with FakeTensorMode(allow_non_fake_inputs=True), DeviceLog() as log:
        yield log
