"""Runs that are trained once, for the tests that only read them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session

Train = Callable[..., RunFolder]
LINES = "".join(f"{n} times {n + 7} is {n * (n + 7)}, as everybody \u2603 knows.\n" for n in range(300))


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Train:
    """`train("text.txt", LINES, "tokenizer=char")`: the tiny experiment on another text, in a folder of its own."""

    def trained(file: str, text: str, *overrides: str) -> RunFolder:
        folder = tmp_path_factory.mktemp("trained")
        (folder / file).write_text(text, encoding="utf-8")
        (folder / "tiny.toml").write_text(tiny_text.format(text=folder / file), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NANOGPT_KIT_RUNS", str(folder / "runs"))
            patch.setenv("NANOGPT_KIT_DATA", str(folder / "data"))
            options = ["callback=[]", "sample.num_samples=0", *overrides]
            return session.run(Experiment.load(folder / "tiny.toml", options))

    return trained


@pytest.fixture(scope="session")
def run(train: Train) -> RunFolder:
    """Of bytes; it writes characters of several."""
    options = ("train.steps=200", "optimizer.lr=1e-2", "evaluate.every_steps=100", "checkpoint.every_steps=100")
    return train("text.txt", LINES, *options)


@pytest.fixture(scope="session")
def char_run(train: Train) -> RunFolder:
    return train("text.txt", LINES, "tokenizer=char", "train.steps=3", "model.bias=true")


@pytest.fixture(scope="session")
def short_run(train: Train) -> RunFolder:
    """Of documents that all end with "ab", so that it writes end-of-text after a b."""
    documents = "".join(json.dumps({"text": f"{n}ab"}) + "\n" for n in range(900))
    return train("text.jsonl", documents, "train.steps=150", "optimizer.lr=1e-2")
