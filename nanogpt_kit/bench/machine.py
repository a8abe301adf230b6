"""What this machine can do, and why something is off."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed

from nanogpt_kit.data.prepare import available_cores
from nanogpt_kit.nn.arithmetic import multiplies_bf16
from nanogpt_kit.nn.compiler import compiler_obstacle
from nanogpt_kit.train.memory import free_bytes
from nanogpt_kit.train.precision import Precision, choose_device


@dataclass(frozen=True)
class Fact:
    name: str
    says: str  # what is there; where something is off, why, and what would help
    verdict: str = ""  # available, off, unknown; empty where there is nothing to judge
    values: dict[str, Any] = field(default_factory=dict)  # the same for programs


def judged(name: str, off: str | None, says: str, **values: Any) -> Fact:
    """`off` says why it is off; None where it is available."""
    return Fact(name, says, "available", values) if off is None else Fact(name, off, "off", values)


def asked(*questions: Callable[[], Iterator[Fact]]) -> list[Fact]:
    """Their answers. One that fails is unknown: the others matter all the same."""
    found: list[Fact] = []
    with warnings.catch_warnings(record=True) as warned:  # as of a GPU that is too old for this torch
        warnings.simplefilter("always")
        for question in questions:
            try:
                found.extend(question())
            except Exception as error:
                found.append(Fact(question.__name__.replace("_", " "), str(error) or repr(error), "unknown"))
    told = "; ".join(dict.fromkeys(" ".join(str(warning.message).split()) for warning in warned))
    return [*found, Fact("warnings", told)] if told else found


def facts() -> dict[str, list[Fact]]:
    """By what they are about."""
    return {
        "machine": asked(software, processor, memory),
        "training": asked(arithmetic, gpus, attention, compiling, several_processes),
    }


def in_words(size: int | None) -> str:
    if size is None:
        return "an unknown amount"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def software() -> Iterator[Fact]:
    yield Fact("python", f"{platform.python_version()} in {sys.prefix}", values={"version": platform.python_version()})
    cuda, hip, mps = torch.version.cuda, torch.version.hip, torch.backends.mps.is_built()
    built = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "the CPU and MPS" if mps else "the CPU alone"
    yield Fact("torch", f"{torch.__version__}, built for {built}", values={"version": str(torch.__version__)})
    yield Fact("system", platform.platform())


def processor() -> Iterator[Fact]:
    name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "of unknown make")
    values = {"name": name, "cores": os.cpu_count(), "usable_cores": available_cores()}
    yield Fact("cpu", f"{name}, {os.cpu_count()} cores, {available_cores()} of them for this process", values=values)
    most, limit = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    says = f"{most}, as OMP_NUM_THREADS says; train.threads would change that"
    if limit is None:
        says = f"up to {most}, as many as a run's steps keep busy; OMP_NUM_THREADS or train.threads would change that"
    yield Fact("threads", says, values={"threads": most, "OMP_NUM_THREADS": limit})
    policy = os.environ.get("OMP_WAIT_POLICY")
    says = "sleep, so two runs at once do not stall each other"
    if (policy or "").lower() != "passive":
        says = "spin, so two runs at once stall each other; OMP_WAIT_POLICY=passive would help"
    says += f" (OMP_WAIT_POLICY is {policy or 'not set'})"
    yield Fact("waiting threads", says, values={"OMP_WAIT_POLICY": policy})


def memory() -> Iterator[Fact]:
    free = free_bytes("cpu")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    says = f"{in_words(free)} free of {in_words(total)}"
    yield Fact("memory", says, "unknown" if free is None else "", {"free_bytes": free, "total_bytes": total})


def arithmetic() -> Iterator[Fact]:
    device = choose_device("auto")
    precision, why = Precision.choose("auto", device)
    says = f'{device} in {precision.name}, where train.device and train.precision are left to "auto": {why}'
    yield Fact("a run takes", says, values={"device": device, "precision": precision.name, "why": why})
    lacking = "needs a CPU with AVX512-BF16, AMX-BF16 or Arm's BF16; on others it is much slower than fp32"
    yield judged("bf16 on the CPU", None if multiplies_bf16("cpu") else lacking, "the CPU multiplies it natively")


def gpus() -> Iterator[Fact]:
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not seen:
        yield Fact("CUDA", f"no GPU: {no_gpu()}", "off")
    for index in range(seen):
        gpu = torch.cuda.get_device_properties(index)
        bf16, capability = bool(torch.version.hip) or gpu.major >= 8, f"{gpu.major}.{gpu.minor}"
        values = {"name": gpu.name, "memory_bytes": gpu.total_memory, "capability": capability, "bf16": bf16}
        short = "bf16" if bf16 else "no bf16"
        says = f"{gpu.name}, {in_words(gpu.total_memory)}, compute capability {capability}, {short}"
        yield Fact(f"CUDA {index}", says, "available", values)
    why = "no GPU: only torch's builds for Macs with Apple silicon have it"
    if torch.backends.mps.is_built():
        why = "macOS is too old for it, or shows no GPU"
    yield judged("MPS", None if torch.backends.mps.is_available() else why, "the GPU of this Mac")


def no_gpu() -> str:
    """Why torch sees none, and what would help."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.backends.cuda.is_built():
        driver = "an NVIDIA driver is here" if shutil.which("nvidia-smi") else "no NVIDIA driver is seen"
        return f"torch is built without CUDA, and {driver}; builds with it: https://pytorch.org/get-started"
    if hidden in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={hidden} hides them; unset it"
    try:
        torch.cuda.init()
    except RuntimeError as error:  # no driver, or one that is too old, or nothing plugged in; torch names the remedies
        return " ".join(str(error).split())
    return "torch does not say why"


def attention() -> Iterator[Fact]:
    if not torch.cuda.is_available():
        yield Fact("attention on GPUs", "its kernels flash, efficient and cudnn need CUDA", "off")
        yield Fact("flex attention", 'trains on CUDA only; "sdpa" has the same windows and masks on any device', "off")
        return
    cuda, capability = torch.backends.cuda, torch.cuda.get_device_capability()[0]
    kernels = {  # whether this torch has it, and the compute capability that it needs
        "flash": (cuda.is_flash_attention_available(), 8),
        "efficient": (cuda.mem_efficient_sdp_enabled(), 5),
        "cudnn": (torch.backends.cudnn.is_available() and cuda.cudnn_sdp_enabled(), 8),
    }
    for kernel, (built, needed) in kernels.items():
        why = None if built else "this torch is built without it"
        if built and capability < needed and not torch.version.hip:
            why = f"needs a GPU of compute capability {needed}.0"
        yield judged(f"{kernel} attention", why, f'attention = {{ use = "sdpa", backend = "{kernel}" }}')
    yield judged("flex attention", compiler_obstacle("cuda"), 'attention = "flex"')


def compiling() -> Iterator[Fact]:
    says = 'a compiler and Python\'s headers are there; train.compile = "auto" takes them where they pay'
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        yield judged(f"compile on {device}", compiler_obstacle(device), says)


def several_processes() -> Iterator[Fact]:
    has, without = distributed.is_available(), "this torch is built without it; its builds for Linux{} have it"
    why = None if has and distributed.is_gloo_available() else without.format("")
    yield judged("gloo", why, "several processes on CPUs: run --nproc, torchrun")
    why = None if has and distributed.is_nccl_available() else without.format(" with CUDA")
    yield judged("nccl", why, "several processes on GPUs: run --nproc, torchrun")
