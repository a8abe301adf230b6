"""How large a model is, how much it computes for a token, and which share of the hardware's peak that makes.

Source: Chowdhery et al. 2022, arXiv:2204.02311 (PaLM), appendix B: training takes 6 FLOPs a token for each parameter of
a matrix product and 12 * n_layer * n_embd * T for attention over T tokens, causality not taken off; the backward pass
costs twice the forward pass. MFU is the achieved share of the peak, recomputation not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nanogpt_kit.core.kinds import Model, Role
from nanogpt_kit.nn.parts import Positional
from nanogpt_kit.nn.roles import by_role
from nanogpt_kit.nn.uninitialized import build_on_meta

BACKWARD = 3  # forward and backward together, in forward passes
MOST_MODULES = 20_000  # of a model that is counted, some 1,500 layers: counting takes half a millisecond for each

# FLOP/s of dense bf16 and fp16 products with fp32 sums, from NVIDIA's data sheets. The longest name that fits counts.
PEAKS = {
    "B200": 2250e12,
    "GB200": 2500e12,
    "H200": 989e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H800": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,  # fp16 only
    "T4": 65e12,  # fp16 only
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
    "RTX 5090": 210e12,
}


@dataclass(frozen=True)
class Size:
    """A model, counted on the meta device: nothing is allocated."""

    parameters: dict[Role, int]
    flops_per_token: float | None  # of training, forward and backward, at full context

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def measure(model: Model, vocab_size: int) -> Size | None:
    """Builds it without memory and counts. Raises KitError where its parts do not go together.

    None where it cannot be built without memory.
    """
    module = build_on_meta(model, vocab_size)
    return None if module is None else measured(module, model.block_size)


def measured(module: nn.Module, T: int) -> Size:
    """The same of a model on the meta device, whose full context is T tokens."""
    parameters = {role: sum(p.numel() for p in found) for role, found in by_role(module).items()}
    return Size(parameters, flops_per_token(module, T))


def num_params(module: nn.Module, non_embedding: bool = True) -> int:
    """As nanoGPT counts: without what belongs to positions; token embeddings stay, since the head shares them."""
    count = sum(p.numel() for p in module.parameters())
    if non_embedding:
        positions = [m for m in module.modules() if isinstance(m, Positional)]
        count -= sum(p.numel() for m in positions for p in m.parameters())
    return count


def flops_per_token(module: nn.Module, T: int) -> float | None:
    """Of training on windows of T tokens: every matrix product that a forward pass makes, three times.

    `module` lies on the meta device. Embeddings are looked up, not multiplied, so they count nothing. None where a part
    needs real numbers to compute with, as kernels of plugins may, and where the model is so deep that counting would
    take minutes.
    """
    if sum(1 for _ in module.modules()) > MOST_MODULES:
        return None
    from torch.utils.flop_counter import FlopCounterMode  # takes a second, and only some runs count

    ids = torch.zeros(1, T, dtype=torch.int64, device="meta")
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(ids)
    except Exception:  # whatever a component's own code says to tensors without numbers
        return None
    return float(BACKWARD * counter.get_total_flops() / T)


def peak_flops(device: str) -> float | None:
    """The short types' peak of a GPU by the name that torch gives it; None where it is not known."""
    words = device.replace("-", " ").split()  # "NVIDIA A100-SXM4-40GB"
    names = [name for name in PEAKS if all(part in words for part in name.split())]
    return PEAKS[max(names, key=len)] if names else None
