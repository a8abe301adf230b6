"""Whether torch.compile can work here: it needs a C++ compiler, Python's headers, and triton for GPUs.

Asked without importing torch's own compiler, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

COMPILERS = {"win32": "cl", "darwin": "clang++"}  # called by torch's inductor; elsewhere g++
REMEDIES = {"win32": "Visual Studio's C++ build tools include it", "darwin": "xcode-select --install installs it"}
OPENMP_PREFIXES = (
    "/opt/homebrew/opt/libomp",
    "/usr/local/opt/libomp",
)  # Homebrew's; Apple's compiler has none
MIN_CAPABILITY = (7, 0)  # compute capability of NVIDIA GPUs that triton needs


def compiler_obstacle(device: str) -> str | None:
    """Why torch.compile cannot work on a device, with a remedy; None where it can.

    Looks where torch 2.13 looks, but imports neither its inductor nor triton, which would take seconds.
    """
    if device == "cpu":
        return missing_compiler("CXX", COMPILERS.get(sys.platform, "g++")) or missing_openmp() or missing_headers()
    if device != "cuda":
        return f"compiling for {device} has not been tried"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; torch's CUDA builds for Linux include it"
    if torch.cuda.is_available() and not torch.version.hip and torch.cuda.get_device_capability() < MIN_CAPABILITY:
        return "triton needs a GPU of compute capability {}.{}".format(*MIN_CAPABILITY)
    if sys.platform == "win32":  # triton for Windows includes a compiler
        return None
    return missing_compiler("CC", "gcc", "clang") or missing_headers()


def missing_compiler(variable: str, *names: str) -> str | None:
    named = os.environ.get(variable)
    if any(map(shutil.which, names if named is None else (named,))):
        return None
    if named is not None:
        return f"the compiler that {variable} names, {named!r}, does not exist; unset {variable}, or name another one"
    remedy = REMEDIES.get(sys.platform, f"apt install {names[0]} installs it on Debian and Ubuntu")
    return f"there is no compiler {' or '.join(names)}; {remedy}, and {variable} may name another one"


def missing_openmp() -> str | None:
    prefixes = (*OPENMP_PREFIXES, os.environ.get("OMP_PREFIX"), os.environ.get("CONDA_PREFIX"))
    if sys.platform != "darwin" or any(Path(prefix, "include", "omp.h").exists() for prefix in prefixes if prefix):
        return None
    return "Apple's compiler lacks OpenMP; brew install libomp installs it, and OMP_PREFIX may name another location"


def missing_headers() -> str | None:
    places = {sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix")}
    if any(Path(place, "Python.h").exists() for place in places):
        return None
    package = "python{}.{}-dev".format(*sys.version_info)
    return f"Python's headers (Python.h) are not installed; apt install {package} installs them on Debian and Ubuntu"
