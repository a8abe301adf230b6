"""Datasets: which text they find, how they split it, and what they say where there is none."""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import re
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogpt_kit.api import Dataset, KitError, TextFile
from nanogpt_kit.components.dataset import shakespeare as shakespeare_module
from nanogpt_kit.components.dataset.python_stdlib import PythonStdlib
from nanogpt_kit.components.dataset.shakespeare import Shakespeare
from nanogpt_kit.components.dataset.text import Text
from nanogpt_kit.corpus.decompress import READ_BYTES
from nanogpt_kit.corpus.parquet import UTF8_REMEDY
from nanogpt_kit.testing.dataset import DatasetConformance

MANY = [f"document {number}, which is about {number**2}" for number in range(300)]


def splits_of(dataset: Dataset) -> tuple[list[str], list[str]]:
    return list(dataset.documents("train")), list(dataset.documents("val"))


def all_of(dataset: Dataset) -> list[str]:
    return sorted(chain(*splits_of(dataset)))


def write_lines(path: Path, documents: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: document}) + "\n" for document in documents), encoding="utf-8")
    return path


def write_files(folder: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", newline="")


def refusal(dataset: Dataset, use: Callable[[Dataset], object] = splits_of) -> str:
    with pytest.raises(KitError) as caught:
        use(dataset)
    return str(caught.value)


# --- text: what is found ----------------------------------------------------------------------------------------


TREE = {"b.txt": "B", "a.txt": "A", "deep/er/c.txt": "C", "d.jsonl": '{"text": "D"}\n{"text": "E"}\n', "n.md": "N"}
HIDDEN = {"hidden/h.txt": "H", "hidden/i.txt": "I", "hidden/.h.txt": "no", "hidden/.cache/h.txt": "no"}


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ([""], "ABDECN"),
        (["*.txt"], "AB"),
        (["**/*.txt"], "ABC"),
        (["d.jsonl", "a.txt"], "DEA"),
        (["b.txt", "", "*.txt"], "BADECN"),  # each once, where it was first named
        (["deep", "d.jsonl"], "CDE"),
        (["hidden"], "HI"),
        (["n.md", "a.txt"], "NA"),
    ],
)
def test_text_is_found_by_file_glob_and_folder(tmp_path: Path, sources: list[str], found: str | list[str]) -> None:
    write_files(tmp_path, TREE if sources != ["hidden"] else HIDDEN)
    dataset = Text(source=tuple(str(tmp_path / source) for source in sources))
    train, val = splits_of(dataset)
    assert sorted(train + val) == sorted(found)
    assert train == [text for text in found if text in train]


def test_a_source_is_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, TREE)
    monkeypatch.chdir(tmp_path)
    assert all_of(Text(source="?.txt")) == ["A", "B"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    write_files(tmp_path, {"[ab].txt": "mine " * 10, "a.txt": "not mine"})
    assert splits_of(Text(source=str(tmp_path / "[ab].txt"))) == (["mine " * 9], ["mine "])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("none.txt", "matches no file or folder"),
        ("*.text", "matches no file or folder"),
        ("empty", "is an empty folder"),
    ],
)
def test_a_source_without_files_is_named(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    write_files(tmp_path, {"novel.md": "text"})
    message = refusal(Text(source=(str(tmp_path / "novel.md"), str(tmp_path / source))))
    assert repr(str(tmp_path / source)) in message
    assert told in message
    assert "novel.md" not in message


def test_for_a_source_that_is_not_there_the_most_similar_name_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"novel.txt": "text", "notes/a.md": "text"})
    assert refusal(Text(source="novell.txt")).endswith("; did you mean 'novel.txt'?")
    assert refusal(Text(source="notse/")).endswith("; did you mean 'notes'?")
    assert refusal(Text(source="notes/b.md")).endswith("; did you mean 'notes/a.md'?")
    assert refusal(Text(source="elsewhere/novel.txt")).endswith(f"relative to {tmp_path}")


