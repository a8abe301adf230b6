"""The device and the number format that a run computes with, and the reasons for the choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.machine_choices import MachineChoices, Task
from nanogpt_kit.nn.arithmetic import multiplies_bf16

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU_TASK = "precision cpu"
PROBE = (512, 384, 1536)  # rows, features and results of the measured product, as in the MLP of a small network


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
        is_native = multiplies_bf16(device)
        if device == "cpu":  # what a run has recorded is kept also where bf16 is emulated
            rule = "bf16" if is_native else "fp32"
            name = MachineChoices.current().choice(CPU_TASK, rule, ("bf16", "fp32"))
            if name != rule:
                return cls(name, device), "measured on this machine, or recorded by the run"
        if is_native:
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


def precision_tasks(device: str) -> list[Task]:
    """Whether products in bf16 are faster than in fp32, on a CPU that multiplies bf16; an emulated one never is."""
    if device != "cpu" or not multiplies_bf16(device):
        return []

    def product(dtype: torch.dtype) -> Callable[[], object]:
        rows, features, results = PROBE
        x, weight = torch.ones(rows, features), torch.ones(results, features)  # fp32, as autocast casts them each time

        def multiply() -> torch.Tensor:
            with torch.no_grad():
                return torch.nn.functional.linear(x.to(dtype), weight.to(dtype))

        return multiply

    return [Task(CPU_TASK, {"bf16": partial(product, torch.bfloat16), "fp32": partial(product, torch.float32)})]


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
