"""Files are what their bytes say: other encodings are read or named, other formats are named, and text is text."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import sqlite3
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save

from nanogpt_kit.api import KitError, TextFile
from nanogpt_kit.components.dataset.huggingface import HuggingFace
from nanogpt_kit.components.dataset.shakespeare import Shakespeare
from nanogpt_kit.components.dataset.text import Text
from nanogpt_kit.corpus.file_signatures import detect_format, is_text
from nanogpt_kit.corpus.text_files import LONG_BYTES
from nanogpt_kit.corpus.token_file import TokenFile

ENGLISH = "To be, or not to be, that is the question.\n" * 40
RUSSIAN = "\u0411\u044b\u0442\u044c \u0438\u043b\u0438 \u043d\u0435 \u0431\u044b\u0442\u044c\n" * 40
CHINESE = "\u751f\u5b58\u8fd8\u662f\u6bc1\u706d\uff0c\u8fd9\u662f\u4e00\u4e2a\u95ee\u9898\r\n" * 40
THAI = "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35" * 40  # no blanks, and so no NULs in UTF-16
EMOJI = "so \U0001f600 na\u00efve \u2603\r\n" * 40


def texts(path: Path, **options: str) -> list[str]:
    file = TextFile(path, options.pop("field", "text"), **options)  # type: ignore[arg-type]
    return [document if isinstance(document, str) else "".join(document) for document in file.documents()]


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(KitError) as caught:
        texts(path, **options)
    return str(caught.value)


# --- encodings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN, EMOJI, "x", EMOJI * (LONG_BYTES // len(EMOJI))])
def test_text_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(f"\ufeff{text}".encode(encoding))
    assert texts(path) == [text]


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", '{"text": "\u2603"}\n'), ("a.csv", "id,text\n1,\u2603\n")])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_records_with_a_byte_order_mark_are_read(tmp_path: Path, name: str, content: str, ending: str) -> None:
    path = tmp_path / (name + ending)
    raw = content.encode("utf-16")
    path.write_bytes(gzip.compress(raw, mtime=0) if ending else raw)
    assert texts(path) == ["\u2603"]


def test_a_wrong_byte_order_mark_is_reported_with_its_location(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(ENGLISH.encode("utf-16") + b"\x00\xd8a\x00")
    assert f"offset {2 + 2 * len(ENGLISH)}" in refusal(path)
    assert texts(path, errors="replace") == [ENGLISH + "\ufffd" + "a"]


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN, CHINESE, EMOJI, "hi", THAI])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_other_encodings_are_refused_by_name_with_the_command_that_converts(
    tmp_path: Path, encoding: str, text: str, name: str
) -> None:
    path = tmp_path / name
    raw = text.encode(encoding)
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    message = refusal(path)
    assert message.startswith(f"{path}: is {encoding}")
    assert f"iconv -f {encoding} -t UTF-8" in message
    assert "a.txt.gz >" not in message  # iconv does not unpack
    assert refusal(path, errors="replace") == message


def test_stray_nuls_are_not_taken_for_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in (
        "nul \0, mark \ufeff, old\r\nlines\r, \u2603 \U0001f600 \U0010ffff\n" * 20,
        "a\0" + ENGLISH,
        ENGLISH + "\0",
    ):
        path.write_text(text, encoding="utf-8", newline="")
        assert "NUL byte at offset " + str(text.encode().index(0)) in refusal(path)


def test_every_dataset_of_text_refuses_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(ENGLISH.encode("utf-16-le"))
    for dataset in (Text(source=str(path)), Shakespeare(source=str(path)), HuggingFace(source=str(path))):
        with pytest.raises(KitError, match="UTF-16LE"):
            list(dataset.documents_with_split())


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_a_nul_byte_is_named_by_line_and_offset(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    raw = b'text\n{"text": "ab"}\n' if name != "a.jsonl" else b'{"text": 1}\n{"text": "ab"}\n'.replace(b"1", b'"1"')
    raw += b" " * 5000 + b"x\0y\n"
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    message = refusal(path)
    assert message.startswith(f"{path}:3: ")
    assert f"NUL byte at offset {raw.index(0)}" in message


def test_a_nul_byte_far_inside_is_named_by_line_and_offset_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    good = "line \u2603\n" * (LONG_BYTES // 8)
    path.write_bytes((good + "ab").encode() + b"\0c")
    lines, offset = good.count("\n") + 1, len(good.encode()) + 2
    assert refusal(path).startswith(f"{path}:{lines}: not text: a NUL byte at offset {offset};")
    assert texts(path, errors="replace") == [good + "ab\ufffdc"]


# --- formats ----------------------------------------------------------------------------------------------------


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "content")
    return file.getvalue()


def saved(write: object, *arguments: object) -> bytes:
    file = io.BytesIO()
    write(file, *arguments)  # type: ignore[operator]
    return file.getvalue()


def database() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("create table t (x)")
        return connection.serialize()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return file.getvalue()


def arrow(new: object) -> bytes:
    table, sink = pa.table({"text": ["a"]}), pa.BufferOutputStream()
    with new(sink, table.schema) as writer:  # type: ignore[operator]
        writer.write_table(table)
    return bytes(sink.getvalue())


IDS = np.arange(300, dtype=np.uint16)
BINARY = {
    "NumPy": lambda: saved(np.save, IDS),
    ".npz": lambda: saved(lambda file: np.savez(file, IDS)),
    "PyTorch": lambda: saved(lambda file: torch.save({"a": torch.ones(2)}, file)),
    "Office": lambda: zipped("[Content_Types].xml"),
    "zip": lambda: zipped("a.txt"),
    "gzip": lambda: gzip.compress(ENGLISH.encode()),
    "zstd": lambda: pa.compress(ENGLISH.encode(), "zstd", asbytes=True),
    "bzip2": lambda: bz2.compress(ENGLISH.encode()),
    "xz": lambda: lzma.compress(ENGLISH.encode()),
    "tar": tar,
    "parquet": lambda: saved(lambda file: pq.write_table(pa.table({"text": ["a"]}), file)),
    "Arrow": lambda: arrow(pa.ipc.new_file),
    "Arrow ": lambda: arrow(pa.ipc.new_stream),
    "SQLite": database,
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(50),
    "a pickle": lambda: pickle.dumps({"text": ["a", 1]}),
    "a pickle ": lambda: pickle.dumps([1, 2, 3], protocol=2),
    "safetensors": lambda: save({"a": IDS}),
    "PDF": lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "PNG": lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("file", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_a_binary_format_under_the_name_of_text_is_refused_by_its_own(tmp_path: Path, name: str, file: str) -> None:
    path = tmp_path / file
    content = BINARY[name]()
    path.write_bytes(gzip.compress(content, mtime=0) if file.endswith(".gz") else content)
    for errors in ("strict", "replace"):
        message = refusal(path, errors=errors)
        assert message.startswith(f"{path}: is ")
        assert name.strip() in message
    assert detect_format(content[:4096]) is not None


@pytest.mark.parametrize("name", [name for name in BINARY if name != "NumPy"])  # which is read
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_binary_format_under_the_name_of_tokens_is_refused_by_its_own(tmp_path: Path, name: str, dtype: str) -> None:
    path = tmp_path / "train.bin"
    content = BINARY[name]()
    path.write_bytes(content + bytes(-len(content) % 4))
    with pytest.raises(KitError) as caught:
        TokenFile.open(path, dtype)
    assert str(caught.value).startswith(f"{path} is ")
    assert name.strip() in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "PAR1 is where it begins",
        "GIF89a is a format",
        "BZh91AY&SY",
        "Obj",
        "Rar!",
        "GGUF",
        "RIFF, said he",
        "ID3",
        "%PDF",
        "%PDF-1.4 is how files of that version begin",
        "{\\rtf1 is how RTF begins",
    ],
)
def test_text_that_begins_like_a_format_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert texts(tmp_path / "a.txt") == [text]


@pytest.mark.parametrize("head", [b"", ENGLISH.encode(), EMOJI.encode()[:-3], b"\x1b[1m\t\f"])
def test_what_is_text_is_known_where_its_last_character_is_cut(head: bytes) -> None:
    assert is_text(head)
    assert detect_format(head) is None


# --- what names say, and contents do not ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt.gz", ENGLISH.encode(), "plain text, not gzip .*; rename it to a.txt"),
        ("a.txt.zst", ENGLISH.encode(), "plain text, not zstd .*; rename it to a.txt"),
        ("a.jsonl.gz", pa.compress(b"x" * 9, "zstd", asbytes=True), "zstd, not gzip .*; rename it to a.jsonl.zst"),
        ("a.jsonl.zst", gzip.compress(b"x", mtime=0), "gzip, not zstd .*; rename it to a.jsonl.gz"),
        ("a.txt", gzip.compress(b"x", mtime=0), "gzip, not text; rename it to a.txt.gz"),
        ("a.jsonl", pa.compress(b"x" * 9, "zstd", asbytes=True), "zstd, not text; rename it to a.jsonl.zst"),
        ("a.csv", BINARY["parquet"](), "parquet, not text; rename it to a.parquet"),
        ("a.parquet", ENGLISH.encode(), "plain text, not parquet "),
        ("a.parquet", gzip.compress(b"x", mtime=0), "gzip, not parquet "),
        ("a.parquet.gz", BINARY["parquet"](), "parquet, not gzip "),
    ],
)
def test_a_file_with_the_ending_of_another_format_is_refused_with_the_right_name(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KitError, match=told) as caught:
        texts(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: is ")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("cut", [5, 20, 60])
@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst"])
def test_a_compressed_file_that_is_cut_short_is_damaged(tmp_path: Path, name: str, cut: int) -> None:
    noise = np.random.default_rng(0).integers(33, 126, 200, dtype=np.uint8).tobytes()
    whole = gzip.compress(noise, mtime=0) if name.endswith(".gz") else pa.compress(noise, "zstd", asbytes=True)
    (tmp_path / name).write_bytes(whole[:cut])
    assert "damaged or cut short" in refusal(tmp_path / name)


def test_a_compressed_file_with_a_wrong_byte_is_damaged(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(ENGLISH.encode()))
    raw[12] ^= 0xFF
    (tmp_path / "a.txt.gz").write_bytes(raw)
    assert "damaged or cut short" in refusal(tmp_path / "a.txt.gz")


# --- names that are not UTF-8 -----------------------------------------------------------------------------------


def test_files_whose_names_are_not_utf8_are_read_by_folder_and_glob(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/s\xe9"
    os.mkdir(folder)
    contents = {
        b"a\xe9.txt": b"one",
        b"b\xe9.txt.gz": gzip.compress(b"two", mtime=0),
        b"c\xe9.jsonl.zst": pa.compress(b'{"text": "three"}', "zstd", asbytes=True),
        b"d\xe9.parquet": saved(lambda file: pq.write_table(pa.table({"text": ["four"]}), file)),
        b"e\xe9.csv": b"text\nfive\n",
    }
    for name, content in contents.items():
        with open(folder + b"/" + name, "wb") as file:
            file.write(content)
    for source in (tmp_path, tmp_path / "*" / "*"):
        dataset = Text(source=str(source))
        assert list(dataset.all_documents()) == ["one", "two", "three", "four", "five"]
        assert dataset.fingerprint()
    with open(folder + b"/f\xe9.jsonl", "wb") as file:
        file.write(b"{")
    with pytest.raises(KitError, match=r"f\\udce9\.jsonl:1: not JSON"):
        list(Text(source=str(tmp_path)).all_documents())