def test_empty_documents_are_passed_over_and_nothing_else_is_an_error(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.txt": "", "b.txt": "full", "c.jsonl": '\n{"text": ""}\n\n{"text": "too"}\n'})
    assert all_of(Text(source=str(tmp_path))) == ["full", "too"]
    for name in ("a.txt", "d.jsonl"):
        (tmp_path / name).write_text("")
        assert "every document is empty" in refusal(Text(source=str(tmp_path / name)))


def test_lines_are_read_under_the_key_that_field_names(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", MANY[:5], key="content")
    assert all_of(Text(source=str(path), field="content")) == sorted(MANY[:5])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"content": "x", "id": 3}', "no text under 'text' (it has content, id); dataset.field names the key"),
        ('{"text": 3}', "no text under 'text', but a number"),
        ('["text"]', "no text under 'text' (it is not an object)"),
        ('{"text": "x"', "not JSON: an object that does not start and end on this line (column 13)"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n\n{line}\n{{"text": "good too"}}\n')
    assert refusal(Text(source=str(path))).startswith(f"{path}:3: {told}")


def test_lines_may_end_in_crlf_and_hold_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "one\u2028two"}\r\n{"text": "three\\nfour"}\r\n'.encode())
    assert all_of(Text(source=str(path))) == ["one\u2028two", "three\nfour"]


def test_text_that_is_not_utf8_is_named_by_file_line_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"one\ntwo\nthr\xe9e\n")
    message = refusal(Text(source=str(path)))
    assert message == f"{path}:3: not UTF-8: byte 0xe9 at offset 11; {UTF8_REMEDY}"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.json", '; dataset.use = "huggingface" can'),
        ("b.zip", ": .zip files contain compressed data; unpack"),
        ("c.XLSX", ": .xlsx files contain a spreadsheet; "),
        ("d.npy.gz", '; dataset.use = "token_files" reads '),
        ("e.tar.gz", ": .tar files contain compressed data; "),
        ("f.safetensors", ": .safetensors files contain model weights"),
    ],
)
def test_a_file_of_another_kind_is_not_taken_for_text(tmp_path: Path, name: str, told: str) -> None:
    path = tmp_path / name
    path.write_text('[{"text": "one"}]')
    assert refusal(Text(source=str(path))).startswith(f"dataset.source: {path} cannot be read as text{told}")
    with pytest.raises(KitError, match="cannot be read as text"):
        list(TextFile(path, "text").documents())


# --- text: its formats ------------------------------------------------------------------------------------------


LONG = "".join(f"line {number}: na\u00efve \u2603 \U0001f600\r\n" for number in range(400_000))  # 12 MB
RECORDS = ["plain", 'comma, "quotes"', "two\r\nlines", "\u2603 \U0001f600", "", "x" * 300_000, "last"]


def packed(path: Path, content: bytes) -> Path:
    """In two members or frames, as tools that append leave them."""
    half = len(content) // 2
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    elif path.suffix == ".zst":
        path.write_bytes(b"".join(pa.compress(part, "zstd", asbytes=True) for part in (content[:half], content[half:])))
    else:
        path.write_bytes(content)
    return path


def content_of(kind: str) -> bytes:
    """RECORDS as other programs write them."""
    if kind in (".jsonl", ".ndjson"):
        lines = [json.dumps({"text": text, "id": 1}, ensure_ascii=number % 2) for number, text in enumerate(RECORDS)]
        return "\n".join([*lines, '{"text": null}']).encode()
    if kind in (".csv", ".tsv"):
        file = io.StringIO(newline="")
        csv.writer(file, delimiter="," if kind == ".csv" else "\t").writerows(
            [["id", "text"], *([str(number), text] for number, text in enumerate(RECORDS))]
        )
        return file.getvalue().encode()
    file = io.BytesIO()
    table = pa.table({"id": range(len(RECORDS) + 1), "text": [*RECORDS, None]})
    pq.write_table(table, file, row_group_size=3)
    return file.getvalue()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"])
