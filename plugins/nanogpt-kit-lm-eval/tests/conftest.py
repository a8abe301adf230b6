"""No network, caches of the tests' own, a small GPT-2 vocabulary, local tasks, and runs that are trained once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_tasks import write_tasks
from made_vocabulary import END_ID, small_gpt2_encoding, tokens

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
    """A small GPT-2 with large random weights, so that every token matters; ids without a token are never likely."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from nanogpt_kit.cli import main

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(5)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 24, "vocab_size": END_ID + 1}
    network = GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.4, bos_token_id=END_ID, eos_token_id=END_ID))
    with torch.no_grad():
        network.transformer.wte.weight[len(list(tokens())) : END_ID] = 0
    network.save_pretrained(folder / "made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGPT_KIT_RUNS", str(folder / "runs"))
        main(["import", str(folder / "made"), "imported"], standalone_mode=False)
    (run,) = (folder / "runs" / "imported").iterdir()
    return run


@pytest.fixture(scope="session")
def byte_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nanogpt_kit.testing.training import train_briefly

    options = ["model.block_size=48", "train.batch_tokens=384", "train.steps=20", "optimizer.lr=2e-2"]
    return train_briefly(tmp_path_factory.mktemp("byte"), "sample.num_samples=0", *options).path
