"""A trained base model and a run with adapters on it, both tiny, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanogpt_kit import Run
from nanogpt_kit.testing.training import train_briefly

ADAPTED = """\
extends = "tiny.toml"
name = "adapted"

[model]
use = "lora"
init_from = "tiny"
base = { use = "gpt", n_layer = 2, n_head = 2, n_embd = 16, block_size = 16 }
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with runs/tiny, where the runs of tests are made and looked for."""
    folder = tmp_path_factory.mktemp("lora")
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in {"RUNS": "runs", "DATA": "data"}.items():
            patch.setenv(f"NANOGPT_KIT_{variable}", str(folder / name))
        yield folder


@pytest.fixture(scope="session")
def base(folder: Path) -> Run:
    return train_briefly(folder)


@pytest.fixture(scope="session")
def adapted_file(folder: Path, base: Run) -> Path:
    file = folder / "adapted.toml"
    file.write_text(ADAPTED, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def adapted(folder: Path, adapted_file: Path) -> Run:
    """Five steps of adapters, three checkpoints."""
    return train_briefly(folder, experiment=adapted_file)