def test_records_are_read_as_they_were_written(tmp_path: Path, kind: str, ending: str) -> None:
    packed(tmp_path / f"a{kind}{ending}", content_of(kind))
    dataset = Text(source=str(tmp_path))
    assert [text for text in dataset.all_documents() if text] == [text for text in RECORDS if text]
    assert all_of(dataset) == sorted(text for text in RECORDS if text)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_long_file_comes_in_pieces_that_are_its_text_and_is_cut_at_its_tail(tmp_path: Path, ending: str) -> None:
    path = packed(tmp_path / f"a.txt{ending}", LONG.encode())
    (train,), (val,) = (list(Text(source=str(path)).documents(split)) for split in ("train", "val"))
    cut = int(len(LONG) * 0.9)
    for document, expected in ((train, LONG[:cut]), (val, LONG[cut:]), (train, LONG[:cut])):
        pieces = list(document)
        assert max(map(len, pieces)) <= 1 << 20
        assert "".join(pieces) == expected


def test_the_tail_of_a_long_file_is_found_without_reading_what_is_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path / "a.txt", LONG.encode())
    read: list[int] = []
    opened = TextFile.opened

    @contextmanager
    def counting(self: TextFile) -> Iterator[Any]:
        with opened(self) as file:
            yield Counted(file)

    class Counted:
        def __init__(self, file: Any) -> None:
            self.seekable, self.seek, self._read = file.seekable, file.seek, file.read

        def read(self, size: int) -> bytes:
            found = self._read(size)
            read.append(len(found) if size == READ_BYTES else 0)  # others look whether it is long
            return found

    monkeypatch.setattr(TextFile, "opened", counting)
    text = "".join(piece for _, document in Text(source=str(path)).documents_with_split() for piece in document)
    assert text == LONG
    assert 2 * path.stat().st_size <= sum(read) < 2.3 * path.stat().st_size


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": "short",
        "b.txt": LONG,
        "c.jsonl": '{"text": "line"}\n',
        "d.csv": "text\nrow\n",
        "e.txt": "",
    }.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    found = ["".join(document) for document in Text(source=str(tmp_path)).all_documents()]
    assert found == ["short", LONG, "line", "row"]


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("cut_short", [False, True])
def test_a_bad_byte_far_inside_is_named_by_line_and_offset(tmp_path: Path, ending: str, cut_short: bool) -> None:
    good = LONG.encode()
    line = good.count(b"\n") + 1
    path = packed(tmp_path / f"a.txt{ending}", b"\xef\xbb\xbf" + good + (b"ab\xe2\x98" if cut_short else b"ab\xff\n"))
    where = f"offset {3 + len(good) + 2}{' of the decompressed text' if ending else ''}"
    byte = "0xe2" if cut_short else "0xff"
    assert refusal(Text(source=str(path))).startswith(f"{path}:{line}: not UTF-8: byte {byte} at {where}; save it")


def test_bad_bytes_are_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\xffb")
    (tmp_path / "b.txt").write_bytes(LONG.encode() + b"\xe2\x98")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "c\xff"}\n{"text": "\\ud83d|\\ud83d\\ude00"}')
    (tmp_path / "d.csv").write_bytes(b"text\nd\xff\n")
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"e\xff", None], pa.binary()).buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "e.parquet")
    dataset = Text(source=str(tmp_path), errors="replace")
    bad = "\ufffd"
    found = ["".join(document) for document in dataset.all_documents()]
    assert found == [f"a{bad}b", LONG + bad, f"c{bad}", f"{bad}|\U0001f600", f"d{bad}", f"e{bad}", ""]
    message = refusal(Text(source=str(tmp_path / "e.parquet")))
    assert message == f"{tmp_path / 'e.parquet'}: not UTF-8: byte 0xff at offset 1 of 'text' in row 0; {UTF8_REMEDY}"


def test_a_bad_line_among_records_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xc3\xa9"}\n{"text": "\xe9"}\n')
    assert refusal(Text(source=str(tmp_path))).startswith(
        f"{tmp_path / 'a.jsonl'}:2: not UTF-8: byte 0xe9 at offset 25;"
    )
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "half \\udc00"}\n')
    told = f"{tmp_path / 'a.jsonl'}:2: not Unicode text: '\\udc00' at character 5 of 'text'"
    assert refusal(Text(source=str(tmp_path))).startswith(told)


