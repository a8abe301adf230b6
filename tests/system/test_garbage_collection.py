"""The end of a command: without a search for garbage, and with all that was written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

END = """
import atexit, sys, threading, time
from nanogpt_kit.__main__ import exit_process, keep_imports
from nanogpt_kit.system.garbage_collection import without_garbage_collection

class Cycle:
    def __init__(self, path):
        self.itself, self.file = self, open(path, "w")
        self.file.write("all of it")

keep_imports()
with without_garbage_collection():
    import json.tool
Cycle(sys.argv[1])  # garbage that owns an open file
kept = Cycle(sys.argv[2])
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
exit_process(3)
"""


def test_a_command_ends_with_its_threads_exit_functions_and_files(tmp_path: Path) -> None:
    files = [tmp_path / "garbage.txt", tmp_path / "kept.txt"]
    done = subprocess.run([sys.executable, "-c", END, *map(str, files)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n"), done.stderr) == (3, ["thread", "at exit", ""], "")
    assert [file.read_text() for file in files] == ["all of it"] * 2


LIBRARIES = """
import sys
from pathlib import Path
from nanogpt_kit.system.torch_libraries import load_torch_libraries

loading = load_torch_libraries()
assert "torch" not in sys.modules
if sys.platform == "linux":
    loading.join()
    assert "libtorch_cpu.so" in Path("/proc/self/maps").read_text()
import torch
assert torch.ones(3).sum() == 3
assert load_torch_libraries() is None
"""


def test_torchs_libraries_are_loaded_without_importing_it() -> None:
    subprocess.run([sys.executable, "-c", LIBRARIES], check=True)
