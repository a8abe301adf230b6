"""Which number types a device multiplies natively."""

from __future__ import annotations

import torch


def multiplies_bf16(device: str) -> bool:
    """Whether a device multiplies bf16 natively: where bf16 is emulated, fp32 is many times faster."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return any(capabilities.get(unit) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
