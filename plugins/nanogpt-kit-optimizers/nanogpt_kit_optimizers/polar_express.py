"""The Polar Express: a matrix with all singular values close to 1, by a few products of matrices.

In each iteration every singular value goes through an odd polynomial of degree 5, the best one for the range that the
iterations before leave; the range at first is [0.001, 1]. In exact arithmetic 5 iterations take that range to [0.84,
1.13], 6 to [0.993, 1.002], 8 to 1.

Source: Amsel, Persson, Musco & Gower 2025, arXiv:2505.16932, algorithm 1.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from nanogpt_kit.api import multiplies_bf16

SAFETY = 1.01  # of the paper: rounding in bf16 may take singular values above the range of a polynomial
OPTIMAL = (  # a, b and c of a x + b x^3 + c x^5; from the eighth on they remain the same
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
COEFFICIENTS = (*((a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in OPTIMAL[:-1]), OPTIMAL[-1])


def polar_factor(stack: Tensor, iterations: int) -> Tensor:
    """(N, A, B) with the singular values of each matrix close to 1, in the type of the products."""
    x = stack if stack.dtype == torch.float64 else stack.to(product_dtype(stack.device.type))
    x = x / (SAFETY * x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # no singular value is above 1
    is_tall = x.size(1) > x.size(2)
    x = x.mT if is_tall else x  # so that x @ x.mT is the smaller of the two products
    for index in range(iterations):
        a, b, c = COEFFICIENTS[min(index, len(COEFFICIENTS) - 1)]
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


@cache
def product_dtype(device: str) -> torch.dtype:
    """The type of the iterations' products: bf16 where the device has it, as they tolerate its rounding."""
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32
