"""Facts about this machine: its software and hardware, which features are available, and why others are off."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import distributed

from nanogpt_kit.bench.calibration import choice_facts
from nanogpt_kit.bench.fact import Fact
from nanogpt_kit.core.machine_choices import applied
from nanogpt_kit.nn.arithmetic import multiplies_bf16
from nanogpt_kit.nn.compiler import compiler_obstacle
from nanogpt_kit.nn.measured_choices import starting_choices, with_measured
from nanogpt_kit.system.folders import available_cores
from nanogpt_kit.train.memory import free_bytes
from nanogpt_kit.train.precision import Precision, choose_device, precision_tasks


def feature(name: str, off: str | None, text: str, **values: Any) -> Fact:
    """A feature that is available, or off for the reason `off`."""
    return Fact(name, text, "available", values) if off is None else Fact(name, off, "off", values)


def collect_facts(*sources: Callable[[], Iterator[Fact]]) -> list[Fact]:
    """The facts of all sources; one that fails gives a single fact with the verdict unknown."""
    facts: list[Fact] = []
    with warnings.catch_warnings(record=True) as caught:  # such as: a GPU is too old for this torch
        warnings.simplefilter("always")
        for source in sources:
            try:
                facts.extend(source())
            except Exception as error:
                facts.append(Fact(source.__name__.replace("_", " "), str(error) or repr(error), "unknown"))
    messages = "; ".join(dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught))
    return [*facts, Fact("warnings", messages)] if messages else facts


def machine_facts() -> dict[str, list[Fact]]:
    """The facts about this machine, by section of the report."""
    return {
        "machine": collect_facts(software, processor, memory),
        "training": collect_facts(arithmetic, gpus, attention, compiling, several_processes),
        "choices": collect_facts(choice_facts),
    }


def format_bytes(size: int | None) -> str:
    if size is None:
        return "an unknown amount"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def software() -> Iterator[Fact]:
    yield Fact("python", f"{platform.python_version()} in {sys.prefix}", values={"version": platform.python_version()})
    cuda, hip, mps = torch.version.cuda, torch.version.hip, torch.backends.mps.is_built()
    built = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU and MPS" if mps else "CPU only"
    yield Fact("torch", f"{torch.__version__}, built for {built}", values={"version": str(torch.__version__)})
    yield Fact("system", platform.platform())


def processor() -> Iterator[Fact]:
    name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "unknown processor")
    cores, usable = os.cpu_count(), len(available_cores())
    text = f"{name}, {cores} cores, {usable} available to this process"
    yield Fact("cpu", text, values={"name": name, "cores": cores, "usable_cores": usable})
    most, limit = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    text = f"{most}, set by OMP_NUM_THREADS; train.threads overrides it"
    if limit is None:
        text = f"up to {most}, as many as a step can use; OMP_NUM_THREADS or train.threads sets their number"
    yield Fact("threads", text, values={"threads": most, "OMP_NUM_THREADS": limit})
    policy = os.environ.get("OMP_WAIT_POLICY")
    text = "sleep, so that two runs at once do not stall each other"
    if (policy or "").lower() != "passive":
        text = "spin, so two runs at once stall each other; set OMP_WAIT_POLICY=passive"
    text += f" (OMP_WAIT_POLICY is {policy or 'not set'})"
    yield Fact("waiting threads", text, values={"OMP_WAIT_POLICY": policy})


def memory() -> Iterator[Fact]:
    free = free_bytes("cpu")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    text = f"{format_bytes(free)} free of {format_bytes(total)}"
    yield Fact("memory", text, "unknown" if free is None else "", {"free_bytes": free, "total_bytes": total})


def arithmetic() -> Iterator[Fact]:
    device = choose_device("auto")
    with applied(with_measured(starting_choices(), precision_tasks(device), measures=False)):
        precision, why = Precision.choose("auto", device)
    text = f'{device}, {precision.name} ({why}), where train.device and train.precision are "auto"'
    yield Fact("auto settings", text, values={"device": device, "precision": precision.name, "reason": why})
    off = "requires a CPU with AVX512-BF16, AMX-BF16 or Arm's BF16; on others it is much slower than fp32"
    yield feature("bf16 on the CPU", None if multiplies_bf16("cpu") else off, "native on this CPU")


def gpus() -> Iterator[Fact]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        yield Fact("CUDA", f"no GPU: {why_no_gpu()}", "off")
    for index in range(count):
        gpu = torch.cuda.get_device_properties(index)
        bf16, capability = bool(torch.version.hip) or gpu.major >= 8, f"{gpu.major}.{gpu.minor}"
        values = {"name": gpu.name, "memory_bytes": gpu.total_memory, "capability": capability, "bf16": bf16}
        text = f"{gpu.name}, {format_bytes(gpu.total_memory)}, compute capability {capability}"
        text += ", bf16" if bf16 else ", no bf16"
        yield Fact(f"CUDA {index}", text, "available", values)
    why = "no GPU: only builds of torch for Macs with Apple silicon support it"
    if torch.backends.mps.is_built():
        why = "macOS is too old for it, or reports no GPU"
    yield feature("MPS", None if torch.backends.mps.is_available() else why, "the GPU of this Mac")


def why_no_gpu() -> str:
    """Why torch finds no GPU, and what would help."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.backends.cuda.is_built():
        driver = "an NVIDIA driver is installed" if shutil.which("nvidia-smi") else "no NVIDIA driver was found"
        return f"torch is built without CUDA, and {driver}; for builds with CUDA see https://pytorch.org/get-started"
    if hidden in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={hidden} hides all GPUs; unset it"
    try:
        torch.cuda.init()
    except RuntimeError as error:  # no driver, an old one, or no GPU; torch names the remedies
        return " ".join(str(error).split())
    return "torch reports no reason"


def attention() -> Iterator[Fact]:
    if not torch.cuda.is_available():
        yield Fact("attention on GPUs", "the kernels flash, efficient and cudnn require CUDA", "off")
        yield Fact(
            "flex attention", 'trains on CUDA only; "sdpa" supports the same windows and masks on any device', "off"
        )
        return
    cuda, capability = torch.backends.cuda, torch.cuda.get_device_capability()[0]
    kernels = {  # whether this torch has it, and the compute capability it requires
        "flash": (cuda.is_flash_attention_available(), 8),
        "efficient": (cuda.mem_efficient_sdp_enabled(), 5),
        "cudnn": (torch.backends.cudnn.is_available() and cuda.cudnn_sdp_enabled(), 8),
    }
    for kernel, (built, needed) in kernels.items():
        why = None if built else "this torch is built without it"
        if built and capability < needed and not torch.version.hip:
            why = f"requires a GPU of compute capability {needed}.0"
        yield feature(f"{kernel} attention", why, f'attention = {{ use = "sdpa", backend = "{kernel}" }}')
    yield feature("flex attention", compiler_obstacle("cuda"), 'attention = "flex"')


def compiling() -> Iterator[Fact]:
    text = 'a compiler and the headers of Python are installed; train.compile = "auto" compiles where it saves time'
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        yield feature(f"compile on {device}", compiler_obstacle(device), text)


def several_processes() -> Iterator[Fact]:
    built, off = distributed.is_available(), "this torch is built without it; builds for Linux{} have it"
    why = None if built and distributed.is_gloo_available() else off.format("")
    yield feature("gloo", why, "several CPU processes: run --nproc, torchrun")
    why = None if built and distributed.is_nccl_available() else off.format(" with CUDA")
    yield feature("nccl", why, "several GPU processes: run --nproc, torchrun")
