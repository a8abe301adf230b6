"""A folder of any files: its plain text is read, and what is left out is counted and, where it may be text, named."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.components.dataset.text import Text
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.corpus import plain_text
from nanogpt_kit.corpus.sources import text_files

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
LATIN = "café\n".encode("latin-1")
BINARY = bytes(range(256)) * 20


def make_files(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def names(folder: Path, suffixes: tuple[str, ...] = (), errors: str = "strict") -> list[str]:
    return [file.path.relative_to(folder).as_posix() for file in text_files(str(folder), "text", errors, suffixes)]


def logged(folder: Path, caplog: pytest.LogCaptureFixture, **options: object) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="nanogpt_kit"):
        Text(source=str(folder), **options).check_source()
    return [record.getMessage() for record in caplog.records]


TAKEN = {
    "README.md": "# Notes",
    "Makefile": "all:\n\ttrue\n",
    "paper.tex": "\\section{\u2603}",
    "src/code.py": "print(1)\n",
    "src/odd.py": "x = '\x01'  # a control character in the middle of a long enough line of code\n",
    "src/__init__.py": "",
    "old.md.gz": gzip.compress(b"packed"),
    "utf16.md": "caf\u00e9".encode("utf-16"),
    "table.csv": "id,text\n1,row\n",
    "lines.jsonl": '{"text": "record"}\n',
    "a.txt": "plain",
}
LEFT_OUT: dict[str, bytes | str] = {
    ".env": "SECRET=1",
    ".git/config": "[core]",
    "node_modules/x/index.js": "x",
    "src/__pycache__/code.cpython-311.pyc": b"\xa7\r\r\n\0\0",
    "env/pyvenv.cfg": "home = /usr",
    "env/lib/six.py": "six",
    "runs/.gitignore": "*\n",
    "runs/quickstart/samples.txt": "generated",
    "target/CACHEDIR.TAG": "Signature: 8a477f597d28d172789f06886806bc55",
    "target/out.txt": "built",
    "package.json": "{}",
    "poetry.lock": "[[package]]",
    "notebook.ipynb": '{"cells": []}',
    "picture.png": PNG,
    "photo": PNG,
    "blob.md": BINARY,
    "scan.pdf": "%PDF-1.4\n%",
    "weights.bin": "letters",
    "rates.csv": "id,name\n1,x\n",
    "other.jsonl": '{"content": "x"}\n',
    "latin.tex": LATIN,
    "latin.txt": LATIN,
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return make_files(tmp_path / "mixed", TAKEN | LEFT_OUT)


def test_all_plain_text_of_a_folder_is_found_in_the_order_of_its_paths(mixed: Path) -> None:
    assert names(mixed) == [path.as_posix() for path in sorted(map(Path, TAKEN))]


def test_what_is_read_and_what_is_left_out_is_counted(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    summary, *warnings = logged(mixed, caplog)
    assert summary == (
        f"{mixed}: 11 files, {sum(len((mixed / name).read_bytes()) for name in TAKEN)} bytes: "
        ".md 3, .py 3, without suffix 1, .txt 1, .jsonl 1, .tex 1, 1 other; left out: 5 binary, "
        "3 data (.ipynb 1, .json 1, .lock 1), 2 without the field, 2 not UTF-8, 2 hidden, 5 generated folders"
    )
    assert [warning.partition(" (")[0] for warning in warnings] == [
        f"left out of {mixed}: latin.tex, latin.txt",
        f"left out of {mixed}: other.jsonl, rates.csv",
    ]
    assert 'dataset.errors = "replace"' in warnings[0]
    assert "dataset.field" in warnings[1]


def test_many_names_in_a_warning_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_files(tmp_path, {"a.md": "text", **{f"l{number}.md": LATIN for number in range(8)}})
    assert "l4.md, and 3 more (" in logged(tmp_path, caplog)[1]


def test_other_text_is_read_where_its_field_or_its_errors_allow_it(mixed: Path) -> None:
    found = {file.path.name for file in text_files(str(mixed), "content")}
    assert "other.jsonl" in found
    assert "lines.jsonl" not in found
    assert {"latin.tex", "latin.txt"} <= {Path(name).name for name in names(mixed, errors="replace")}
    assert "blob.md" not in names(mixed, errors="replace")


@pytest.mark.parametrize("suffixes", [(".md", ".py"), ("md", "*.PY"), ("**/*.md", " py ")])
def test_suffixes_restrict_a_folder_however_they_are_written(mixed: Path, suffixes: tuple[str, ...]) -> None:
    assert names(mixed, suffixes) == [
        "README.md", "old.md.gz", "src/__init__.py", "src/code.py", "src/odd.py", "utf16.md"
    ]  # fmt: skip


def test_a_suffix_that_is_named_is_read_as_plain_text_even_where_it_is_data(mixed: Path) -> None:
    assert names(mixed, (".json",)) == ["package.json"]
    assert list(Text(source=str(mixed), suffixes=("json", "lock")).all_documents()) == ["{}", "[[package]]"]
    assert list(Text(source=str(mixed), suffixes=(".csv",)).all_documents()) == ["row"]


def test_files_and_globs_are_not_restricted(mixed: Path) -> None:
    dataset = Text(source=(str(mixed / "a.txt"), str(mixed / "*.tex")), suffixes=(".md",), errors="replace")
    assert [file.path.name for file in dataset._files()] == ["a.txt", "latin.tex", "paper.tex"]


def test_the_fingerprint_is_that_of_the_text_alone(mixed: Path, tmp_path: Path) -> None:
    only = make_files(tmp_path / "only", TAKEN)
    before = Text(source=str(mixed)).fingerprint()
    assert Text(source=str(only)).fingerprint() == before
    (mixed / "node_modules/x/more.js").write_text("y")
    assert Text(source=str(mixed)).fingerprint() == before
    assert Text(source=str(mixed), suffixes=(".md",)).fingerprint() != before
    (mixed / "new.rs").write_text("fn main() {}")
    assert Text(source=str(mixed)).fingerprint() != before


def test_links_to_folders_are_not_followed_and_pipes_are_not_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_files(tmp_path, {"a/one.md": "one", "b.md": "two"})
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "linked.md").symlink_to("b.md")
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path) == ["a/one.md", "b.md", "linked.md"]
    assert logged(tmp_path, caplog)[0].endswith("left out: 1 linked folder")


def test_links_that_lead_to_each_other_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_files(tmp_path, {"a.md": "text"})
    (tmp_path / "one.md").symlink_to("other.md")
    (tmp_path / "other.md").symlink_to("one.md")
    summary, warning = logged(tmp_path, caplog)
    assert summary.endswith("left out: 2 unreadable")
    assert "one.md, other.md" in warning


NAMED_FILES: dict[str, tuple[bytes | str, str]] = {
    "novel.txt": (b"one\n" + LATIN, r"novel\.txt:2: not UTF-8"),
    "novel": ("caf\u00e9".encode("utf-16-le") * 20, r"novel: is UTF-16LE"),
    "notes.md.gz": ("text", r"notes\.md\.gz: is plain text, not gzip"),
    "rows.csv": ("id,name\n1,x\n", r"rows\.csv:1: dataset\.field: no column 'text'"),
    "records.jsonl": ('{"content": "x"}\n', r"records\.jsonl:1: no text under 'text'"),
    "table.parquet": ("text", r"table\.parquet"),
    "nothing.txt": ("", r"dataset\.source: .*nothing\.txt is empty"),
}


@pytest.mark.parametrize("name", NAMED_FILES)
def test_of_a_file_that_is_named_the_beginning_is_checked(tmp_path: Path, name: str) -> None:
    content, message = NAMED_FILES[name]
    path = make_files(tmp_path, {name: content}) / name
    for source in (str(path), str(path.parent / f"{path.name}*")):
        with pytest.raises(KitError, match=message):
            Text(source=source).check_source()


@pytest.mark.parametrize(
    "content", ["text", "caf\u00e9".encode("utf-16"), b"\x01\x02\x03 letters", b"x" * 300 + b"\x1b[0m"]
)
def test_a_file_that_is_named_and_can_be_read_is_accepted(tmp_path: Path, content: str | bytes) -> None:
    path = make_files(tmp_path, {"a.log": content}) / "a.log"
    Text(source=str(path)).check_source()
    assert list(Text(source=str(path)).all_documents())


@pytest.mark.parametrize("source", ["closed/a.md", "closed/*.md"])
def test_a_file_in_a_closed_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    stat = os.stat

    def refuse(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if "closed" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(KitError, match=r"dataset\.source: .*closed.* cannot be read: Permission denied"):
        Text(source=str(tmp_path / source)).check_source()


def test_of_a_large_binary_only_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path, {"a.md": "text"})
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(4 << 30)
    monkeypatch.setattr(plain_text, "READ_WHOLE_BYTES", 1000)
    assert names(tmp_path) == ["a.md"]


@pytest.mark.parametrize(("end", "reason"), [(LATIN, "not UTF-8"), (b"a\0b", "binary")])
def test_files_are_decoded_to_their_end_unless_they_are_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, end: bytes, reason: str
) -> None:
    make_files(tmp_path, {"a.md": "text", "b.md": b"letters\n" * 2000 + end})
    assert f"left out: 1 {reason}" in logged(tmp_path, caplog)[0]
    make_files(tmp_path, {"b.md": b"letters\n" * 3000 + end})
    monkeypatch.setattr(plain_text, "READ_WHOLE_BYTES", 20_000)
    assert names(tmp_path) == ["a.md", "b.md"]
    with pytest.raises(KitError, match=r"b\.md:3001: "):
        list(Text(source=str(tmp_path)).all_documents())


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_files(tmp_path, {"a.md": "text", "closed/b.md": "text"})
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    summary, warning = logged(tmp_path, caplog)
    assert summary.endswith("left out: 1 unreadable")
    assert "closed" in warning


REFUSED: dict[str, tuple[dict[str, bytes | str], dict[str, object], list[str]]] = {
    "nothing": ({}, {}, ["dataset.source: ", "is an empty folder"]),
    "pictures": ({"a.png": PNG, "b": BINARY}, {}, ["dataset.source: ", "2 binary", "convert them to plain text"]),
    "records": ({"a.json": "[]"}, {}, ["1 data (.json 1)", "huggingface", "dataset.suffixes = [\".json\"]"]),
    "notebooks": ({"a.ipynb": "{}", "b.map": "{}"}, {}, ["2 data (", "dataset.suffixes = [\".ipynb\", \".map\"]"]),
    "a hidden folder": ({".notes/a.md": "text"}, {}, ["1 hidden", "dataset.source = \"", "folder/.notes\""]),
    "a hidden file": ({".a.md": "text", "b.png": ""}, {"suffixes": ("*.rst",)}, ["dataset.suffixes: ", "*.rst"]),
    "hidden files": ({".a.md": "text"}, {}, ["1 hidden", "dataset.source = \"", "folder/.*\""]),
    "generated folders": ({"data/.gitignore": "*\n", "data/a.md": "text"}, {}, ["1 generated folder", "folder/data\""]),
    "another suffix": (
        {"a.md": "text", "b.md": "text", "c.py": "1", "d.tex": BINARY},
        {"suffixes": ("**/*.tex",)},
        ["dataset.suffixes: ", "end with **/*.tex (1 binary)", "other files: .md 2, .py 1"],
    ),
    "empty files": ({"a.md": "", "b.txt": ""}, {}, ["dataset.source: ", "no text", "2 files are empty"]),
    "another key in a later file": ({"a.md": "text", "b.jsonl": "{not json\n"}, {}, ["b.jsonl:1: ", "not JSON"]),
    "another key": ({"a.jsonl": '{"content": "x"}\n'}, {}, ["a.jsonl:1: ", "it has content", "dataset.field"]),
    "another encoding": ({"a.md": b"one\n" + LATIN}, {}, ["a.md:2: ", "not UTF-8", "0xe9"]),
}  # fmt: skip


@pytest.mark.parametrize(("files", "options", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_folder_without_text_is_refused_with_what_it_holds(
    tmp_path: Path, files: dict[str, bytes | str], options: dict[str, object], expected: list[str]
) -> None:
    folder = make_files(tmp_path / "folder", files)
    folder.mkdir(exist_ok=True)
    with pytest.raises(KitError) as caught:
        Text(source=str(folder), **options).check_source()
    assert not [part for part in expected if part not in str(caught.value)], str(caught.value)


def test_a_damaged_file_of_a_known_format_is_not_left_out(tmp_path: Path) -> None:
    make_files(tmp_path, {"a.txt": "text", "b.txt.gz": gzip.compress(b"text" * 1000)[:-20], "c.jsonl": "{not json\n"})
    assert names(tmp_path) == ["a.txt", "b.txt.gz", "c.jsonl"]
    with pytest.raises(KitError, match=r"b\.txt\.gz"):
        list(Text(source=str(tmp_path)).all_documents())


def test_a_file_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    make_files(tmp_path, {"a.md": "text", "b.md": "more"})
    assert names(tmp_path) == ["a.md", "b.md"]
    (tmp_path / "b.md").write_bytes(LATIN * 2)
    assert names(tmp_path) == ["a.md"]


def test_every_document_is_read_once_though_json_is_not_a_document(tmp_path: Path) -> None:
    files = {f"n{number}.md": f"note {number}" for number in range(30)}
    make_files(tmp_path, {**files, "all.json": json.dumps(list(files))})
    dataset = Text(source=str(tmp_path))
    assert sorted(text for split in dataset.splits for text in dataset.documents(split)) == sorted(files.values())