DOUBLED = "; a field that begins with a double quote ends with one, and those in it are doubled"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("id,content\n1,x\n", "1: dataset.field: no column 'text'. Allowed: content, id."),
        ("id,txt\n1,x\n", "1: dataset.field: no column 'text'; did you mean 'txt'? Allowed: id, txt."),
        ('id,text\n1,"two\nlines"\n2\n', "4: 1 fields; 'text' is field 2"),
        ("id;text\n1;x\n", "1: its columns are separated by ';'; save it with commas, or as .tsv with tabs"),
        ("id\ttext\n1\tx\n", "1: its columns are separated by '\\t'; name it .tsv"),
        ('id,text\n1,"x" y\n', "2: not CSV: ',' expected after '\"'" + DOUBLED),
        ('id,text\n1,"never closed\n', "2: not CSV: unexpected end of data" + DOUBLED),
    ],
)
def test_a_csv_that_is_wrong_is_named_by_its_line(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert refusal(Text(source=str(tmp_path))) == f"{tmp_path / 'a.csv'}:{told}"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_an_empty_file_holds_no_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "z.txt").write_text("full")
    assert list(Text(source=str(tmp_path)).all_documents()) == ["full"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_a_parquet_column_of_strings_of_any_kind_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["one", None, "two", "one"]).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert list(Text(source=str(tmp_path)).all_documents()) == ["one", "", "two", "one"]


def test_a_parquet_column_that_is_no_text_is_named_with_its_type(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"txt": ["a"], "id": [1], "tags": [["a"]]}), path)
    told = "dataset.field: no column 'text'; did you mean 'txt'? Allowed: id, tags, txt."
    assert refusal(Text(source=str(path))) == f"{path}: {told}"
    told = "dataset.field: column 'id' holds int64, not strings; columns of strings: txt"
    assert refusal(Text(source=str(path), field="id")) == f"{path}: {told}"
    assert "column 'tags' holds list<" in refusal(Text(source=str(path), field="tags"))


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.gz", "a.jsonl.zst", "a.parquet.gz"])
@pytest.mark.parametrize("damage", ["empty", "cut short", "something else"])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    noise = random.Random(0).randbytes(50_000)
    table = io.BytesIO()
    pq.write_table(pa.table({"text": [noise.hex()]}), table)
    packed(path, table.getvalue() if "parquet" in name else noise.hex().encode())
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut short": whole[: len(whole) * 3 // 4], "something else": b"hello " * 99}[damage]
    )
    message = refusal(Text(source=str(tmp_path)))
    assert message.startswith(f"{path}: ")
    assert re.search("damaged|is empty" if damage != "something else" else "is plain text, not ", message)
    assert "\n" not in message


