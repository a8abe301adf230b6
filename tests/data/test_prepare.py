"""Preparing: text becomes tokens once, whole or not at all."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import KitError
from nanogpt_kit.components.dataset.text import Text
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.corpus.hash_split import document_digest, hash_fraction
from nanogpt_kit.data import build
from nanogpt_kit.data import chunks as cutting
from nanogpt_kit.data.prepare import data_root, prepare
from nanogpt_kit.data.prepared_data import PreparedData
from nanogpt_kit.data.writer import TokenWriter

# A tokenizer whose ids are code points moved up, under a vocabulary that may be too small for them.
MOVED = """
import numpy as np
from nanogpt_kit.api import Encoder, Tokenizer

class Moved(Tokenizer):
    up: int
    vocab_size: int

    def build(self, ctx):
        return MovedEncoder(self)

    def restore(self, state):
        return MovedEncoder(self)

class MovedEncoder(Encoder):
    eot_id = None

    def __init__(self, options):
        self.up, self.vocab_size = options.up, options.vocab_size

    def encode_batch(self, texts):
        return [np.array([ord(character) + self.up for character in text]) for text in texts]

    def decode_bytes(self, ids):
        return "".join(chr(token - self.up) for token in ids).encode()
"""

# Documents that end in an error.
RAISING = """
from nanogpt_kit.api import Dataset

class Raising(Dataset):
    def documents(self, split):
        yield "good text " * 50
        if split == "val":
            raise RuntimeError("the source broke off")

    def fingerprint(self):
        return "raising"
"""

# Two processes ask for its fingerprint before either may go on; then it notes how often its text is read.
MEETING = """
import os, time
from pathlib import Path
from nanogpt_kit.api import Dataset

class Meeting(Dataset):
    folder: str

    def documents(self, split):
        with open(Path(self.folder, "read"), "a") as file:
            file.write(f"{split} ")
        time.sleep(0.1)
        yield f"what {split} is made of " * 9

    def fingerprint(self):
        Path(self.folder, f"{os.getpid()}.here").touch()
        while len(list(Path(self.folder).glob("*.here"))) < 2:
            time.sleep(0.01)
        return "meeting"
"""

# Forks a preparation that kills itself at some line of ours, over and over, and prepares again after each.
KILLED = """
import os, random, shutil, signal, sys
from pathlib import Path
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import data_root, prepare

experiment, root = Experiment.load(sys.argv[1]), data_root()

def in_child(kill_at):
    # Returns how many lines the child ran, or -9.
    def trace(frame, event, argument):
        nonlocal lines
        if os.path.basename(os.path.dirname(frame.f_code.co_filename)) not in ("data", "runs"):
            return None
        lines += event == "line"
        if lines == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    lines = 0
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        sys.settrace(trace)
        prepare(experiment)
        sys.settrace(None)
        os.write(writing, str(lines).encode())
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return int(os.read(reading, 99)) if code == 0 else code

def contents():
    return {path.relative_to(root): path.read_bytes() for path in root.glob("*/*") if path.is_file()}

total = in_child(kill_at=None)
whole = contents()
assert len(whole) == 5, whole.keys()
(whole_folder,) = {path.parts[0] for path in whole}
assert total > 100, total
partial = 0
for kill_at in sorted(random.Random(1).sample(range(1, total + 1), 25)):
    shutil.rmtree(root)
    assert in_child(kill_at) == -signal.SIGKILL
    left = contents()
    partial += bool(left) and left != whole
    if any(path.name == "manifest.json" and not str(path).startswith(".") for path in left):
        assert left == whole, (kill_at, left.keys())
    prepare(experiment)
    assert contents() == whole, (kill_at, contents().keys())
    assert [path.name for path in root.iterdir() if path.is_dir()] == [whole_folder], list(root.iterdir())
