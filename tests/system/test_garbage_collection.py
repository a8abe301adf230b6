"""The end of a command: without a search for garbage among modules, and with all that was written."""

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
late = Cycle(sys.argv[3])
atexit.register(late.file.write, ", and more")
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
exit_process(3)
"""


def test_a_command_ends_with_its_threads_exit_functions_and_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("garbage", "kept", "late")]
    done = subprocess.run([sys.executable, "-c", END, *map(str, files)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n"), done.stderr) == (3, ["thread", "at exit", ""], "")
    assert [file.read_text() for file in files] == ["all of it", "all of it", "all of it, and more"]


LIBRARY = """
import gc
import nanogpt_kit
from nanogpt_kit.system.garbage_collection import without_garbage_collection

experiment = nanogpt_kit.Experiment.load("bench_cpu")
with without_garbage_collection():
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() == 0
"""


def test_the_library_leaves_the_collector_of_its_user_as_it_was() -> None:
    subprocess.run([sys.executable, "-c", LIBRARY], check=True)


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
