"""No network, caches of the tests' own, a small GPT-2 vocabulary, local tasks, and runs that are trained once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_tasks import write_tasks
from made_vocabulary import END_ID, install_vocabulary, tokens

CACHE = tempfile.TemporaryDirectory()  # set before `datasets` is imported, which reads the variables once
os.environ.update(HF_DATASETS_CACHE=CACHE.name, HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
COMMAND = """
import operator, runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from made_vocabulary import install_vocabulary
install_vocabulary(operator.setitem)
runpy.run_module("nanogpt_kit", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="session", autouse=True)
def vocabulary() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        install_vocabulary(patch.setitem)
        yield


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def gpt2_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 with large random weights, so that every token matters; ids without a token are never likely."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(5)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 24, "vocab_size": END_ID + 1}
    network = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.4, bos_token_id=END_ID, eos_token_id=END_ID))
    with torch.no_grad():
        network.transformer.wte.weight[len(list(tokens())) : END_ID] = 0
    network.save_pretrained(folder / "made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGPT_KIT_RUNS", str(folder / "runs"))
        run_command("import", folder / "made", "imported")
    (run,) = (folder / "runs" / "imported").iterdir()
    return run


def run_command(*words: str | Path) -> None:
    """Runs `nanogpt-kit ...` in a process that has the small vocabulary, too."""
    command = [sys.executable, "-c", COMMAND, str(Path(__file__).parent), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def exported(gpt2_run: Path) -> Path:
    """The same in the format of transformers."""
    run_command("export", gpt2_run, gpt2_run.parent / "exported")
    return gpt2_run.parent / "exported"


@pytest.fixture(scope="session")
def byte_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nanogpt_kit.testing.training import train_briefly

    options = ["model.block_size=48", "train.batch_tokens=384", "train.steps=20", "optimizer.lr=2e-2"]
    return train_briefly(tmp_path_factory.mktemp("byte"), "sample.num_samples=0", *options).path