print(partial)
"""


def load(tiny: Path, *overrides: str, **files: str) -> Experiment:
    """`tiny` with overrides and with local component files: moved=MOVED becomes moved.py."""
    for stem, code in files.items():
        (tiny.parent / f"{stem}.py").write_text(code)
    local = [f"components={json.dumps([f'{stem}.py' for stem in files])}"] if files else []
    return Experiment.load(tiny, [*overrides, *local])


def refused(experiment: Experiment) -> str:
    """Why it cannot be prepared; nothing may be left behind."""
    with pytest.raises(KitError) as caught:
        prepare(experiment)
    assert not data_root().exists()
    return str(caught.value)


def moved(up: int, vocab_size: int) -> list[str]:
    return ["tokenizer.use=moved", f"tokenizer.up={up}", f"tokenizer.vocab_size={vocab_size}"]


def decoded(prepared: PreparedData, *splits: str) -> bytes:
    return b"".join(prepared.encoder.decode_bytes(prepared.tokens(split).tolist()) for split in splits)


# --- what is written --------------------------------------------------------------------------------------------


def folders() -> list[Path]:
    """What lies in the data folder, but for the note that keeps it out of git."""
    return [path for path in data_root().iterdir() if path.name != ".gitignore"]


def test_data_is_prepared_once_and_found_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(load(tiny))
    files = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}

    def documents(self: Text, split: str) -> Iterator[str]:
        raise AssertionError("its documents are read again")

    monkeypatch.setattr(Text, "documents", documents)
    second = prepare(load(tiny, "model.n_layer=1", "train.steps=7", "name=other"))
    assert second.path == first.path
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == files
    np.testing.assert_array_equal(second.tokens("train"), first.tokens("train"))


def test_more_text_for_validation_than_for_training_is_noticed(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    novel = "A long story. " * 500
    (folder / "novel.txt").write_text(novel)
    notes = [f"Note {number}. " for number in range(100) if hash_fraction(document_digest(f"Note {number}. ")) > 0.1]
    notes.sort(key=document_digest)  # the lower digest of two documents is that of val
    for note, is_noticed in ((notes[0], False), (notes[-1], True)):
        (folder / "note.txt").write_text(note)
        caplog.clear()
        data = prepare(Experiment.load(tiny, [f"dataset.source={folder}", "tokenizer=byte", "model.block_size=4"]))
        assert (data.splits["val"].tokens > data.splits["train"].tokens) == is_noticed
        assert ("since a document is not divided between splits" in caplog.text) == is_noticed
    caplog.clear()
    prepare(Experiment.load(tiny, [f"dataset.source={folder}/novel.txt", "dataset.val_fraction=0.9", "tokenizer=byte"]))
    assert "since a document" not in caplog.text


def test_the_tokens_are_the_documents_each_ended(tiny: Path, tmp_path: Path) -> None:
    documents = [f"number {number} \u2603" for number in range(100)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    experiment = load(tiny, f"dataset.source={tmp_path / 'lines.jsonl'}")
    prepared = prepare(experiment)
    for split in ("train", "val"):
        ended = [[*text.encode(), 256] for text in experiment.dataset.documents(split)]
        assert prepared.tokens(split).tolist() == list(chain(*ended))


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_the_manifest_records_counts_and_hashes(tiny: Path, text_file: Path, tokenizer: str) -> None:
    experiment = load(tiny, f"tokenizer.use={tokenizer}")
    prepared = prepare(experiment)
    manifest = json.loads((prepared.path / "manifest.json").read_text(encoding="utf-8"))
    assert prepared.path.parent == data_root()
    assert prepared.path.name.startswith(f"text-{tokenizer}-")
    files = {"train.bin", "train.documents.bin", "val.bin", "val.documents.bin"}
    assert {path.name for path in prepared.path.iterdir()} == {"manifest.json", *files}
    assert manifest["dtype"] == "uint16"
    assert manifest["dataset"]["fingerprint"] == experiment.dataset.fingerprint()
    text = text_file.read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    for split, part in {"train": text[:cut], "val": text[cut:]}.items():
        entry = manifest["splits"][split]
        tokens = len(part.encode()) + 1 if tokenizer == "byte" else len(part)  # char has no end of text
        assert (entry["documents"], entry["bytes"], entry["tokens"]) == (1, len(part.encode()), tokens)
        raw = (prepared.path / f"{split}.bin").read_bytes()
        assert len(raw) == 2 * tokens
        assert entry["sha256"] == hashlib.sha256(raw).hexdigest()


def test_the_tokenizers_fingerprint_depends_on_its_options_and_its_state(tiny: Path, text_file: Path) -> None:
    def fingerprint(tokenizer: str, text: str) -> str:
        text_file.write_text(text * 100)
        return str(prepare(load(tiny, f"tokenizer.use={tokenizer}")).manifest.tokenizer.fingerprint)

    assert fingerprint("byte", "abc") == fingerprint("byte", "xyz")
    assert fingerprint("char", "abc") == fingerprint("char", "cabb")
    assert len({fingerprint("byte", "abc"), fingerprint("char", "abc"), fingerprint("char", "abcd")}) == 3


def test_the_tokens_do_not_depend_on_how_much_is_tokenized_at_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(200))
    (tmp_path / "lines.jsonl").write_text(lines)
    experiment = load(tiny, f"dataset.source={tmp_path / 'lines.jsonl'}")
    prepared = prepare(experiment)
    at_once = {path.name: path.read_bytes() for path in prepared.path.iterdir()}
    shutil.rmtree(data_root())
    monkeypatch.setattr(cutting, "CHUNK_CHARACTERS", 20)
    assert {path.name: path.read_bytes() for path in prepare(experiment).path.iterdir()} == at_once


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32"), (70_000, "uint32")])
def test_the_width_of_a_token_follows_the_vocabulary(tiny: Path, text_file: Path, vocab_size: int, dtype: str) -> None:
    text_file.write_text("".join(map(chr, range(32, 127))) * 30)
    prepared = prepare(load(tiny, *moved(vocab_size - 127, vocab_size), moved=MOVED))
    assert prepared.manifest.dtype == prepared.tokens("val").dtype.name == dtype
    assert prepared.tokens("train").max() == vocab_size - 1
    assert decoded(prepared, "train", "val") == text_file.read_bytes()


def test_references_are_what_gzip_and_xz_need_for_the_validation_text(tiny: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"the square of {number} is {number**2} \u2603\n"}) for number in range(900)]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    experiment = load(tiny, f"dataset.source={tmp_path / 'lines.jsonl'}")
    text = "".join(experiment.dataset.documents("val")).encode()
    assert prepare(experiment).references == {
        "gzip -9": 8 * len(gzip.compress(text, 9)) / len(text),
        "xz -9": 8 * len(lzma.compress(text, preset=9)) / len(text),
    }


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_unusual_text_survives_byte_for_byte(tiny: Path, text_file: Path, tokenizer: str) -> None:
    text = "bell \a, mark \ufeff, old\r\nlines\r\u2028, \u2603 \U0001f600\U0001f469\u200d\U0001f680 \U0010ffff\n" * 20
    text_file.write_bytes(b"\xef\xbb\xbf" + text.encode())  # the mark at the start is the file's, not the text's
    prepared = prepare(load(tiny, f"tokenizer.use={tokenizer}"))
    assert decoded(prepared, "train", "val") == text.encode()


def test_equal_text_elsewhere_shares_the_data_and_other_text_does_not(tiny: Path, text_file: Path) -> None:
    copy, other = text_file.with_name("copy.txt"), text_file.with_name("other.txt")
    shutil.copy(text_file, copy)
    other.write_text(text_file.read_text(encoding="utf-8") + ".", encoding="utf-8")
    paths = [prepare(load(tiny, f"dataset.source={path}")).path for path in (text_file, copy, other)]
    assert paths[0] == paths[1] != paths[2]
    assert prepare(load(tiny, "tokenizer.use=char")).path not in paths


# --- what is refused --------------------------------------------------------------------------------------------


def test_text_that_is_not_utf8_is_named_by_file_and_offset(tiny: Path, text_file: Path) -> None:
    text_file.write_bytes(b"one\ntwo \xff\n" * 200)
    assert refused(load(tiny)).startswith(f"{text_file}:2: not UTF-8: byte 0xff at offset 8")


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_half_a_surrogate_pair_is_named_by_line(tiny: Path, tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "lines.jsonl").write_text('{"text": "%s"}\n{"text": "ab\\ud83d"}\n' % ("good " * 99))
    experiment = load(tiny, f"dataset.source={tmp_path / 'lines.jsonl'}", f"tokenizer.use={tokenizer}")
    message = refused(experiment)
    assert r"lines.jsonl:2: not Unicode text: '\ud83d' at character 2" in message


def test_a_split_shorter_than_a_block_is_refused(tiny: Path, text_file: Path) -> None:
    text_file.write_text("x" * 159)  # 143 and 16, and an end of text each
    message = refused(load(tiny, "model.block_size=17", "train.batch_tokens=17"))
    assert message.startswith("val has 17 tokens, but model.block_size = 17 needs at least 18; ")
    assert message.endswith("model.block_size = 16")
    assert prepare(load(tiny)).splits["val"].tokens == 17


def test_found_data_that_is_shorter_than_a_block_is_refused_and_kept(tiny: Path, text_file: Path) -> None:
    text_file.write_text("x" * 159)
    kept = prepare(load(tiny)).path
    with pytest.raises(KitError, match=r"val has 17 tokens, but model\.block_size = 40 needs at least 41"):
        prepare(load(tiny, "model.block_size=40"))
    assert (kept / "manifest.json").exists()


@pytest.mark.parametrize(("up", "wrong"), [(65_500, 65_500 + 0x2603), (-40, -8)])
def test_an_id_out_of_the_vocabulary_is_refused(tiny: Path, up: int, wrong: int) -> None:
    message = refused(load(tiny, *moved(up, 70_000), moved=MOVED))
    assert message == f"the tokenizer returned id {wrong} in document 0 of train, but its vocabulary ends at 69999"


def test_documents_that_break_off_leave_nothing_behind(tiny: Path) -> None:
    with pytest.raises(RuntimeError, match="the source broke off"):
        prepare(load(tiny, "dataset.use=raising", raising=RAISING))
    assert not data_root().exists()


def test_a_failure_leaves_other_data_alone(tiny: Path) -> None:
    other = prepare(load(tiny))
    with pytest.raises(RuntimeError):
        prepare(load(tiny, "dataset.use=raising", raising=RAISING))
    assert folders() == [other.path]


def test_a_folder_that_cannot_be_written_is_named(tiny: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(text_file / "below"))
    assert f"cannot write to {text_file / 'below'}: Not a directory" in refused(load(tiny))


def test_a_full_disk_leaves_nothing_behind(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: TokenWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(TokenWriter, "start_flush", save)
    assert "No space left on device" in refused(load(tiny))


def test_a_split_that_is_not_there_is_refused_with_the_nearest(tiny: Path) -> None:
    with pytest.raises(KitError, match=r"no split 'vall'; did you mean 'val'\?"):
        prepare(load(tiny)).tokens("vall")


# --- several at once, and killed ones ---------------------------------------------------------------------------


def test_two_preparations_at_once_make_the_data_once(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "meeting").mkdir()
    (tmp_path / "meeting.py").write_text(MEETING)
    changed = tiny.read_text().replace('use = "text"\nsource', 'use = "meeting"\nfolder')
    tiny.write_text(
        'components = ["meeting.py"]\n' + changed.replace(str(tmp_path / "text.txt"), str(tmp_path / "meeting"))
    )
    code = (
        "import sys; from nanogpt_kit.core.experiment import Experiment; from nanogpt_kit.data.prepare import prepare; "
        "print(prepare(Experiment.load(sys.argv[1], trust_code=True)).path)"
    )
    both = [
        subprocess.Popen([sys.executable, "-Pc", code, tiny], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert (tmp_path / "meeting" / "read").read_text() == "val train "
    assert [str(path) for path in folders()] == [answers[0][0].strip()]


def test_data_that_another_machine_finished_first_is_taken(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = build.write_data

    def slower_fill(experiment: Experiment, identity: dict[str, Any], folder: Path, *rest: Any) -> None:
        fill(experiment, identity, folder, *rest)
        shutil.copytree(folder, folder.with_name(folder.name.split(".")[1]))

    monkeypatch.setattr(build, "write_data", slower_fill)
    prepared = prepare(load(tiny))
    assert folders() == [prepared.path]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_preparation_leaves_no_data_that_seems_complete(tiny: Path) -> None:
    answer = subprocess.run([sys.executable, "-Pc", KILLED, tiny], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 5  # of 25 kills that left half of the data
