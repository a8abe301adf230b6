"""Each mistake gets one sentence and exit code 2, and leaves neither a run nor data behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("nmae=x", r"nmae: unknown key; did you mean 'name'?"),
        ("train.setps=3", "train.setps: unknown key; did you mean 'steps'?"),
        ("model.n_layers=3", "model.n_layers: unknown key; did you mean model.n_layer?"),
        ('model.norm={use="layernorm", epz=1}', "model.norm.epz: unknown key; did you mean 'eps'?"),
        ("sampler=[{use='top_k', kk=1}]", "sampler.0.kk: unknown key; did you mean 'k'?"),
        ("train.steps=2.5", "train.steps: should be a whole number, got 2.5"),
        ("model.bias=1", "model.bias: should be true or false, got 1"),
        ("optimizer.lr=fast", "optimizer.lr: should be a number, got 'fast'"),
        ("optimizer.lr=0", "optimizer.lr: should be greater than 0, got 0"),
        ("optimizer.lr=inf", "optimizer.lr: should be a finite number, got inf"),
        ("optimizer.betas=[0.9, 1.5]", "optimizer.betas.1: should be less than 1, got 1.5"),
        ("model.attention=sdpaa", "model.attention: unknown attention 'sdpaa'; did you mean 'sdpa'?"),
        ("model.n_head=5", "command line: model.n_head: n_embd (24) should be a multiple of n_head (5)"),
        ("train.batch_tokens=81", "train.batch_tokens (81) should be a multiple of model.block_size (16)"),
        ("dataset.source=nowhere.txt", "dataset.source: 'nowhere.txt' matches no file or folder"),
        ("model.block_size=80000", "model.block_size = 80000 needs at least 80001"),
        ("model.block_size", "expected key=value, as in optimizer.lr=3e-4, got 'model.block_size'"),
        ("evaluator=[{use='loss', split='test'}]", "the dataset has no split 'test'"),
    ],
)
def test_a_wrong_value_is_told_in_a_sentence(
    tiny: Path, command: Callable[..., object], override: str, told: str
) -> None:
    options = ["train.batch_tokens=80000"] if "80000" in override else []
    answer = command("run", tiny, *options, override)
    assert answer.code == 2
    assert told in answer.err
    assert_nothing_is_left(tiny)


def assert_nothing_is_left(tiny: Path) -> None:
    assert not (tiny.parent / "runs").exists()
    assert not (tiny.parent / "data").exists()


def test_a_mistake_in_the_file_is_told_with_its_line(tiny: Path, command: Callable[..., object]) -> None:
    tiny.write_text(tiny.read_text().replace("n_embd", "n_embed").replace("steps = 20", "steps = -20"))
    answer = command("run", tiny)
    assert answer.code == 2
    assert f"{tiny}:14: model.n_embed: unknown key; did you mean model.n_embd?" in answer.err
    assert f"{tiny}:28: train.steps: should be greater than or equal to 0, got -20" in answer.err
    assert_nothing_is_left(tiny)


def test_a_missing_file_is_told(tmp_path: Path, command: Callable[..., object]) -> None:
    answer = command("run", tmp_path / "none.toml")
    assert answer.code == 2
    assert f"no experiment '{tmp_path / 'none.toml'}'. Shipped: quickstart, " in answer.err


def test_files_that_extend_each_other_are_told(tiny: Path, command: Callable[..., object]) -> None:
    other = tiny.with_name("other.toml")
    other.write_text('extends = "tiny.toml"\n')
    tiny.write_text('extends = "other.toml"\n' + tiny.read_text())
    answer = command("run", tiny)
    assert answer.code == 2
    assert "extend each other in a circle" in answer.err
    assert_nothing_is_left(tiny)


def test_text_that_is_not_utf8_is_told(tiny: Path, text_file: Path, command: Callable[..., object]) -> None:
    text_file.write_bytes(b"fine\nfine\ncaf\xe9\n")
    answer = command("run", tiny)
    assert answer.code == 2
    assert f"{text_file}:3: not UTF-8: byte 0xe9 at offset 13" in answer.err
    assert_nothing_is_left(tiny)


def test_a_run_folder_that_cannot_be_written_is_told(
    tiny: Path, text_file: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(text_file / "runs"))
    answer = command("run", tiny)
    assert answer.code == 2
    assert "cannot write to" in answer.err
    assert_nothing_is_left(tiny)


def test_a_component_whose_import_fails_is_told(tiny: Path, command: Callable[..., object]) -> None:
    tiny.with_name("broken.py").write_text("import nothing_of_that_name\n")
    answer = command("run", tiny, "components=['broken.py']")
    assert answer.code == 2
    assert "broken.py cannot be imported: ModuleNotFoundError" in answer.err
    assert_nothing_is_left(tiny)


def test_a_token_outside_the_vocabulary_is_told(tiny: Path, command: Callable[..., object]) -> None:
    tiny.with_name("wrong.py").write_text(
        "import numpy as np\n"
        "from nanogpt_kit.api import Encoder, Tokenizer\n"
        "class Wrong(Tokenizer):\n"
        "    def build(self, ctx):\n"
        "        return Encoded()\n"
        "    def restore(self, state):\n"
        "        return Encoded()\n"
        "class Encoded(Encoder):\n"
        "    vocab_size, eot_id = 5, None\n"
        "    def encode_batch(self, texts):\n"
        "        return [np.arange(len(text)) % 7 for text in texts]\n"
        "    def decode_bytes(self, ids):\n"
        "        return b''\n"
    )
    answer = command("run", tiny, "components=['wrong.py']", "tokenizer=wrong")
    assert answer.code == 2
    assert "the tokenizer returned id 5 in document 0 of train, but its vocabulary ends at 4" in answer.err
    assert_nothing_is_left(tiny)


def test_an_unknown_verb_is_told(command: Callable[..., object]) -> None:
    answer = command("rnu")
    assert (answer.code, "there is no command 'rnu'; did you mean 'run'?" in answer.err) == (2, True)


def test_sampling_from_nothing_is_told(command: Callable[..., object]) -> None:
    answer = command("sample", "nobody")
    assert (answer.code, "no run 'nobody'" in answer.err) == (2, True)
