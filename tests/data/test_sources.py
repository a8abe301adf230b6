"""The prepared data of a mixture: each split has its sources one after the other, each as if it were alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.manifest import manifest_hash
from nanogpt_kit.data.prepare import find_prepared, prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.proportions import Proportions
from nanogpt_kit.data.writer import JOURNAL, StalePreparation, TokenWriter
from nanogpt_kit.data.yardsticks import compute_yardsticks
from tests.data.mixtures import alone, mixture, sentences, write_lines

CODE, NOTES = sentences("code", 90), sentences("notes", 40)


@pytest.fixture
def mixed(tiny: Path) -> Experiment:
    return mixture(tiny, code=CODE, notes={"texts": NOTES, "dataset": {"val_fraction": 0.25}})


def same_split(data: PreparedData, index: int, split: str, of_part: PreparedData) -> None:
    source = data.split(split).sources[index]
    mine, theirs = data.split(split).of_source(source), of_part.split(split)
    assert np.array_equal(mine.tokens, theirs.tokens)
    assert np.array_equal(mine.document_starts, theirs.document_starts)
    record, whole = data.splits[split].sources[index], of_part.splits[split]
    assert (record.bytes, record.documents, record.unknown) == (whole.bytes, whole.documents, whole.unknown)
    if split != "train":
        hashes = record.sha256, record.documents_sha256, record.text_sha256
        assert hashes == (whole.sha256, whole.documents_sha256, whole.text_sha256)


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2"])
def test_each_source_has_the_tokens_that_it_has_alone(
    tokenizer: str, mixed: Experiment, tiny: Path, gpt2_vocabulary: None
) -> None:
    """With and without a token at the end of each document."""
    data = prepare(mixed.with_(tokenizer=tokenizer))
    parts = [alone(tiny, "code"), alone(tiny, "notes", val_fraction=0.25)]
    for index, part in enumerate(parts):
        of_part = prepare(part.with_(tokenizer=tokenizer))
        for split in ("train", "val"):
            same_split(data, index, split, of_part)
    for split in ("train", "val"):
        names = [source.name for source in data.split(split).sources]
        assert names == ["code", "notes"]
        assert sum(source.n_tokens for source in data.split(split).sources) == len(data.tokens(split))


def test_a_learnt_tokenizer_learns_from_all_parts(tiny: Path) -> None:
    experiment = mixture(tiny, latin=["abc " * 40, "bca " * 40], greek=["αβγ " * 40, "γβα " * 40]).with_(
        tokenizer="char"
    )
    assert set(prepare(experiment).encoder.decode(range(7))) == set("abc αβγ")


def test_other_weights_and_names_are_the_same_data_and_another_text_is_not(mixed: Experiment, tiny: Path) -> None:
    before = prepare(mixed)
    options = mixed.resolved()["dataset"]["part"]
    other = [{**options[0], "weight": 3, "name": "programs"}, {**options[1], "weight": 1, "max_passes": 2}]
    again = prepare(mixed.with_(dataset={"part": other}))
    assert again.path == before.path
    assert again.sources == ("programs", "notes")
    write_lines(tiny.parent / "notes.jsonl", [*NOTES, "one more"])
    assert prepare(mixed).path != before.path
    assert prepare(mixed.with_(dataset={"part": options[::-1]})).path not in (before.path, prepare(mixed).path)


def test_a_killed_preparation_continues_within_the_source_where_it_was(
    mixed: Experiment, tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nanogpt_kit.data.chunks.CHUNK_CHARACTERS", 200)
    whole = prepare(mixed)
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(tiny.parent / "again"))
    add, stop = TokenWriter.add, whole.splits["train"].sources[0].bytes // 200

    def interrupted(self: TokenWriter, split: str, chunk: Any, empty: int, checksum: int, source: int) -> None:
        if self.chunks > stop + 3 and source == 1:
            self.finish()  # all before it is on disk
            raise KeyboardInterrupt
        add(self, split, chunk, empty, checksum, source)

    monkeypatch.setattr(TokenWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(mixed, workers=1)
    (journal,) = (tiny.parent / "again").glob(f"*/{JOURNAL}")
    counts = json.loads(journal.read_text())["splits"]["train"]["sources"]
    assert counts[0]["tokens"] == whole.splits["train"].sources[0].tokens  # so it stopped in the second
    monkeypatch.setattr(TokenWriter, "add", add)
    caplog.set_level("INFO", logger="nanogpt_kit")
    again = prepare(mixed, workers=1)
    assert "continuing an unfinished preparation" in caplog.text
    assert again.splits == whole.splits


def test_the_journal_of_other_sources_is_not_continued(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, ("train", "val"), "us", n_sources=2) as writer:
        writer.finish()
    with pytest.raises(StalePreparation, match="other sources"):
        TokenWriter(tmp_path, ("train", "val"), "us", n_sources=3)


def test_documents_that_another_part_has_in_a_smaller_split_are_counted(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Although the training text of a part is read before the validation text of the next one."""
    late = {"texts": [*CODE[:6], *NOTES], "dataset": {"val_fraction": 0.9}}
    plain = mixture(tiny, a={"texts": CODE, "dataset": {"val_fraction": 0.01}}, b=late)
    data = prepare(plain)
    first = set(plain.dataset.part[0].dataset.documents("train"))
    second = set(plain.dataset.part[1].dataset.documents("val"))
    assert data.splits["train"].duplicates == len(first & second) > 0
    assert f"{len(first & second)} documents of train are also in a smaller split" in caplog.text


