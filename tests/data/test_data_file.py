"""Prepared data that is not what was written is refused: by its file's name, in a sentence, before it is trained on."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import KitError
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.corpus import hashes
from nanogpt_kit.data import data_file
from nanogpt_kit.data.data_file import DataFile
from nanogpt_kit.data.manifest import MANIFEST, manifest_hash, read_manifest
from nanogpt_kit.data.prepare import data_root, prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.tokenizer_record import tokenizer_fingerprint
from nanogpt_kit.system.json_files import read_json, write_json
from nanogpt_kit.system.reading import sha256_file
from nanogpt_kit.train import session
from nanogpt_kit.train.world import World

FILES = ("train.bin", "train.documents.bin", "val.bin", "val.documents.bin")
Damage = Callable[[Path], object]
Command = Callable[..., Any]


@pytest.fixture
def experiment(tiny: Path) -> Experiment:
    return Experiment.load(tiny, ["tokenizer.use=char"])


@pytest.fixture
def folder(experiment: Experiment) -> Path:
    return prepare(experiment).path


def refusal(experiment: Experiment) -> str:
    with pytest.raises(KitError) as caught:
        prepare(experiment)
    return str(caught.value)


def flip(path: Path, at: int | None = None) -> None:
    """One bit, in the middle where it is not said where."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


# --- the audit: each file of a data folder, flipped and cut -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        *((name, flip, "is not what was written: its SHA-256 is") for name in FILES),
        *((name, cut, r"has \d+ bytes instead of \d+") for name in FILES),
        (MANIFEST, flip, "is damaged: "),
        (MANIFEST, cut, "is damaged: "),
        *((name, Path.unlink, "is missing") for name in (*FILES, MANIFEST)),
    ],
)
def test_a_damaged_file_is_named_with_the_remedy(
    experiment: Experiment, folder: Path, name: str, harm: Damage, says: str
) -> None:
    harm(folder / name)
    assert re.fullmatch(
        f"{re.escape(str(folder / name))} {says}.*; remove {folder} to prepare the data again", refusal(experiment)
    )
    shutil.rmtree(folder)
    assert prepare(experiment).path == folder


def test_all_damaged_files_are_named_at_once(experiment: Experiment, folder: Path) -> None:
    for name in FILES[:3]:
        flip(folder / name)
    with pytest.raises(KitError) as caught:
        prepare(experiment)
    assert [str(fault).split()[0] for fault in caught.value.faults] == [str(folder / name) for name in FILES[:3]]


def test_a_flipped_bit_anywhere_in_the_manifest_is_noticed(folder: Path) -> None:
    manifest = folder / MANIFEST
    raw, whole, passed = manifest.read_bytes(), read_manifest(folder), []
    for at in range(0, len(raw), 7):
        flip(manifest, at)
        with suppress(KitError):
            passed.append(read_manifest(folder))
        manifest.write_bytes(raw)
    assert all(values == whole for values in passed)  # as where a number has more digits than count
    assert len(passed) < 3


# --- content that nobody's preparation wrote --------------------------------------------------------------------


