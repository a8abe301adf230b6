"""Loading of torch's libraries while Python imports other modules."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

# In the order in which torch loads them, with the visibility of their symbols that it gives them. Python's module of
# torch links to the last one; linking it and its registration of operators are most of what loading takes.
LIBRARIES = {"libtorch_global_deps.so": "RTLD_GLOBAL", "libtorch_cpu.so": "RTLD_LOCAL"}


def load_torch_libraries() -> threading.Thread | None:
    """Starts to load them on another core; `import torch` then finds them loaded, or waits for them.

    For commands that certainly import torch. It saves 0.2 s of 2.4 s to the first step of a small run (an AMD EPYC,
    Zen 4). What fails is left to the import, which reports it. None where nothing is loaded.
    """
    spec = find_spec("torch") if sys.platform == "linux" and "torch" not in sys.modules else None
    if spec is None or spec.origin is None:
        return None
    thread = threading.Thread(target=load, args=(Path(spec.origin).parent / "lib",), name="torch libraries")
    thread.start()
    return thread


def load(folder: Path) -> None:
    """Loads the libraries that exist. A call through ctypes leaves Python to other threads; `ctypes.CDLL` does not."""
    with suppress(OSError, AttributeError):
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.restype = ctypes.c_void_p  # closed by nobody: it stays loaded
        for name, visibility in LIBRARIES.items():
            if (folder / name).exists():
                dlopen(os.fsencode(folder / name), ctypes.c_int(os.RTLD_NOW | getattr(os, visibility)))