def test_a_test_split_is_there_only_where_every_part_has_one(tiny: Path) -> None:
    with_test = {"test_fraction": 0.2}
    one = mixture(tiny, code={"texts": CODE, "dataset": with_test}, notes=NOTES)
    assert one.dataset.splits == ("train", "val")
    both = mixture(tiny, code={"texts": CODE, "dataset": with_test}, notes={"texts": NOTES, "dataset": with_test})
    assert both.dataset.splits == ("train", "val", "test")
    data = prepare(one)
    kept = sum(len(text) for split in ("train", "val") for text in one.dataset.part[0].dataset.documents(split))
    assert kept == sum(data.splits[split].sources[0].bytes for split in ("train", "val"))
    assert [source.name for source in prepare(both).split("test").sources] == ["code", "notes"]


def test_a_source_shorter_than_a_window_is_refused_by_name(tiny: Path) -> None:
    experiment = mixture(tiny, code=CODE, short=["abc def", "ghi jkl"])
    with pytest.raises(KitError) as caught:
        prepare(experiment)
    message = str(caught.value)
    assert "train of 'short' has 8 tokens, val of 'short' has 8 tokens" in message
    assert "model.block_size = 16 needs at least 17" in message
    assert "'code'" not in message


@pytest.mark.parametrize("key", ["tokens", "documents"])
def test_sources_that_do_not_make_up_the_split_are_damage(key: str, mixed: Experiment) -> None:
    path = prepare(mixed).path / "manifest.json"
    values = json.loads(path.read_text())
    values["splits"]["val"]["sources"][1][key] += 1
    values["sha256"] = manifest_hash(values)
    path.write_text(json.dumps(values))
    with pytest.raises(KitError, match=r"splits\.val\.sources are not 2 with the tokens and documents of it"):
        prepare(mixed)


def test_the_references_are_those_of_the_sources_by_their_text(mixed: Experiment, tiny: Path) -> None:
    data = prepare(mixed)
    parts = [prepare(alone(tiny, "code")), prepare(alone(tiny, "notes", val_fraction=0.25))]
    sizes = [part.splits["val"].bytes for part in parts]
    for name, value in data.references.items():
        expected = sum(size * part.references[name] for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        assert value == pytest.approx(expected)


def test_a_source_has_the_same_yardstick_in_every_mixture(mixed: Experiment, tiny: Path) -> None:
    """So that its loss is comparable between mixtures; that of all sources together is not."""
    here = compute_yardsticks(mixed, prepare(mixed).manifest)
    other = mixture(
        tiny,
        logs=sentences("logs", 50),
        code=CODE,
    )
    there = compute_yardsticks(other, prepare(other).manifest)
    for metric in ("val/loss", "val/bits_per_byte"):
        assert here[f"{metric}/code"] == there[f"{metric}/code"]
        assert here[metric] != there[metric]
        assert len({here[metric], here[f"{metric}/code"], here[f"{metric}/notes"]}) == 3
    one = compute_yardsticks(alone(tiny, "code"), prepare(alone(tiny, "code")).manifest)
    assert one["val/loss"] == here["val/loss/code"]  # as that of the dataset alone, though under another name


def test_without_weights_an_epoch_has_each_part_as_often_as_it_repeats(tiny: Path) -> None:
    experiment = mixture(tiny, code=CODE, notes={"texts": NOTES, "repeats": 2.5})
    data = prepare(experiment)
    proportions = Proportions.of_data(experiment, data)
    windows = {source.name: (source.n_tokens - 1) // 16 for source in data.sources_of("train")}
    epoch = windows["code"] * 2 + windows["notes"] * 5  # two epochs, so that they are whole windows
    assert proportions.taken(epoch) == {"code": 2 * windows["code"], "notes": 5 * windows["notes"]}
    assert proportions.passes(epoch) == {"code": 2.0, "notes": 5.0}
    assert proportions.described(epoch).endswith("notes in 5 passes")


def test_proportions_are_known_without_data_only_where_weights_decide_them(tiny: Path) -> None:
    weighted = mixture(tiny, code={"texts": CODE, "weight": 3}, notes={"texts": NOTES, "weight": 1})
    assert Proportions.without_data(weighted) == {"code": 0.75, "notes": 0.25}
    assert Proportions.without_data(mixture(tiny, code=CODE, notes=NOTES)) is None


def test_prepared_data_is_found_and_never_made(mixed: Experiment) -> None:
    assert find_prepared(mixed) is None
    path = prepare(mixed).path
    assert find_prepared(mixed).path == path
    assert find_prepared(mixed.with_(tokenizer="char")) is None
