"""The size of a model, its FLOPs for a token, and the peak FLOP/s of GPUs for its MFU.

Source: Chowdhery et al. 2022, arXiv:2204.02311 (PaLM), appendix B: training takes 6 FLOPs a token for each parameter of
a matrix product and 12 * n_layer * n_embd * T for attention over T tokens, causality ignored; the backward pass costs
twice the forward pass. MFU is the achieved fraction of the peak, recomputation not counted.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from nanogpt_kit.core.kinds import Model, Role
from nanogpt_kit.nn.parts import Positional
from nanogpt_kit.nn.roles import role_by_parameter
from nanogpt_kit.nn.uninitialized import build_on_meta

FORWARD_AND_BACKWARD = 3  # in forward passes
MAX_MODULES = 20_000  # in some 1,500 layers: counting takes half a millisecond for each module

# FLOP/s of dense bf16 and fp16 products with fp32 sums, from NVIDIA's data sheets, which also give those with sparsity
# (twice as many) and in fp8 (four times, as for the RTX 6000 Ada). The longest matching name is used.
PUBLISHED_PEAKS = {
    "B200": 2250e12,
    "GB200": 2500e12,
    "H200": 989e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H20": 148e12,
    "H800": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A10": 125e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,  # fp16 only
    "T4": 65e12,  # fp16 only
    "RTX A6000": 155e12,
    "RTX 6000 Ada": 364e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
    "RTX 5090": 210e12,
}
# Words that make a name that of another card, or of a part of one: "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
OTHER_CARDS = frozenset({"MIG", "GRID", "Ti", "SUPER", "Laptop", "Max", "D"})
WITHOUT_TF32 = frozenset({"V100", "T4"})
TF32_FRACTION = 0.5  # of those FLOP/s in tf32, by the same sheets: A100 156 of 312, H100 494 of 989, RTX 4090 83 of 165


@dataclass(frozen=True)
class ModelSize:
    """The size of a model, counted on the meta device: nothing is allocated."""

    parameters: dict[Role, int]  # frozen ones included
    trained: int  # of them
    flops_per_token: float | None  # of training, forward and backward, at full context

    @property
    def total(self) -> int:
        return sum(self.parameters.values())


def model_size(model: Model, vocab_size: int) -> ModelSize | None:
    """The size of the model that these options build; None where it cannot be built without memory.

    Raises KitError where its parts do not fit together.
    """
    module = build_on_meta(model, vocab_size)
    return None if module is None else size_of_module(module, model.block_size)


def size_of_module(module: nn.Module, T: int) -> ModelSize:
    """The size of a module on the meta device, whose full context is T tokens."""
    parameters: Counter[Role] = Counter()
    for parameter, role in role_by_parameter(module).items():
        parameters[role] += parameter.numel()
    return ModelSize(dict(parameters), trained_params(module), flops_per_token(module, T))


def trained_params(module: nn.Module) -> int:
    """How many parameters are not frozen."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def num_params(module: nn.Module, non_embedding: bool = True) -> int:
    """As in nanoGPT: without position embeddings; token embeddings count, since the head shares them."""
    count = sum(p.numel() for p in module.parameters())
    if non_embedding:
        positions = [m for m in module.modules() if isinstance(m, Positional)]
        count -= sum(p.numel() for m in positions for p in m.parameters())
    return count


def flops_per_token(module: nn.Module, T: int) -> float | None:
    """FLOPs of training on windows of T tokens: every matrix product of a forward pass, three times.

    `module` is on the meta device. Embeddings are looked up, not multiplied, so they count nothing. The products of the
    loss count, the output head's among them; where the loss needs real numbers, only the output head's do. None where
    another part needs them, as kernels of plugins may, and where counting would take minutes, since the model is deep.
    """
    if sum(1 for _ in module.modules()) > MAX_MODULES:
        return None
    from torch.utils.flop_counter import FlopCounterMode  # takes a second, and only some runs count

    ids = torch.zeros(1, T, dtype=torch.int64, device="meta")
    for inputs in ((ids, ids), (ids,)):  # with and without targets
        with suppress(Exception), FlopCounterMode(display=False) as counter, torch.no_grad():
            module(*inputs)  # a component's code, which may need real numbers
            return float(FORWARD_AND_BACKWARD * counter.get_total_flops() / T)
    return None


def published_peak_flops(device: str, precision: str = "bf16") -> float | None:
    """Peak FLOP/s of a GPU in bf16, fp16 or tf32, by torch's name for the device; None where it is not known."""
    words = set(device.replace("-", " ").split())  # "NVIDIA A100-SXM4-40GB"
    names = [name for name in PUBLISHED_PEAKS if words.issuperset(name.split())]
    if not names or words & OTHER_CARDS:
        return None
    name = max(names, key=len)
    if precision != "tf32":
        return PUBLISHED_PEAKS[name]
    return None if name in WITHOUT_TF32 else TF32_FRACTION * PUBLISHED_PEAKS[name]
