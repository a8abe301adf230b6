"""The device and the number format that a run computes with, and the reasons for the choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.nn.arithmetic import multiplies_bf16

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A number format on a device."""

    name: str  # fp32, tf32, bf16, fp16
    device: str  # cpu, cuda, mps

    @classmethod
    def choose(cls, setting: str, device: str) -> tuple[Precision, str]:
        """The precision that `train.precision` means on a device, and why."""
        if setting != "auto":
            return cls(setting, device), "set by the experiment"
        if multiplies_bf16(device):
            return cls("bf16", device), f"native on this {device.replace('cuda', 'gpu').upper()}"
        if device == "cuda":
            return cls("fp16", device), "this GPU has no bf16"
        return cls("fp32", device), "bf16 is not faster on this device"

    @contextmanager
    def matmul_precision(self) -> Iterator[None]:
        """While entered, products of fp32 matrices use tf32 (10 bits of fraction), except in the precision fp32.

        In bf16 and fp16 as well, since the products that autocast leaves in fp32 matter little.
        """
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest" if self.name == "fp32" else "high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in the 16-bit type, sums and norms in fp32; does nothing in the other precisions."""
        dtype = DTYPES.get(self.name)
        return nullcontext() if dtype is None else torch.autocast(self.device, dtype=dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps fp16 gradients from vanishing; does nothing in the other precisions."""
        return torch.amp.GradScaler(self.device, enabled=self.name == "fp16")


def choose_device(setting: str) -> str:
    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def has_device(device: str) -> bool:
    return {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]


def usable_device(setting: str) -> str:
    """As `choose_device`. Raises KitError where torch does not find that device here."""
    device = choose_device(setting)
    kind = device.partition(":")[0]  # "cuda:1" is the second GPU
    if kind not in ("cpu", "cuda", "mps"):
        raise KitError(f"device should be auto, cpu, cuda or mps, got {setting!r}")
    if not has_device(kind):
        raise KitError(f"device is {setting!r}, but torch finds no such device here")
    return device