def test_the_size_of_the_text_is_told_where_it_can_be(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.txt": "\u2603" * 5, "b.jsonl": '{"text": "x"}\n', "c.csv": "text\nx\n"})
    assert Text(source=str(tmp_path)).text_bytes() == 15 + 14 + 7
    table = pa.table({"text": [f"{number:0100}" for number in range(1000)], "id": ["x" * 1000] * 1000})
    pq.write_table(table, tmp_path / "d.parquet", use_dictionary=False)
    assert Text(source=str(tmp_path / "d.parquet")).text_bytes() == pytest.approx(100_000, rel=0.05)
    packed(tmp_path / "e.txt.gz", b"text")
    assert Text(source=str(tmp_path)).text_bytes() is None


# --- text: how it is split --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "fraction", "cut"), [(1000, 0.1, 900), (1000, 0.25, 750), (7, 0.5, 3)])
def test_a_single_document_is_split_at_its_tail(tmp_path: Path, length: int, fraction: float, cut: int) -> None:
    text = "".join(chr(0x4E00 + number) for number in range(length))
    write_files(tmp_path, {"a.txt": text})
    assert splits_of(Text(source=str(tmp_path), val_fraction=fraction)) == ([text[:cut]], [text[cut:]])


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_every_document_is_in_one_split_and_the_share_is_right(tmp_path: Path, fraction: float) -> None:
    path = write_lines(tmp_path / "a.jsonl", MANY)
    train, val = splits_of(Text(source=str(path), val_fraction=fraction))
    assert [text for text in MANY if text in set(train)] == train  # in the order of the file
    assert sorted(train + val) == sorted(MANY)
    assert len(val) == pytest.approx(fraction * len(MANY), abs=4 * (len(MANY) * fraction * (1 - fraction)) ** 0.5)


@pytest.mark.parametrize("times", [2, 40])
def test_equal_documents_are_never_in_both_splits(tmp_path: Path, times: int) -> None:
    path = write_lines(tmp_path / "a.jsonl", (MANY[:40] + MANY[:3]) * times)
    train, val = splits_of(Text(source=str(path), val_fraction=0.3))
    assert not set(train) & set(val)
    assert len(train) + len(val) == 43 * times


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_documents_still_fill_both_splits(tmp_path: Path, count: int) -> None:
    for first in range(0, 60, count):
        path = write_lines(tmp_path / "a.jsonl", MANY[first : first + count] * 2)
        train, val = splits_of(Text(source=str(path)))
        assert train
        assert val
        assert not set(train) & set(val)
        assert len(train) + len(val) == 2 * count


def test_a_new_document_moves_no_other(tmp_path: Path) -> None:
    before = splits_of(Text(source=str(write_lines(tmp_path / "a.jsonl", MANY))))
    after = splits_of(Text(source=str(write_lines(tmp_path / "a.jsonl", ["first", *MANY, "last"]))))
    for old, new in zip(before, after, strict=True):
        assert [text for text in new if text in MANY] == old


# --- text: its fingerprint --------------------------------------------------------------------------------------


def test_equal_text_has_one_fingerprint_wherever_it_lies(tmp_path: Path) -> None:
    write_files(tmp_path, {"here/a.txt": "one", "there/b.txt": "one", "there/c.txt": "two"})
    here, there = (Text(source=str(tmp_path / name)).fingerprint() for name in ("here/a.txt", "there/b.txt"))
    assert here == there
    assert Text(source=str(tmp_path / "there/c.txt")).fingerprint() != here


def test_all_that_decides_the_documents_is_in_the_fingerprint(tmp_path: Path) -> None:
    lines = '{"text": "one", "title": "two"}\n'
    write_files(tmp_path, {"a.jsonl": lines, "a.txt": lines, "b.txt": "three"})
    a, b = str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")
    variants = [
        Text(source=a),
        Text(source=a, field="title"),
        Text(source=a, val_fraction=0.2),
        Text(source=a, test_fraction=0.2),
        Text(source=a, errors="replace"),
        Text(source=str(tmp_path / "a.txt")),
        Text(source=(a, b)),
        Text(source=(b, a)),
    ]
    assert len({dataset.fingerprint() for dataset in variants}) == len(variants)


# --- shakespeare ------------------------------------------------------------------------------------------------


def test_shakespeare_is_split_at_nine_tenths_of_its_characters(shakespeare: Path) -> None:
    text = shakespeare.read_text(encoding="utf-8")
    (train,), (val,) = splits_of(Shakespeare(source=str(shakespeare)))
    assert train + val == text
    assert len(train) == int(0.9 * len(text)) == 1_003_854
    assert Shakespeare(source=str(shakespeare)).fingerprint() == Shakespeare().fingerprint()


def test_a_source_of_ones_own_is_split_and_told_apart(tmp_path: Path) -> None:
    text = "\u2603" * 9 + "x" * 8
    write_files(tmp_path, {"a.txt": text})
    dataset = Shakespeare(source=str(tmp_path / "a.txt"))
    assert splits_of(dataset) == ([text[:15]], [text[15:]])
    assert dataset.fingerprint() == hashlib.sha256(text.encode()).hexdigest() != Shakespeare().fingerprint()
    assert f"{tmp_path / 'b.txt'}: cannot be read" in refusal(Shakespeare(source=str(tmp_path / "b.txt")))


class Server(http.server.HTTPServer):
    """Answers every request with `content`, of which it promises `promised` bytes."""

    content = b"All:\nSpeak, speak. " * 5
    promised = len(content)
    requests = 0


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.promised))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(shakespeare_module, "URL", f"http://127.0.0.1:{server.server_port}/input.txt")
        monkeypatch.setattr(shakespeare_module, "SHA256", hashlib.sha256(Server.content).hexdigest())
        yield server
        server.shutdown()
        thread.join()


