"""No network, caches of the tests' own, a small GPT-2 vocabulary, local tasks, and runs that are trained once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_tasks import write_tasks
from made_vocabulary import small_gpt2_encoding

CACHE = tempfile.TemporaryDirectory()  # set before `datasets` is imported, which reads the variables once
os.environ.update(HF_DATASETS_CACHE=CACHE.name, HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")


@pytest.fixture(scope="session", autouse=True)
def vocabulary() -> Iterator[None]:
    """`gpt2` is a small one, as if tiktoken had downloaded it."""
    import tiktoken.registry

    with pytest.MonkeyPatch.context() as patch:
        for name in ("gpt2", "r50k_base"):
            patch.setitem(tiktoken.registry.ENCODINGS, name, small_gpt2_encoding())
        yield


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def gpt2_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nanogpt_kit.testing.training import train_briefly

    options = [
        "model.block_size=24",
        "model.bias=true",
        "train.batch_tokens=384",
        "optimizer.lr=3e-2",
        "train.steps=60",
    ]
    folder = tmp_path_factory.mktemp("gpt2")
    return train_briefly(folder, 'tokenizer="gpt2"', "sample.num_samples=0", "checkpoint.every_steps=60", *options).path


@pytest.fixture(scope="session")
def byte_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nanogpt_kit.testing.training import train_briefly

    options = ["model.block_size=48", "train.batch_tokens=384", "train.steps=20", "optimizer.lr=2e-2"]
    return train_briefly(tmp_path_factory.mktemp("byte"), "sample.num_samples=0", *options).path
