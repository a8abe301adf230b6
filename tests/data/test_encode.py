"""From text to tokens on disk: cut alike, encoded anywhere, gone on with after a kill."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.api import Dataset, Document, Encoder, KitError
from nanogpt_kit.components.tokenizer.byte import Byte, ByteEncoder
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data import chunks as cutting
from nanogpt_kit.data import encode as encoding
from nanogpt_kit.data import prepare as preparation
from nanogpt_kit.data import pretokenized
from nanogpt_kit.data import writer as writing
from nanogpt_kit.data.chunks import CorpusStats, document_parts, text_chunks
from nanogpt_kit.data.encode import EncodedChunk, encode_chunk
from nanogpt_kit.data.encoders import EncoderRecipe
from nanogpt_kit.data.prepare import data_root, prepare
from nanogpt_kit.data.worker_pool import WorkerPool
from nanogpt_kit.data.writer import StalePreparation, TokenWriter
from nanogpt_kit.runs.lock import Lock

# A tokenizer worth other processes; told to, it fails at a word.
WORDS = """
import multiprocessing, os, sys, time
import numpy as np
from nanogpt_kit.api import Encoder, KitError, Tokenizer

class Words(Tokenizer):
    fails: str = ""
    seconds: float = 0.0

    def build(self, ctx):
        return WordsEncoder(self)

    def restore(self, state):
        return WordsEncoder(self)

class WordsEncoder(Encoder):
    vocab_size, eot_id = 257, 256

    def __init__(self, options):
        self.options = options

    def encode_batch(self, texts):
        print("a line of a worker" if multiprocessing.parent_process() else "a line of the command", flush=True)
        time.sleep(self.options.seconds)
        for text in texts:
            if self.options.fails and "number 3900" in text:
                if self.options.fails == "KitError":
                    raise KitError("3900 is not a number")
                if self.options.fails == "killed" and multiprocessing.parent_process():
                    os.kill(os.getpid(), 9)
                if self.options.fails == "ValueError":
                    raise ValueError("3900")
        return [np.frombuffer(text.encode(), np.uint8) for text in texts]

    def last_safe_cut(self, text):
        return text.rfind(" ") + 1

    def decode_bytes(self, ids):
        return bytes(token for token in ids if token < 256)
"""


class Fixed(Dataset):
    """The documents that it was given."""

    train: tuple[str, ...]
    val: tuple[str, ...] = ("val",)

    def documents(self, split: str) -> Iterator[Document]:
        return iter(getattr(self, split))

    def fingerprint(self) -> str:
        return ""


class AfterSpaces(ByteEncoder):
    """Bytes that may be cut behind a space only."""

    is_expensive = True

    def last_safe_cut(self, text: str) -> int:
        return text.rfind(" ") + 1


def word_options(tmp_path: Path, count: int) -> list[str]:
    """Options for `count` documents and the tokenizer above."""
    (tmp_path / "words.py").write_text(WORDS)
    lines = (json.dumps({"text": f"this is number {n}" + " and so on" * (n % 9)}) + "\n" for n in range(count))
    (tmp_path / "lines.jsonl").write_text("".join(lines))
    return [f"dataset.source={tmp_path / 'lines.jsonl'}", 'components=["words.py"]', "tokenizer.use=words"]


def words(tiny: Path, tmp_path: Path, *overrides: str, count: int = 2000) -> Experiment:
    return Experiment.load(tiny, [*word_options(tmp_path, count), *overrides])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs and shards of small sets, and processes for them."""
    monkeypatch.setattr(cutting, "CHUNK_CHARACTERS", 2000)
    monkeypatch.setattr(writing, "SHARD_BYTES", 10_000)
    monkeypatch.setattr(encoding, "MIN_BYTES_FOR_PROCESSES", 0)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- cutting ----------------------------------------------------------------------------------------------------


class InPieces:
    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces)


@pytest.mark.parametrize("document", ["one two three four", InPieces("one t", "", "wo th", "ree four")])
def test_a_long_document_is_cut_where_its_encoder_allows(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 6)
    found = list(document_parts(document, AfterSpaces()))
    assert "".join(text for text, _ in found) == "one two three four"
    assert [ends for _, ends in found] == [False] * (len(found) - 1) + [True]
    assert all(text.endswith(" ") for text, _ in found[:-1])
    assert len(found) >= 2


