"""Prompts: one without tokens is refused before anything is prepared; what is written follows it as in a whole text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers as hf

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.train import session

QUICK = ["callback=[]", "train.steps=1", "sample.num_samples=0"]


@pytest.fixture
def words(tmp_path: Path, text_file: Path) -> Path:
    """A tokenizer.json without end-of-text, which takes a line end for a space, and puts spaces before words."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.normalizer = hf.normalizers.Replace(hf.Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = hf.decoders.Metaspace(prepend_scheme="first")
    tokenizer.normalizer = hf.normalizers.Sequence([tokenizer.normalizer, hf.normalizers.Strip()])
    tokenizer.train_from_iterator([text_file.read_text()], hf.trainers.BpeTrainer(vocab_size=120, show_progress=False))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def options_of(file: Path) -> list[str]:
    return ["tokenizer.use=huggingface", f"tokenizer.file='{file}'"]


def test_a_prompt_without_tokens_is_found_before_data_is_prepared(tiny: Path, words: Path) -> None:
    with pytest.raises(KitError) as refused:
        session.run(Experiment.load(tiny, options_of(words)))
    (fault,) = refused.value.faults
    assert (fault.key, "'\\n'" in fault.message, 'sample.prompt="The"' in fault.message) == (
        "sample.prompt",
        True,
        True,
    )
    assert not (tiny.parent / "data").exists()
    assert not (tiny.parent / "runs").exists()


def test_an_empty_prompt_is_found_before_a_vocabulary_is_learnt(tiny: Path) -> None:
    with pytest.raises(KitError) as refused:
        session.run(Experiment.load(tiny, ["tokenizer=char", "sample.prompt="]))
    (fault,) = refused.value.faults
    assert (fault.location, fault.key) == ("command line", "sample.prompt")
    assert not (tiny.parent / "data").exists()


def test_a_prompt_without_tokens_names_where_it_came_from(
    tiny: Path, words: Path, command: Callable[..., object]
) -> None:
    session.run(Experiment.load(tiny, [*QUICK, *options_of(words)]))
    for prompt in ("", "\n"):
        answer = command("sample", "tiny", "--prompt", prompt)
        assert (answer.code, answer.out) == (2, "")
        assert "--prompt: " in answer.err
        assert '--prompt="The"' in answer.err
    (tiny.parent / "empty.txt").write_text("")
    answer = command("sample", "tiny", "--prompt-file", tiny.parent / "empty.txt")
    assert (answer.code, f"--prompt-file {tiny.parent / 'empty.txt'}: " in answer.err) == (2, True)


def test_a_text_follows_its_prompt_as_the_library_has_it(tiny: Path, words: Path) -> None:
    session.run(Experiment.load(tiny, [*QUICK, *options_of(words)]))
    loaded, library = load_run("tiny"), hf.Tokenizer.from_file(str(words))
    for prompt in ("7 times", "as every"):
        pieces = list(loaded.stream_tokens([prompt], 40))
        whole = library.decode([*library.encode(prompt).ids, *(piece.token for piece in pieces)])
        assert prompt + "".join(piece.text for piece in pieces) == whole
        assert sum(bool(piece.text) for piece in pieces) > 30  # as they come


def test_what_waits_until_a_text_ends_is_searched_for_stops(tiny: Path, words: Path) -> None:
    parts = json.loads(words.read_text())
    after = {"type": "Replace", "pattern": {"Regex": "\\s+$"}, "content": ""}
    parts["decoder"] = {"type": "Sequence", "decoders": [parts["decoder"], {"type": "Fuse"}, after]}
    words.write_text(json.dumps(parts))
    session.run(Experiment.load(tiny, [*QUICK, *options_of(words)]))
    loaded = load_run("tiny")
    (text,) = loaded.generate(["7 times"], 40)
    stop = text[len("7 times") + 10]
    pieces = list(loaded.stream_tokens(["7 times"], 40, stop=[stop]))
    assert "".join(piece.text for piece in pieces) == text.removeprefix("7 times").partition(stop)[0]
    assert pieces[-1].finish_reason == "stop"


RECORDS = {
    "nothing": "null",
    "an empty file": "",
    "a list": "[]",
    "no state": '{"use": "char"}',
    "a state of null": '{"use": "char", "state": null}',
    "a state that is a number": '{"use": "char", "state": 5}',
    "characters that are a number": '{"use": "char", "state": {"characters": 5}}',
    "half a surrogate pair": '{"use": "char", "state": {"characters": "\\ud800"}}',
    "deep": "[" * 100_000,
}


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """A run of characters, made once."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("abc def\n" * 400)
    (folder / "tiny.toml").write_text(tiny_text.format(text=folder / "text.txt"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NANOGPT_KIT_RUNS", str(folder / "runs"))
        patched.setenv("NANOGPT_KIT_DATA", str(folder / "data"))
        return session.run(Experiment.load(folder / "tiny.toml", [*QUICK, "tokenizer=char"])).path


@pytest.mark.parametrize("content", RECORDS.values(), ids=RECORDS)
def test_a_tokenizer_that_a_stranger_wrote_is_refused_by_its_file(checkpointed: Path, content: str) -> None:
    (checkpoint,) = store.list_checkpoints(checkpointed / "checkpoints")
    path, manifest = checkpoint / store.TOKENIZER, checkpoint / store.MANIFEST
    path.write_text(content)
    listed = json.loads(manifest.read_text())
    listed["files"][store.TOKENIZER] = sha256_file(path)
    manifest.write_text(json.dumps(listed))
    with pytest.raises(KitError) as refused:
        load_run(checkpointed)
    assert str(path) in str(refused.value)
