"""A process with a fake CUDA device, for all tests of a session."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import launcher
import pytest

HERE = Path(__file__).parent
SECONDS = 170  # for one answer; the longest takes 20 on two cores of an AMD EPYC (Zen 4)

Call = Callable[..., Any]


@pytest.fixture(scope="session")
def fake_cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device, compiled for the torch that is installed."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the fake device is compiled by g++ on Linux")
    import torch
    from torch.utils.cpp_extension import include_paths, library_paths

    if torch.version.cuda or torch.version.hip:
        pytest.skip("the fake device takes the place of CUDA, which this torch is built with")
    library = tmp_path_factory.mktemp("fake_cuda") / "libfake_cuda.so"
    folders = [*(f"-I{path}" for path in include_paths("cpu")), *(f"-L{path}" for path in library_paths("cpu"))]
    source = HERE / "fake_cuda.cpp"
    command = [compiler, "-std=c++20", "-shared", "-fPIC", *folders, source, "-lc10", "-ltorch_cpu", "-o", library]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


@pytest.fixture(scope="session")
def on_fake_cuda(fake_cuda_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """`on_fake_cuda("training.training_steps", overrides=[...])`: the result of a function of this folder there.

    A new process, since torch asks for its devices once.
    """
    folder = tmp_path_factory.mktemp("machine")
    folders = {
        "NANOGPT_KIT_RUNS": "runs",
        "NANOGPT_KIT_DATA": "data",
        "XDG_CACHE_HOME": "cache",
        "XDG_STATE_HOME": "state",
    }
    environment = {**os.environ, **{name: str(folder / part) for name, part in folders.items()}}
    command = [sys.executable, str(HERE / "machine.py"), str(fake_cuda_library)]
    log = folder / "log.txt"
    with log.open("w") as errors:
        process = launcher.RealPopen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    assert process.stdin is not None
    assert process.stdout is not None
    answers = selectors.DefaultSelector()
    answers.register(process.stdout, selectors.EVENT_READ)

    def call(function: str, **arguments: Any) -> Any:
        process.stdin.write(json.dumps({"call": function, "arguments": arguments}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline() if answers.select(SECONDS) else ""
        if not line:
            process.kill()
            pytest.fail(f"no answer within {SECONDS} seconds\n{log.read_text()[-4000:]}", pytrace=False)
        answer = json.loads(line)
        if "error" in answer:
            pytest.fail(answer["error"], pytrace=False)
        return answer["result"]

    yield call
    with process:
        process.stdin.close()
    answers.close()


@pytest.fixture(scope="session")
def fake_experiment(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, tiny_source: str) -> str:
    """The experiment `tiny`, whose data is prepared once."""
    folder = tmp_path_factory.mktemp("experiment")
    text, path = folder / "text.txt", folder / "tiny.toml"
    text.write_text(tiny_source, encoding="utf-8")
    path.write_text(tiny_text.format(text=text), encoding="utf-8")
    return str(path)