def test_a_document_without_a_safe_cut_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 6)
    looked = []

    class Nowhere(ByteEncoder):
        def last_safe_cut(self, text: str) -> int:
            looked.append(len(text))
            return 0

    assert list(document_parts("x" * 1000, Nowhere())) == [("x" * 1000, True)]
    assert sum(looked) < 4 * 1000  # not again and again


def test_chunks_contain_every_document_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 10)
    train = ("first", "", "second and longer than a job", "third", "", "last")
    found: dict[str, list[str]] = {"train": [""], "val": [""]}
    empty = 0
    for job in text_chunks(Fixed(train=train), AfterSpaces(), CorpusStats(("train", "val"), True, 100)):
        empty += job.empty_documents
        for number, (text, begins, ends) in enumerate(zip(job.texts, job.starts, job.ends, strict=True)):
            assert begins == (not found[job.split][-1])
            assert job.document_index(number) == len(found[job.split]) - 1
            found[job.split][-1] += text
            found[job.split] += [""] if ends else []
    assert found == {"train": ["first", "second and longer than a job", "third", "last", ""], "val": ["val", ""]}
    assert empty == 2


def test_a_split_that_the_dataset_does_not_have_is_named() -> None:
    class Astray(Fixed):
        def documents_with_split(self) -> Iterator[tuple[str, Document]]:
            yield "validation", "text"

    with pytest.raises(KitError, match=r"document of split 'validation'; its splits are train, val"):
        list(text_chunks(Astray(train=()), ByteEncoder(), CorpusStats(("train", "val"), True, 100)))


@pytest.mark.parametrize("size", [3, 1000])
def test_documents_that_two_splits_share_are_counted(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "CHUNK_CHARACTERS", size)
    monkeypatch.setattr(cutting, "PART_CHARACTERS", size)
    watch = CorpusStats(("train", "val"), True, 100)
    dataset = Fixed(train=("one two", "both of us", "both", "both of us", "three"), val=("both of us", "val", "val"))
    list(text_chunks(dataset, AfterSpaces(), watch))
    assert watch.duplicates == {"train": 2, "val": 0}
    assert watch.validation_sample == b"both of usvalval"


def test_tokens_of_documents_that_two_splits_share_are_counted() -> None:
    watch = CorpusStats(("train", "val"), True, 100)
    documents = {"val": [b"both", b"", b"val", b"val", b"open"], "train": [b"one", b"both", b"", b"open", b"both"]}
    for split, parts in documents.items():
        tokens = np.frombuffer(b"|".join(parts), np.uint8)
        for piece in np.split(tokens, [2, 3, 4, 5, 9]):
            pretokenized.observe_tokens(watch, split, piece, np.flatnonzero(piece == ord("|")), ByteEncoder())
        watch.observe_bytes(split, b"", is_end=True)
    assert watch.duplicates == {"train": 3, "val": 0}
    assert watch.validation_sample == b"both||val|val|open"


def test_the_beginning_of_validation_is_kept_in_bytes() -> None:
    watch = CorpusStats(("train", "val"), False, 5)
    list(text_chunks(Fixed(train=("x",), val=("a\u2603", "bcd")), ByteEncoder(), watch))
    assert watch.validation_sample == "a\u2603b".encode()


# --- encoding ---------------------------------------------------------------------------------------------------


def test_a_chunk_is_encoded_with_document_ends_and_starts() -> None:
    job = cutting.TextChunk(
        "train", first_document=4, starts_document=False, texts=["rest", "ab\u2603", "c"], ends=[True, True, False]
    )
    found = encode_chunk(job, ByteEncoder())
    assert found.ids.tolist() == [*b"rest", 256, *"ab\u2603".encode(), 256, *b"c"]
    assert found.ids.dtype == np.uint16
    assert found.document_starts.tolist() == [5, 11]
    assert found.text_bytes == 10