def test_shakespeare_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    first = splits_of(Shakespeare())
    assert "".join(chain(*first)).encode() == server.content
    server.content = b"gone"
    assert splits_of(Shakespeare()) == first
    assert server.requests == 1
    assert [path.name for path in (tmp_path / "cache" / "nanogpt-kit").iterdir()] == ["tinyshakespeare.txt"]


def test_a_damaged_copy_in_the_cache_is_fetched_again(server: Server) -> None:
    path = shakespeare_module.download_text()
    path.write_bytes(server.content[:-1])
    assert shakespeare_module.download_text().read_bytes() == server.content
    assert server.requests == 2


@pytest.mark.parametrize(
    ("content", "promised", "told"),
    [
        (b"<html>Log in to this network</html>", 35, "the expected tiny Shakespeare (sha256"),
        (Server.content[:20], len(Server.content), "cannot be downloaded from"),
    ],
    ids=["another page", "cut short"],
)
def test_a_wrong_download_is_refused_and_not_kept(
    server: Server, tmp_path: Path, content: bytes, promised: int, told: str
) -> None:
    server.content, server.promised = content, promised
    message = refusal(Shakespeare())
    assert told in message
    assert message.endswith("set dataset.source=<file>")
    assert not (tmp_path / "cache").exists()


def test_without_a_network_shakespeare_says_what_to_do(server: Server) -> None:
    server.shutdown()
    server.socket.close()
    assert re.search(r"cannot be downloaded from http.*refused.*dataset\.source=<file>", refusal(Shakespeare()))


# --- python_stdlib ----------------------------------------------------------------------------------------------


def test_the_library_is_split_by_file_and_no_text_is_in_both() -> None:
    train, val = splits_of(PythonStdlib())
    assert len(set(train + val)) == len(train + val)
    assert "" not in train + val
    assert sum(len(text.encode()) for text in val) == pytest.approx(130_000, rel=0.1)
    assert sum(len(text.encode()) for text in train) > 1_000_000


def test_the_library_comes_without_its_tests() -> None:
    root = sysconfig.get_path("stdlib")
    found = {path.relative_to(root) for split in ("train", "val") for path in PythonStdlib()._files(split)}
    assert {Path("argparse.py"), Path("json/decoder.py"), Path("asyncio/events.py")} <= found
    assert not [path for path in found if {"test", "tests", "site-packages"} & set(path.parts)]


def test_the_size_of_the_validation_split_is_an_option() -> None:
    train, val = splits_of(PythonStdlib(val_bytes=400_000))
    assert sum(len(text.encode()) for text in val) == pytest.approx(400_000, rel=0.1)
    assert not set(train) & set(val)


def test_the_fingerprint_of_the_library_is_stable_and_tells_the_split() -> None:
    assert PythonStdlib().fingerprint() == PythonStdlib().fingerprint()
    assert PythonStdlib().fingerprint() != PythonStdlib(val_bytes=400_000).fingerprint()


def test_a_source_whose_name_is_not_utf8_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / os.fsdecode(b"a\xe9.py")).write_text("one = 1")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert all_of(PythonStdlib()) == ["one = 1"]


def test_a_python_without_sources_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert f"this Python has no library sources in {tmp_path}" in refusal(PythonStdlib())


# --- what holds for all of them ---------------------------------------------------------------------------------


class TestText(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        packed(tmp_path / "a.jsonl.gz", content_of(".jsonl"))
        write_files(tmp_path, {"b.txt": "text", "c.txt": LONG, "d.csv": "text\n" + "\n".join(MANY)})
        type(self).component = Text(source=str(tmp_path), val_fraction=0.2, test_fraction=0.1)


class TestASingleLongText(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"a.txt": LONG})
        type(self).component = Text(source=str(tmp_path))


class TestShakespeare(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"a.txt": "\n".join(MANY)})
        type(self).component = Shakespeare(source=str(tmp_path / "a.txt"))


class TestPythonStdlib(DatasetConformance):
    component = PythonStdlib()
