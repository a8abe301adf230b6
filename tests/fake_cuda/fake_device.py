"""Makes torch built without CUDA believe that there is one GPU: an H100 in names and numbers, but without memory.

The library has to be loaded before torch is imported, since torch asks for its devices once. So this is for a process
that does nothing else: see machine.py.
"""

from __future__ import annotations

import ctypes
import importlib.util
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

H100 = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    total_memory=80 << 30,
    multi_processor_count=132,
    L2_cache_size=50 << 20,
    warp_size=32,
    regs_per_multiprocessor=65_536,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    shared_memory_per_block=49_152,
    shared_memory_per_block_optin=232_448,
    shared_memory_per_multiprocessor=233_472,
    gcnArchName="",
)


def load_device(library: Path) -> None:
    """Loads the device and what it is linked against, and answers what torch asks of it in Python."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    libraries = Path(spec.origin).parent / "lib"
    for path in (libraries / "libc10.so", libraries / "libtorch_cpu.so", library):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)

    import torch

    def constant(value: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: value

    answers = {
        "is_available": True,
        "is_initialized": True,
        "is_bf16_supported": True,
        "device_count": 1,
        **dict.fromkeys(("current_device", "_exchange_device", "_maybe_exchange_device"), 0),
        "get_device_capability": (H100.major, H100.minor),
        "get_device_name": H100.name,
        "get_device_properties": H100,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "mem_get_info": (H100.total_memory, H100.total_memory),
        "is_current_stream_capturing": False,
        **dict.fromkeys(("max_memory_allocated", "memory_allocated", "memory_reserved"), 0),
        **dict.fromkeys(("set_device", "empty_cache", "reset_peak_memory_stats", "_lazy_init"), None),
        **dict.fromkeys(("manual_seed", "manual_seed_all", "set_rng_state"), None),
    }
    for name, answer in answers.items():
        assert hasattr(torch.cuda, name), name
        setattr(torch.cuda, name, constant(answer))