def test_processes_give_the_same_files_as_none(
    tiny: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    alone = files(prepare(words(tiny, tmp_path), workers=1).path)
    shutil.rmtree(data_root())
    capfd.readouterr()
    calls = itertools.count()

    def slow_start(self: WorkerPool[EncodedChunk]) -> bool:
        """As if the processes started within five chunks."""
        return next(calls) >= 5 and all(start.result() is None for start in self.starting)

    monkeypatch.setattr(WorkerPool, "is_ready", slow_start)
    two = files(prepare(words(tiny, tmp_path), workers=2).path)
    for name in ("train.bin", "val.bin", "train.documents.bin", "val.documents.bin"):
        assert two[name] == alone[name]
    printed = capfd.readouterr()
    assert printed.out == "a line of the command\n" * 5  # no line of a worker: another program may read this
    assert printed.err.count("a line of a worker\n") > 20


# No `if __name__ == "__main__"`: multiprocessing would run it again in each process that it starts.
SCRIPT = """
import sys
print("the script runs")
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.chunks import TextChunk
from nanogpt_kit.data.encode import encode_chunk
from nanogpt_kit.data.encoders import EncoderRecipe
from nanogpt_kit.data.worker_pool import WorkerPool

experiment = Experiment.load(sys.argv[1], sys.argv[2:], trust_code=True)
with WorkerPool(1, EncoderRecipe.of(experiment, experiment.tokenizer.restore({})), encode_chunk) as pool:
    print(len(pool.submit(TextChunk("train", 0, True, ["some text"], [True])).result().ids), "tokens")
"""


def test_processes_do_not_run_the_callers_script_again(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", tiny, *word_options(tmp_path, 1)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "the script runs\n10 tokens\n"
    assert answer.stderr == "a line of a worker\n"


@pytest.mark.parametrize(
    ("workers", "fails", "error", "told"),
    [
        (1, "ValueError", (RunFailed, ValueError), "3900"),
        (2, "KitError", KitError, "3900 is not a number"),
        pytest.param(1, "KitError", KitError, "3900 is not a number", marks=pytest.mark.slow),
        pytest.param(2, "ValueError", (RunFailed, ValueError), "3900", marks=pytest.mark.slow),
    ],
)
def test_the_error_of_a_tokenizer_is_reported_from_any_process(
    tiny: Path, tmp_path: Path, small: None, workers: int, fails: str, error: Any, told: str
) -> None:
    experiment = words(tiny, tmp_path, f"tokenizer.fails={fails}", "tokenizer.seconds=0.02", count=4000)
    with pytest.raises(error, match=told):
        prepare(experiment, workers)


def test_a_killed_worker_is_reported_and_finished_work_stays(tiny: Path, tmp_path: Path, small: None) -> None:
    experiment = words(tiny, tmp_path, "tokenizer.fails=killed", "tokenizer.seconds=0.02", count=4000)
    with pytest.raises(RunFailed, match=r"a process that tokenizes has ended.*, with exit code -9; .* memory .*; .*MB"):
        prepare(experiment, workers=2)
    prepared = prepare(experiment, workers=1)  # here its own process is the one to survive
    assert prepared.splits["train"].documents + prepared.splits["val"].documents == 4000


def test_a_tokenizer_of_the_kit_starts_in_another_process(
    tiny: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByteEncoder, "is_expensive", True)
    experiment = words(tiny, tmp_path, "tokenizer.use=byte", "components=[]")
    recipe = EncoderRecipe.of(experiment, Byte().build(None))  # type: ignore[arg-type]
    with WorkerPool(2, recipe, encode_chunk) as pool:
        chunk = cutting.TextChunk("train", 0, True, ["some text"], [True])
        for future in [pool.submit(chunk) for _ in range(5)]:
            assert future.result().ids.tolist() == [*b"some text", 256]
    assert all(process.exitcode is not None for process in pool.processes)


# Run by Python before a worker imports anything. Its wait ends in any case, so that a failing test ends, too.
WAIT_FOR_FILE = """
import os, time
for _ in range(200):
    if os.path.exists({go!r}):
        break
    time.sleep(0.05)
else:
    open({late!r}, "w").close()
"""


def test_processes_are_started_without_waiting_for_one_to_read_its_vocabulary(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, late = str(tmp_path / "go"), str(tmp_path / "late")
    (tmp_path / "sitecustomize.py").write_text(WAIT_FOR_FILE.format(go=go, late=late))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")]))))
    recipe = EncoderRecipe((), {"use": "byte"}, {"more than a pipe holds": "x" * 1_000_000})
    with WorkerPool(2, recipe, encode_chunk) as pool:
        Path(go).touch()
        assert [start.result() for start in pool.starting] == [None, None]
    assert not Path(late).exists()


# --- writing ----------------------------------------------------------------------------------------------------


def encoded(*documents: Sequence[int], opens: bool = True) -> EncodedChunk:
    ids = np.array([token for document in documents for token in document], dtype=np.uint16)
    begins = np.cumsum([0, *map(len, documents)])[:-1]
    return EncodedChunk(ids, begins if opens else begins[1:], text_bytes=len(ids), unknown=1)


def test_a_writer_counts_what_it_writes(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, ("train", "val"), "") as writer:
        writer.add("train", encoded([1, 2, 3], [4, 5]))
        writer.add("train", encoded([6, 7, 8, 9], [10], opens=False), empty_documents=3)
        writer.add("val", encoded([1]))
        found = writer.finish()
    train = np.fromfile(tmp_path / "train.bin", np.uint16)
    assert train.tolist() == list(range(1, 11))
    assert np.fromfile(tmp_path / "train.documents.bin", np.int64).tolist() == [0, 3, 9]
    train = found["train"]
    counts = train.tokens, train.bytes, train.documents, train.empty, train.unknown, train.longest
    assert counts == (10, 10, 3, 3, 2, 6)
    assert found["val"].longest == 1


def test_a_writer_continues_after_the_last_whole_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [encoded([n] * (n % 5 + 1), [n, n], opens=n % 3 != 2) for n in range(1, 20)]
    (tmp_path / "whole").mkdir()
    with TokenWriter(tmp_path / "whole", ("train",), "") as writer:
        for part in parts:
            writer.add("train", part)
        whole = writer.finish(), files(tmp_path / "whole")
    (tmp_path / "broken").mkdir()
    monkeypatch.setattr(writing, "SHARD_BYTES", 12)
    left, resumed = list(parts), 0
    while True:
        with TokenWriter(tmp_path / "broken", ("train",), "") as writer:
            resumed += writer.chunks_on_disk > 0
            left = parts[writer.chunks_on_disk :]
            assert all(writer.skip(checksum=0) for _ in range(writer.chunks_on_disk))
            for part in left[:4]:
                writer.add("train", part)
            if len(left) <= 4:
                broken = writer.finish(), files(tmp_path / "broken")
                break
            for write in writer.writes:
                write.result()
            writer.splits["train"].tokens.write(b"half of a shard")  # and then it is killed
    assert resumed > 3
    assert broken == whole


def half_written(folder: Path) -> Path:
    """What a kill leaves: two shards of three."""
    folder.mkdir()
    with TokenWriter(folder, ("train", "val"), "us") as writer:
        writer.add("val", encoded([9] * 9))
        writer.add("train", encoded([1, 2, 3], [4, 5] * 400))
        writer.finish()
    return folder


def journal(**values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / writing.JOURNAL
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return change


def linked(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).replace(folder.parent / "outside")
        (folder / name).symlink_to(folder.parent / "outside")

    return change


def a_fifo(folder: Path) -> None:
    (folder / "train.bin").unlink()
    os.mkfifo(folder / "train.bin")


def flipped(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (folder / name).write_bytes(raw)

    return change


LEFT: dict[str, tuple[Callable[[Path], object], str]] = {
    "tokens flipped": (flipped("train.bin"), "train"),
    "documents flipped": (flipped("train.documents.bin"), "train"),
    "tokens cut": (lambda folder: os.truncate(folder / "train.bin", 99), "train.bin"),
    "tokens gone": (lambda folder: (folder / "val.bin").unlink(), "val.bin"),
    "tokens linked": (linked("train.bin"), "train.bin"),
    "a FIFO": (a_fifo, "train.bin"),
    "journal cut": (lambda folder: os.truncate(folder / writing.JOURNAL, 50), writing.JOURNAL),
    "journal a list": (lambda folder: (folder / writing.JOURNAL).write_text("[]"), writing.JOURNAL),
    "journal deep": (lambda folder: (folder / writing.JOURNAL).write_text("[" * 100_000), writing.JOURNAL),
    "journal linked": (lambda folder: linked(writing.JOURNAL)(folder) or os.unlink(folder.parent / "outside"), "json"),
    "negative": (journal(chunks=-1), writing.JOURNAL),
    "words": (journal(checksum="all"), writing.JOURNAL),
    "huge": (journal(splits={"train": {"counts": {"documents": 10**15}, "size": 10**15}}), "train.bin"),
    "unknown counts": (journal(splits={"train": {"counts": {"pages": 3}}}), writing.JOURNAL),
    "negative counts": (journal(splits={"train": {"counts": {"documents": -1}}}), writing.JOURNAL),
}


@pytest.mark.parametrize(("harm", "names"), LEFT.values(), ids=LEFT)
def test_a_damaged_unfinished_preparation_is_not_continued(
    tmp_path: Path, harm: Callable[[Path], object], names: str
) -> None:
    folder = half_written(tmp_path / "half")
    TokenWriter(folder, ("train", "val"), "us").stack.close()  # as long as nothing is wrong, it would be
    harm(folder)
    outside = files(tmp_path) if (tmp_path / "outside").is_file() else {}
    with pytest.raises(StalePreparation, match=names):
        TokenWriter(folder, ("train", "val"), "us")
    assert all((tmp_path / name).read_bytes() == content for name, content in outside.items())


def test_a_damaged_unfinished_preparation_starts_again(
    tiny: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = words(tiny, tmp_path)
    save = filled_up(monkeypatch)
    with pytest.raises(KitError, match="the same command continues"):
        prepare(experiment, workers=1)
    monkeypatch.setattr(TokenWriter, "start_flush", save)
    (left,) = data_root().glob(".*/train.bin")
    flipped(left.name)(left.parent)
    damaged = files(prepare(experiment, workers=1).path)
    assert "tokens of train have changed; starting again" in caplog.text
    shutil.rmtree(data_root())
    assert files(prepare(experiment, workers=1).path) == damaged


def test_free_space_is_checked_before_the_disk_is_full(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_100_000))
    experiment = words(tiny, tmp_path, "tokenizer.use=byte", "components=[]")
    with pytest.raises(KitError, match=r"need about 0\.00 GB, and 0\.05 GB are free in .*set NANOGPT_KIT_DATA"):
        prepare(experiment)
    assert not data_root().exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=51_000_000))
    prepare(experiment)


def filled_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[TokenWriter], None]:
    """A disk that takes three shards. Returns how they are saved otherwise."""
    save, saved = TokenWriter.start_flush, []

    def full(self: TokenWriter) -> None:
        if len(saved) == 3:
            raise OSError(28, "No space left on device")
        saved.append(self.chunks)
        save(self)
        assert self.flush is not None, "it was just started"
        self.flush.result()  # a slow disk would put off the fourth shard, perhaps until there is no text left

    monkeypatch.setattr(TokenWriter, "start_flush", full)
    return save


def test_a_full_disk_keeps_whole_shards_and_is_reported(
    tiny: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = words(tiny, tmp_path)
    whole = files(prepare(experiment, workers=1).path)
    shutil.rmtree(data_root())
    save = filled_up(monkeypatch)
    with pytest.raises(KitError, match=r"No space left on device; 0 MB are kept in .*, and the same command continues"):
        prepare(experiment, workers=1)
    monkeypatch.setattr(TokenWriter, "start_flush", save)
    encoded_now = []
    monkeypatch.setattr(
        encoding, "encode_chunk", lambda job, encoder: encoded_now.append(job) or encode_chunk(job, encoder)
    )
    assert files(prepare(experiment, workers=1).path) == whole
    total = json.loads(whole["manifest.json"])["splits"]["train"]["documents"]
    assert sum(len(job.texts) for job in encoded_now if job.split == "train") < total  # not from the beginning


@pytest.mark.parametrize("changed", ["text", "less", "vocabulary"])
def test_an_unfinished_preparation_of_other_text_is_not_continued(
    tiny: Path,
    tmp_path: Path,
    small: None,
    changed: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where a branch on the hub has moved meanwhile, which a fingerprint cannot know of."""
    experiment = words(tiny, tmp_path)
    dataset = type(experiment.dataset)
    monkeypatch.setattr(dataset, "fingerprint", lambda self: "what was asked for")
    save = filled_up(monkeypatch)
    with pytest.raises(KitError, match="the same command continues"):
        prepare(experiment, workers=1)
    monkeypatch.setattr(TokenWriter, "start_flush", save)
    if changed == "vocabulary":
        state = Encoder.state
        monkeypatch.setattr(Encoder, "state", lambda self: {**state(self), "learnt": "otherwise"})
    else:
        documents = dataset.all_documents

        def other(self: Any) -> Iterator[Document]:
            kept = list(documents(self))
            return iter(["another", *kept[1:]] if changed == "text" else kept[: len(kept) // 10])

        monkeypatch.setattr(dataset, "all_documents", other)
    prepared = files(prepare(experiment, workers=1).path)
    told = "it used another vocabulary" if changed == "vocabulary" else "its text has changed"
    assert f"cannot continue an unfinished preparation: {told}; starting again" in caplog.text
    shutil.rmtree(data_root())
    assert files(prepare(experiment, workers=1).path) == prepared


def test_stale_unfinished_preparations_are_logged(
    tiny: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save = filled_up(monkeypatch)
    with pytest.raises(KitError, match="the same command continues"):
        prepare(words(tiny, tmp_path), workers=1)
    (left,) = (path.parent for path in data_root().glob(".*/progress.json"))
    monkeypatch.setattr(TokenWriter, "start_flush", save)
    caplog.set_level("INFO", logger="nanogpt_kit")
    with Lock(data_root() / f"{left.name.removesuffix(f'.{platform.node()}')}.lock"):  # as if it were at work
        prepare(words(tiny, tmp_path, count=1400), workers=1)
    assert "unfinished preparations of other text" not in caplog.text
    prepare(words(tiny, tmp_path, count=1500), workers=1)
    assert f"unfinished preparations of other text or options use 0 MB; they can be removed: {left}" in caplog.text
    prepare(words(tiny, tmp_path), workers=1)
    assert not left.exists()


# Forks preparations and kills each at a random moment, until enough of them were; those that end are compared.
KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data import chunks, encode, writer
from nanogpt_kit.data.prepare import data_root, prepare

chunks.CHUNK_CHARACTERS, writer.SHARD_BYTES, encode.MIN_BYTES_FOR_PROCESSES = 2000, 6000, 0
experiment, kills, root = Experiment.load(sys.argv[1], sys.argv[3:]), int(sys.argv[2]), data_root()

def start():
    child = os.fork()
    if child:
        return child
    prepare(experiment, workers=2)
    os._exit(0)

def folders():
    return [path for path in root.iterdir() if path.is_dir()]

def contents():
    (folder,) = folders()
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

began = time.monotonic()
assert os.waitpid(start(), 0)[1] == 0
seconds, whole, draw = time.monotonic() - began, contents(), random.Random(kills)
gone_on = killed = 0
while killed < kills or (gone_on < kills // 5 and killed < 10 * kills):  # the times of a busy machine vary
    gone_on += any(root.glob(".*/progress.json"))
    child = start()
    time.sleep(seconds * draw.random() ** 0.5)  # rather late: at first the processes start
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        assert contents() == whole, [name for name, content in contents().items() if content != whole.get(name)]
        shutil.rmtree(root)
    killed += 1
assert os.waitpid(start(), 0)[1] == 0
assert contents() == whole
print(gone_on)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_preparation_killed_at_any_moment_ends_in_the_same_bytes(tiny: Path, tmp_path: Path, kills: int) -> None:
    options = [*word_options(tmp_path, 4000), "tokenizer.seconds=0.01"]
    command = [sys.executable, "-Pc", KILLED, tiny, str(kills), *options]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert int(answer.stdout.split()[-1]) >= kills // 5  # found whole shards and went on with them
    if sys.platform == "linux":
        assert left_running(str(data_root())) == []


def left_running(marker: str) -> list[int]:
    """Processes that tokenize for a data folder, some seconds after they lost who started them."""
    found: list[int] = []
    for _ in range(50):
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if is_worker(path, marker)]
        if not found:
            break
        time.sleep(0.1)
    return found


def is_worker(process: Path, marker: str) -> bool:
    try:
        words, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
    except OSError:
        return False
    return b"multiprocessing" in words and os.fsencode(marker) in environment


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_preparation_keeps_its_shards(
    workers: int,
    tiny: Path,
    tmp_path: Path,
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    experiment = words(tiny, tmp_path)
    add = TokenWriter.add

    def interrupted(
        self: TokenWriter, split: str, tokens: EncodedChunk, empty_documents: int, checksum: int, source: int
    ) -> None:
        if self.chunks >= 20:  # counted by another thread
            raise KeyboardInterrupt
        add(self, split, tokens, empty_documents, checksum, source)

    monkeypatch.setattr(TokenWriter, "add", interrupted)
    caplog.set_level("INFO", logger="nanogpt_kit")
    with pytest.raises(KeyboardInterrupt):
        prepare(experiment, workers)
    assert multiprocessing.active_children() == []
    assert "the same command continues from there" in caplog.text
    monkeypatch.setattr(TokenWriter, "add", add)
    prepare(experiment, workers=1)
    assert "continuing an unfinished preparation" in caplog.text


def test_a_file_that_lost_bytes_is_not_taken_for_the_data(tiny: Path) -> None:
    prepared = prepare(Experiment.load(tiny))
    with (prepared.path / "train.bin").open("rb+") as file:
        file.truncate(100)
    with pytest.raises(KitError, match=r"train\.bin has 100 bytes instead of \d+; remove .* to prepare the data again"):
        prepare(Experiment.load(tiny))


def test_a_waiting_preparation_logs_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="nanogpt_kit")
    monkeypatch.setattr(preparation, "is_locked", lambda _: True)
    prepare(Experiment.load(tiny))
    assert "waiting for another process that prepares" in caplog.text


def test_encoders_are_expensive_by_default_and_bytes_are_not() -> None:
    assert Encoder.is_expensive
    assert not ByteEncoder.is_expensive


def test_unfinished_data_survives_a_mistake_of_a_later_preparation(
    tiny: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = words(tiny, tmp_path)
    save = filled_up(monkeypatch)
    with pytest.raises(KitError, match="the same command continues"):
        prepare(experiment, workers=1)
    monkeypatch.setattr(TokenWriter, "start_flush", save)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(
            KitError, match=r"0\.00 GB are free .*; 0 MB are kept in .*, and the same command continues"
        ):
            prepare(experiment, workers=1)
    assert list(data_root().glob(".*/progress.json"))
    prepared = prepare(experiment, workers=1)
    names = {"manifest.json", "train.bin", "train.documents.bin", "val.bin", "val.documents.bin"}
    assert {path.name for path in prepared.path.iterdir()} == names


def test_a_whole_preparation_that_was_not_renamed_yet_is_taken(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = words(tiny, tmp_path)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(experiment, workers=1)
    monkeypatch.setattr(Path, "rename", rename)
    prepare(experiment, workers=1)


def test_text_that_changes_while_it_is_read_is_refused(tiny: Path, tmp_path: Path, text_file: Path) -> None:
    experiment = Experiment.load(tiny)
    documents = type(experiment.dataset).documents_with_split

    def changed(self: Dataset) -> Iterator[tuple[str, Document]]:
        yield from documents(self)
        text_file.write_text(text_file.read_text(encoding="utf-8") + "more", encoding="utf-8")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(experiment.dataset), "documents_with_split", changed)
        with pytest.raises(KitError, match="the text changed while it was read; prepare it again"):
            prepare(experiment)
    assert not data_root().exists()


def test_a_tokenizer_that_cannot_be_restored_is_told(tiny: Path, tmp_path: Path, small: None) -> None:
    options = word_options(tmp_path, count=4000)
    (tmp_path / "words.py").write_text(
        WORDS.replace(
            "def restore(self, state):",
            "def restore(self, state):\n        if multiprocessing.parent_process(): raise ValueError('no state')",
        )
    )
    experiment = Experiment.load(tiny, [*options, "tokenizer.seconds=0.05"])
    with pytest.raises((RunFailed, KitError), match=r"cannot be restored in another process: ValueError: no state"):
        prepare(experiment, workers=2)


def test_empty_documents_are_counted(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text(
        '{"text": ""}\n{"text": "one or two words"}\n{"text": null}\n{"text": "another one"}\n' * 20
    )
    prepared = prepare(
        Experiment.load(
            tiny, [f"dataset.source={tmp_path / 'lines.jsonl'}", "model.block_size=4", "train.batch_tokens=8"]
        )
    )
    assert sum(values.empty for values in prepared.splits.values()) == 40
    assert sum(values.documents for values in prepared.splits.values()) == 40
