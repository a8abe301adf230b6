"""Tokenizers that come from elsewhere: from another run, or with tokens that were made elsewhere."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data import encoders
from nanogpt_kit.data.prepare import data_root, prepare
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.train import session

QUICK = ["callback=[]", "sample.num_samples=0", "train.steps=2", "tokenizer.use=char"]


@pytest.fixture
def other_text(tiny: Path) -> str:
    """An override: text with fewer characters than the first one, in other places of the alphabet."""
    path = tiny.with_name("other.txt")
    path.write_text("as everybody knows, nobody is anybody. " * 60)
    return f"dataset.source={path}"


def test_a_run_takes_another_ones_alphabet_and_weights(tiny: Path, other_text: str) -> None:
    session.run(Experiment.load(tiny, QUICK))
    tuned = [*QUICK, other_text, "name=tuned", "model.init_from=tiny"]
    with pytest.raises(KitError, match=r"was trained on other tokens: char of \d+ tokens, here char of \d+ tokens"):
        session.run(Experiment.load(tiny, tuned))
    session.run(Experiment.load(tiny, [*tuned, "tokenizer.from_run=tiny"]))
    mine, theirs = load_run("tuned").encoder, load_run("tiny").encoder
    assert mine.state() == theirs.state()


def test_characters_that_the_other_run_did_not_know_are_left_out_if_wanted(tiny: Path, text_file: Path) -> None:
    session.run(Experiment.load(tiny, QUICK))
    path = tiny.with_name("other.txt")
    path.write_text("as everybody knows, ZEBRAS exist. " * 60)
    tuned = [*QUICK, f"dataset.source={path}", "name=tuned", "model.init_from=tiny", "tokenizer.from_run=tiny"]
    with pytest.raises(KitError, match=r"not in the vocabulary of \d+ characters: 'A', 'B', 'E', 'R', 'S'"):
        session.run(Experiment.load(tiny, tuned))
    folder = session.run(Experiment.load(tiny, [*tuned, "tokenizer.unknown=skip"]))
    prepared = prepare(Experiment.load(tiny, [*tuned, "tokenizer.unknown=skip"]))
    total = sum(values.unknown for values in prepared.splits.values())
    assert total == 60 * sum(letter not in text_file.read_text(encoding="utf-8") for letter in path.read_text()[:34])
    assert folder.status().state == "finished"


@pytest.mark.parametrize(
    "record", ["", "null", "[]", "{}", '{"use": "char"}', '{"use": 3, "state": {}}', "[" * 100_000]
)
def test_a_damaged_tokenizer_of_another_run_is_named(tiny: Path, tmp_path: Path, record: str) -> None:
    path = (
        tmp_path / "runs" / "other" / "20260101-000000-s1-abcdef" / "checkpoints" / "step-00000001" / "tokenizer.json"
    )
    path.parent.mkdir(parents=True)
    (path.parents[2] / "experiment.toml").touch()
    path.write_text(record, encoding="utf-8")
    with pytest.raises(KitError, match=rf"tokenizer\.from_run: {path} ") as caught:
        prepare(Experiment.load(tiny, ["tokenizer.use=char", f"tokenizer.from_run={path.parents[2]}"]))
    assert caught.value.faults[0].location == "command line"


@pytest.mark.parametrize("state", [{}, {"characters": 3}, {"characters": ["ab"]}])
def test_a_vocabulary_that_the_tokenizer_cannot_use_is_refused(tiny: Path, state: dict[str, object]) -> None:
    experiment = Experiment.load(tiny, ["tokenizer.use=char"])
    with pytest.raises(KitError, match=r"tokenizer\.use: .*Char cannot use"):
        encoders.make_encoder(experiment.tokenizer, experiment.dataset, state)


def test_the_data_follows_the_alphabet_and_not_the_name_of_its_run(tiny: Path, other_text: str) -> None:
    for name in ("one", "two"):
        session.run(Experiment.load(tiny, [*QUICK, f"name={name}"]))
    session.run(Experiment.load(tiny, [*QUICK, other_text, "name=three"]))
    options = [*QUICK, other_text]
    folders = [
        prepare(Experiment.load(tiny, [*options, f"tokenizer.from_run={n}"])).path for n in ("one", "two", "three")
    ]
    assert folders[0] == folders[1] != folders[2]
    assert prepare(Experiment.load(tiny, options)).path not in folders


def test_a_run_that_is_not_there_or_has_other_tokens_is_named_with_its_line(
    tiny: Path, command: Callable[..., Any]
) -> None:
    text = tiny.read_text().replace('use = "byte"', 'use = "byte"\nfrom_run = "nowhere"')
    tiny.write_text(text)
    line = text.splitlines().index('from_run = "nowhere"') + 1
    told = command("prepare", tiny)
    assert told.code == 2
    assert f"{tiny}:{line}: tokenizer.from_run: " in told.err
    assert "nowhere" in told.err
    session.run(Experiment.load(tiny, ["tokenizer={use='char'}", "name=chars", *QUICK[:3]]))
    told = command("prepare", tiny, "tokenizer.from_run=chars")
    assert "the tokenizer char, not byte" in told.err


# --- tokens that were made elsewhere ----------------------------------------------------------------------------


def nanogpt_folder(tmp_path: Path, characters: str, text: str) -> str:
    """As nanoGPT's data/shakespeare_char/prepare.py writes it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    numbers = {letter: number for number, letter in enumerate(characters)}
    ids = np.array([numbers[letter] for letter in text], dtype=np.uint16)
    ids[: len(ids) * 9 // 10].tofile(folder / "train.bin")
    ids[len(ids) * 9 // 10 :].tofile(folder / "val.bin")
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": numbers}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return f"dataset={{use='token_files', source='{folder}'}}"


def test_nanogpts_tokens_are_copied_unchanged(tiny: Path, tmp_path: Path) -> None:
    text = "banana and a band; " * 50
    alphabet = "".join(sorted(set(text), reverse=True))  # an order that ours would not give
    dataset = nanogpt_folder(tmp_path, alphabet, text)
    prepared = prepare(Experiment.load(tiny, [dataset, "tokenizer.use=char"]))
    both = np.concatenate([prepared.tokens("train"), prepared.tokens("val")])
    assert prepared.encoder.decode(both) == text
    assert prepared.splits["train"].bytes == len(prepared.tokens("train")) == len(text) * 9 // 10
    assert (tmp_path / "theirs" / "val.bin").read_bytes() == (prepared.path / "val.bin").read_bytes()
    assert prepared.document_starts("train").tolist() == [0]
    folder = session.run(Experiment.load(tiny, [dataset, *QUICK]))
    assert folder.status().state == "finished"


def test_tokens_with_ends_are_told_apart_by_document(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    train = [*b"one", 256, *b"two and", 256, *b"the rest of it"] * 9
    np.array(train, dtype=np.uint16).tofile(folder / "train.bin")
    np.array([*b"validates these tokens", 256], dtype=np.uint16).tofile(folder / "val.bin")
    experiment = Experiment.load(tiny, [f"dataset={{use='token_files', source='{folder}'}}"])
    prepared = prepare(experiment)
    assert prepared.tokens("train").tolist() == train
    expected = [0, *(place + 1 for place, token in enumerate(train) if token == 256)]
    assert prepared.document_starts("train").tolist() == expected
    assert prepared.splits["train"].bytes == sum(token < 256 for token in train)
    assert prepared.references.keys() == {"gzip -9", "xz -9"}


def test_tokens_are_compared_between_splits_and_need_room(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    np.array([*b"the one", 256, *b"both of them", 256] * 9, dtype=np.uint16).tofile(folder / "train.bin")
    np.array([*b"both of them", 256, *b"validates"], dtype=np.uint16).tofile(folder / "val.bin")
    experiment = Experiment.load(tiny, [f"dataset={{use='token_files', source='{folder}'}}"])
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_100))
        with pytest.raises(KitError, match=r"need about 0\.00 GB, and 0\.05 GB are free in"):
            prepare(experiment)
    splits = prepare(experiment).splits
    assert (splits["train"].duplicates, splits["val"].duplicates) == (9, 0)


@pytest.mark.parametrize("wrong", [-1, 300])
def test_the_ids_of_a_plugins_tokenizer_are_checked(
    tiny: Path, tmp_path: Path, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.load(tiny, [nanogpt_folder(tmp_path, "ab", "ab" * 200), "tokenizer.use=char"])
    given = np.array([0, 1, wrong] * 30)
    monkeypatch.setattr(type(experiment.dataset), "tokens", lambda self, split: iter([given]))
    with pytest.raises(KitError, match=f"id {wrong}, but"):
        prepare(experiment)


@pytest.mark.parametrize("text", ["some words " * 30, "x" * 300, "", "short"])
def test_long_texts_are_learnt_from_in_words(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "PART_CHARACTERS", 40)
    pieces = list(encoders.split_at_spaces(text))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 40
    assert " " not in text or all(piece.startswith(" ") for piece in pieces[1:])


def test_ids_without_a_token_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    np.array([*range(200)], dtype=np.uint16).tofile(folder / "train_1.bin")
    np.array([*range(1, 300)], dtype=np.uint16).tofile(folder / "train_2.bin")
    np.array([*range(50)], dtype=np.uint16).tofile(folder / "val.bin")
    with pytest.raises(KitError, match=r"_2\.bin: token 256 at byte 512, .*id 257, but .* ends at 256; .*tokenizer"):
        prepare(Experiment.load(tiny, [f"dataset={{use='token_files', source='{folder}'}}"]))
    assert not data_root().exists()


def test_a_tokenizer_that_would_have_to_learn_from_tokens_says_so(tiny: Path, tmp_path: Path) -> None:
    dataset = nanogpt_folder(tmp_path, "ab", "ab" * 200)
    (tmp_path / "theirs" / "meta.pkl").unlink()
    with pytest.raises(KitError, match=r"contains tokens, not text; .* tokenizer"):
        prepare(Experiment.load(tiny, [dataset, "tokenizer.use=char"]))


@pytest.mark.parametrize("use", ["bpe", "byte"])
def test_a_tokenizer_of_another_kind_than_the_tokens_is_named(tiny: Path, tmp_path: Path, use: str) -> None:
    dataset = nanogpt_folder(tmp_path, "ab", "ab" * 200)
    with pytest.raises(KitError, match=r"tokenizer\.use: the vocabulary .* characters"):
        prepare(Experiment.load(tiny, [dataset, f"tokenizer.use={use}"]))


def test_a_tokenizer_file_is_known_by_its_contents(tiny: Path, tmp_path: Path) -> None:
    import tokenizers

    def written(name: str, words: str) -> str:
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, **dict.fromkeys(words, 1)}, "[UNK]"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        made.save(str(tmp_path / name))
        return f"tokenizer={{use='huggingface', file='{tmp_path / name}'}}"

    one, copy = written("one.json", "a"), written("copy.json", "a")
    first = prepare(Experiment.load(tiny, [one, "model.block_size=1"])).path
    assert prepare(Experiment.load(tiny, [copy, "model.block_size=1"])).path == first
    written("one.json", "b")
    assert prepare(Experiment.load(tiny, [one, "model.block_size=1"])).path != first


def test_a_resumed_run_needs_the_other_run_no_more(tiny: Path, other_text: str) -> None:
    import shutil

    source = session.run(Experiment.load(tiny, QUICK))
    options = [*QUICK, other_text, "name=tuned", "tokenizer.from_run=tiny", "schedule={use='constant'}"]
    tuned = session.run(Experiment.load(tiny, options))
    shutil.rmtree(source.path)
    longer = Experiment.load(tiny, [*options, "train.steps=4"])
    assert session.run(longer, resume=str(tuned)).status().step == 4
    with pytest.raises(KitError, match=r"tokenizer\.from_run"):
        session.run(Experiment.load(tiny, [*options, "name=fresh"]))
