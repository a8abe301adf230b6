"""Distributions that do what no plugin should: each offers a norm, or claims names of others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOOD = "from nanogpt_kit.api import Field, Norm\n\nclass Hostile(Norm):\n    def build(self, ctx): ...\n"


@dataclass(frozen=True)
class Hostile:
    """A distribution `hostile-NAME` with a component `NAME` of kind norm."""

    source: str
    cause: str  # in the message to whoever names it, and in the finding of `plugins doctor`
    target: str = "Hostile"
    requirement: str = ""
    level: str = "error"  # of the finding
    in_process: bool = True  # whether naming it leaves the process of a test alive

    def install(self, name: str, install: Callable[..., None]) -> None:
        module = f"hostile_{name}"
        points = f"[nanogpt_kit.norm]\n{name} = {module}:{self.target}\n"
        install(distribution(name), points, self.requirement, **({module: self.source} if self.source else {}))


def distribution(name: str) -> str:
    return f"hostile-{name.replace('_', '-')}"


IMPORTED = {  # that can be named: the experiment works, or says what is wrong
    "raises": Hostile("raise RuntimeError('no such luck')", "RuntimeError: no such luck"),
    "exits": Hostile("raise SystemExit(3)", "SystemExit: 3"),
    "ends": Hostile("import os; os._exit(7)", "7", in_process=False),
    "recurses": Hostile("def again(): again()\nagain()", "RecursionError: maximum recursion depth exceeded"),
    "interrupts": Hostile("raise KeyboardInterrupt", "KeyboardInterrupt", in_process=False),
    "aborts": Hostile("import os\nos.abort()", "SIGABRT", in_process=False),
    "segfaults": Hostile("import ctypes\nctypes.string_at(0)", "SIGSEGV", in_process=False),
    "sleeps": Hostile(f"import time\ntime.sleep(20)\n{GOOD}", "did not end within 1.5 s", in_process=False),
    "absent_module": Hostile("", "ModuleNotFoundError: No module named 'hostile_absent_module'"),
    "absent_class": Hostile(GOOD, "has no attribute 'Other'", "Other"),
    "other_kind": Hostile("from nanogpt_kit.api import MLP as Hostile", "it does not derive from api.Norm"),
    "not_a_class": Hostile("Hostile = 3", "it does not derive from api.Norm"),
    "abstract": Hostile(GOOD.replace("def build(self, ctx): ...", "pass"), "build is not implemented"),
    "default": Hostile(GOOD.replace("    def", "    size: int = Field('x', ge=3)\n    def"), "size"),
    "docstring": Hostile(f"{GOOD}\nHostile.__doc__ = 5\n", "has a docstring of type int"),
    "future": Hostile("from nanogpt_kit.api import NotYet", "requires nanogpt-kit>=99", requirement="nanogpt-kit>=99"),
}
HARMLESS = {  # reported as warnings
    "prints": Hostile(f"print('hello')\n{GOOD}", "its import prints 'hello'", level="warning"),
    "writes": Hostile(
        f"import sys\nsys.stdout.buffer.write(b'raw\\n')\n{GOOD}", "its import prints 'raw'", level="warning"
    ),
    "threads": Hostile(
        f"import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n{GOOD}",
        "its import starts 1 thread",
        level="warning",
    ),
}
HOSTILE = IMPORTED | HARMLESS


def install_all(install: Callable[..., None]) -> None:
    """All of them, and distributions with names and metadata that harm nobody either."""
    for name, hostile in HOSTILE.items():
        hostile.install(name, install)
    install("hostile-hides", "[nanogpt_kit.norm]\nrmsnorm = hostile_raises:Hostile\n")
    install("hostile-claims", "[nanogpt_kit.norm]\nprints = hostile_raises:Hostile\n")
    install("hostile-kind", "[nanogpt_kit.norms]\nmine = hostile_raises:Hostile\n")
    install("hostile-spelling", "[nanogpt_kit.norm]\nbad name = hostile_raises:Hostile\nbad:name = hostile_raises:X\n")
    install("hostile-metadata", "[nanogpt_kit.norm]\nunread = hostile_raises:Hostile\n")
    folder = Path(sys.path[0]) / "hostile_metadata-1.0.dist-info"
    (folder / "METADATA").write_text("Version: 1.0\n", encoding="utf-8")  # without a name