def changed(**values: Any) -> Damage:
    """The manifest with other values, and all its hashes right. `train_tokens=5` is splits.train.tokens."""

    def change(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for key, value in values.items():
            section, _, name = key.partition("_")
            within = manifest["splits"].get(section, manifest.get(section))
            if isinstance(within, dict) and name:
                within[name] = value
            else:
                manifest[key] = value
        write(folder, manifest)

    return change


def write(folder: Path, manifest: dict[str, Any]) -> None:
    if isinstance(manifest.get("tokenizer"), dict):
        manifest["tokenizer"]["fingerprint"] = tokenizer_fingerprint(manifest["tokenizer"])
        manifest["sha256"] = manifest_hash(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def other_vocabulary(folder: Path) -> None:
    """Two characters change places, as an editor's hand may do it."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    first, second, *rest = manifest["tokenizer"]["state"]["characters"]
    manifest["tokenizer"]["state"]["characters"] = "".join([second, first, *rest])
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def moved_outside(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["splits"]["../val"] = manifest["splits"].pop("val")
    write(folder, manifest)


def text(content: str | bytes) -> Damage:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / MANIFEST).write_bytes(raw)


def fifo(name: str) -> Damage:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return replace


def link(name: str, target: str) -> Damage:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return replace


def a_folder(name: str) -> Damage:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return replace


HOSTILE: dict[str, tuple[Damage, str, str]] = {
    "empty": (text(""), MANIFEST, "is damaged: "),
    "no JSON": (text("{"), MANIFEST, "is damaged: "),
    "not UTF-8": (text(b'{"version": "\xff"}'), MANIFEST, "is damaged: "),
    "null": (text("null"), MANIFEST, "is damaged: "),
    "a list": (text("[1, 2]"), MANIFEST, "is damaged: "),
    "deep": (text('{"splits":' * 100_000), MANIFEST, "is damaged: .*deep"),
    "deep and whole": (text("[" * 100_000 + "]" * 100_000), MANIFEST, "is damaged: .*deep"),
    "a long number": (text('{"version": %s}' % ("9" * 5000)), MANIFEST, "is damaged: "),
    "another version": (changed(version=2), MANIFEST, "is of another format: version: "),
    "splits is a list": (changed(splits=["train", "val"]), MANIFEST, "is damaged: splits: "),
    "no validation": (changed(splits={}), MANIFEST, "is damaged: its splits are not train, val"),
    "a split is null": (changed(val=None, splits={"train": None}), MANIFEST, r"is damaged: splits\.train: "),
    "a name that leads outside": (moved_outside, MANIFEST, "is damaged: its splits are not train, val"),
    "a negative count": (changed(train_tokens=-1), MANIFEST, r"is damaged: splits\.train\.tokens: "),
    "a huge count": (changed(train_documents=10**300), MANIFEST, r"is damaged: splits\.train\.documents: "),
    "an infinite count": (changed(val_bytes=1e999), MANIFEST, r"is damaged: splits\.val\.bytes: "),
    "a fraction": (changed(val_tokens=2.5), MANIFEST, r"is damaged: splits\.val\.tokens: "),
    "a count in words": (changed(val_longest="many"), MANIFEST, r"is damaged: splits\.val\.longest: "),
    "a hash that is none": (changed(val_sha256="../../etc"), MANIFEST, r"is damaged: splits\.val\.sha256: "),
    "references in words": (changed(val_references={"xz": "few"}), MANIFEST, r"is damaged: splits\.val\.references"),
    "dtype object": (changed(dtype="object"), MANIFEST, "is damaged: dtype: "),
    "dtype too wide": (changed(dtype="uint32"), MANIFEST, "is damaged: its vocab_size, eot_id or dtype"),
    "more tokens": (changed(train_tokens=10**9), "train.bin", r"has \d+ bytes instead of 2000000000"),
    "no tokens": (changed(train_tokens=0), "train.bin", r"has \d+ bytes instead of 0"),
    "a vocabulary that shrank": (changed(tokenizer_vocab_size=5), MANIFEST, "is damaged: its vocab_size"),
    "an end of text": (changed(tokenizer_eot_id=3), MANIFEST, "is damaged: its vocab_size, eot_id"),
    "state is a list": (changed(tokenizer_state=[]), MANIFEST, r"is damaged: tokenizer\.state: "),
    "no characters": (changed(tokenizer_state={}), MANIFEST, r"is damaged: tokenizer\.state: .*KeyError"),
    "characters are a number": (
        changed(tokenizer_state={"characters": 3}),
        MANIFEST,
        r"is damaged: tokenizer\.state: ",
    ),
    "tokenizer is null": (changed(tokenizer=None), MANIFEST, "is damaged: tokenizer: "),
    "other characters": (other_vocabulary, MANIFEST, "is damaged: its tokenizer, vocabulary included, is not the one"),
    "another dataset": (changed(dataset_fingerprint="0"), MANIFEST, "records another text than the folder's name says"),
    "another tokenizer": (
        changed(tokenizer_use="byte"),
        MANIFEST,
        "records another tokenizer than the folder's name says",
    ),
    "manifest is a folder": (a_folder(MANIFEST), MANIFEST, "cannot be read"),
    "manifest is a FIFO": (fifo(MANIFEST), MANIFEST, "cannot be read"),
    "manifest never ends": (link(MANIFEST, "/dev/zero"), MANIFEST, "cannot be read"),
    "manifest leads nowhere": (link(MANIFEST, "nowhere"), MANIFEST, "is missing"),
    "tokens are a FIFO": (fifo("train.bin"), "train.bin", "is not a regular file"),
    "tokens are a folder": (a_folder("val.bin"), "val.bin", "is not a regular file"),
    "tokens never end": (link("val.bin", "/dev/zero"), "val.bin", "is not a regular file"),
    "tokens lead nowhere": (link("val.documents.bin", "nowhere"), "val.documents.bin", "is missing"),
    "tokens lead to others": (link("val.bin", "train.bin"), "val.bin", "has "),
    "a link to itself": (link("val.bin", "val.bin"), "val.bin", "cannot be read"),
}


@pytest.mark.parametrize(("harm", "name", "says"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_is_refused_in_a_sentence(
    experiment: Experiment, folder: Path, harm: Damage, name: str, says: str
) -> None:
    harm(folder)
    assert re.match(
        f"{re.escape(str(folder / name))} {says}.*; remove {folder} to prepare the data again", refusal(experiment)
    )


def test_control_characters_in_foreign_names_are_escaped(experiment: Experiment, folder: Path) -> None:
    changed(splits={"\x1b]0;pwned\x07": 3})(folder)
    assert refusal(experiment).isprintable()


def test_the_command_reports_it_and_exits_with_two(tiny: Path, folder: Path, command: Command) -> None:
    (folder / MANIFEST).write_text("{", encoding="utf-8")
    answer = command("prepare", tiny, "tokenizer.use=char")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {folder / MANIFEST} is damaged")


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/nowhere")], ids=["file", "link"])
@pytest.mark.parametrize("partial", [False, True], ids=["the folder", "half of it"])
def test_files_in_place_of_the_data_stay_unchanged(
    experiment: Experiment, folder: Path, make: Damage, partial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder)
    monkeypatch.setattr("platform.node", lambda: "here")
    place = folder.with_name(f".{folder.name}.here") if partial else folder
    make(place)
    assert f"{place} is not a folder; remove it" in refusal(experiment)
    assert os.path.lexists(place)


# --- numbers that mean nothing, under hashes that are right -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at", "value", "says"),
    [
        ("train.bin", 7, 60_000, r"60000 at position 7, and only numbers below \d+ are valid"),
        ("val.bin", -1, 60_000, r"60000 at position \d+, and only numbers below \d+"),
        ("val.documents.bin", 0, 10**12, r"1000000000000 at position 0, and only numbers below \d+"),
        ("val.documents.bin", 0, -1, "-1 at position 0, .*ascending"),
        ("train.documents.bin", -1, 0, r"0 at position \d+, .*ascending"),
    ],
)
def test_an_invalid_integer_is_reported_with_its_index(
    tiny: Path, tmp_path: Path, name: str, at: int, value: int, says: str
) -> None:
    lines = "".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(99))
    (tmp_path / "lines.jsonl").write_text(lines, encoding="utf-8")
    experiment = Experiment.load(tiny, [f"dataset.source={tmp_path / 'lines.jsonl'}"])
    folder = prepare(experiment).path
    numbers = np.fromfile(folder / name, np.int64 if "documents" in name else np.uint16)
    numbers[at] = value
    numbers.tofile(folder / name)
    key = f"{name.split('.')[0]}_{'documents_' if 'documents' in name else ''}sha256"
    changed(**{key: sha256_file(folder / name)})(folder)
    assert re.match(f"{re.escape(str(folder / name))} .*{says}", refusal(experiment))


@pytest.mark.parametrize("at", [0, 1, 6, 7, 8, 15, 16, 19])
def test_the_first_invalid_integer_is_found_in_any_chunk(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_file, "READ_BYTES", 64)  # eight numbers
    numbers = np.arange(10, 30)
    numbers[at:] -= 100
    numbers[-1] += 2000
    numbers.tofile(tmp_path / "a")
    file = DataFile(tmp_path / "a", "<i8", 20, sha256_file(tmp_path / "a"), limit=1000, ascending=True)
    assert f"{numbers[at]} at position {at}, " in str(file.find_damage())


# --- large files are read once ----------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read; all are large here."""
    names: list[str] = []
    compute = DataFile.hash_and_check
    monkeypatch.setattr(hashes, "CACHED_FROM_BYTES", 1)
    monkeypatch.setattr(DataFile, "hash_and_check", lambda self, path: names.append(path.name) or compute(self, path))
    return names


def grown_old(folder: Path) -> None:
    """So that what is read now is remembered."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


def test_large_files_are_not_read_by_those_who_wrote_them_nor_twice(experiment: Experiment, read: list[str]) -> None:
    folder = prepare(experiment).path
    prepare(experiment)
    assert read == []
    grown_old(folder)  # it might be another file now
    for _ in range(2):
        prepare(experiment)
        assert sorted(read) == sorted(FILES)


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_large_file_that_changed_is_read_again(experiment: Experiment, read: list[str], change: str) -> None:
    file = prepare(experiment).path / "train.bin"
    before = file.stat()
    if change == "inode":
        shutil.copy2(file, file.with_name("other"))
        file.with_name("other").replace(file)
    flip(file)
    if change == "size":
        file.write_bytes(file.read_bytes() + b"\0\0")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + (change == "time")))
    assert f"{file} " in refusal(experiment)


def test_another_vocabulary_is_another_question(experiment: Experiment, read: list[str]) -> None:
    file = next(file for file in prepare(experiment).files if file.path.name == "train.bin")
    assert file.find_damage() is None
    assert "only numbers below 3 are valid" in str(DataFile(**{**vars(file), "limit": 3}).find_damage())


def test_a_flipped_bit_with_an_old_modification_time_is_found_by_verify(
    tiny: Path, experiment: Experiment, read: list[str], command: Command
) -> None:
    folder = prepare(experiment).path
    before = (folder / "val.bin").stat()
    flip(folder / "val.bin")
    os.utime(folder / "val.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    prepare(experiment)  # nothing seems to have changed
    words = ("prepare", tiny, "tokenizer.use=char", "--verify")
    answer = command(*words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {folder / 'val.bin'} is not what was written")
    lines = {line.split()[0]: line for line in answer.out.splitlines()}
    assert set(lines) == {*FILES, MANIFEST}
    assert {name for name, line in lines.items() if "as recorded" not in line} == {"val.bin"}
    assert lines["val.bin"].split()[1] == "damaged,"
    assert sorted(read) == sorted(FILES)


def test_verify_caches_its_results(tiny: Path, experiment: Experiment, read: list[str], command: Command) -> None:
    folder = prepare(experiment).path
    grown_old(folder)
    prepare(experiment)
    before = (folder / "val.bin").stat()
    flip(folder / "val.bin")
    os.utime(folder / "val.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    command("prepare", tiny, "tokenizer.use=char", "--verify")
    assert str(folder / "val.bin") in refusal(experiment)


def test_verify_prepares_what_is_not_there_and_reads_all_of_it(tiny: Path, read: list[str], command: Command) -> None:
    answer = command("prepare", tiny, "--verify")
    assert answer.code == 0
    assert answer.out.splitlines()[-1].startswith(str(data_root()))
    assert answer.out.count("as recorded") == 5
    assert sorted(read) == sorted(FILES)


def test_other_ranks_leave_the_files_to_the_first(experiment: Experiment, read: list[str]) -> None:
    folder = prepare(experiment).path
    grown_old(folder)
    assert prepare(experiment, verify=False).path == folder
    assert read == []


def test_opening_twenty_megabytes_takes_less_than_a_tenth_of_a_second(tmp_path: Path) -> None:
    np.zeros(10_000_000, np.uint16).tofile(tmp_path / "a")  # not remembered, as it is young
    file = DataFile(tmp_path / "a", "uint16", 10_000_000, sha256_file(tmp_path / "a"), limit=1, ascending=False)
    began = time.process_time()
    assert file.find_damage() is None
    assert time.process_time() - began < 0.1


# --- runs over it -----------------------------------------------------------------------------------------------


def in_order(first: str, second: str, *rest: str) -> str:
    return "".join([second, first, *rest])


def test_a_resumed_run_refuses_another_vocabulary_over_the_same_tokens(tiny: Path, folder: Path) -> None:
    """Also where whoever changed it made all hashes right."""
    options = ["tokenizer.use=char", "callback=[]", "sample.num_samples=0", "train.steps=2", "schedule=constant"]
    run = session.run(Experiment.load(tiny, options))
    characters = read_manifest(folder).tokenizer.state["characters"]
    changed(tokenizer_state={"characters": in_order(*characters)})(folder)
    longer = Experiment.load(tiny, [*options, "train.steps=4"])
    with pytest.raises(
        KitError, match=f"on another tokenizer than {re.escape(str(folder / MANIFEST))} .*remove {folder}"
    ):
        session.run(longer, resume=str(run))
    changed(tokenizer_state={"characters": characters})(folder)
    kept = run.checkpoints / "step-00000002" / "tokenizer.json"
    other = json.loads(kept.read_text(encoding="utf-8"))
    other["state"]["characters"] = in_order(*characters)
    write_json(kept, other | {"fingerprint": tokenizer_fingerprint(other)})
    with pytest.raises(KitError, match=f"{re.escape(str(kept))} is another tokenizer than .*{MANIFEST}"):
        session.run(longer, resume=str(run))
    origin = read_json(run.path / "provenance.json")
    for key, says in {"splits": "tokens", "documents": "document boundaries", "tokenizer": "another tokenizer"}.items():
        before = "0" * 64 if key == "tokenizer" else {"train": "0" * 64, "val": "0" * 64}
        write_json(run.path / "provenance.json", origin | {"data": origin["data"] | {key: before}})
        with pytest.raises(KitError, match=f"{says} than {re.escape(str(folder / MANIFEST))}"):
            session.run(longer, resume=str(run))


def test_a_run_reads_the_data_on_one_rank_of_each_machine(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(experiment: Experiment, tokenizer_state: object, verify: bool) -> None:
        asked.append(verify)
        raise KitError("as far as this goes")

    asked: list[bool] = []
    monkeypatch.setattr("nanogpt_kit.train.setup.prepare", prepare)
    for local_rank in (0, 1):
        monkeypatch.setattr(World, "of_environment", lambda local=local_rank: World(local_rank=local))
        with pytest.raises(KitError, match="as far as this goes"):
            session.run(experiment)
    assert asked == [True, False]


# --- while it is in use -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val.bin", "val.documents.bin"])
def test_a_file_that_is_cut_while_it_is_in_use_is_named(experiment: Experiment, folder: Path, name: str) -> None:
    prepared = prepare(experiment)
    os.truncate(folder / name, 0)
    with pytest.raises(RunFailed, match=re.escape(str(folder / name))):
        prepared.split("val")


def test_a_split_may_be_empty_of_tokens(folder: Path, experiment: Experiment) -> None:
    prepared = prepare(experiment)
    split = prepared.splits["val"].model_copy(update={"tokens": 0, "documents": 0})
    manifest = prepared.manifest.model_copy(update={"splits": {"val": split}})
    empty = PreparedData(folder, prepared.encoder, manifest)
    assert len(empty.split("val").tokens) == 0
