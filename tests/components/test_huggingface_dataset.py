"""Datasets through the `datasets` library: local files in all formats, and a hub that is served here."""

from __future__ import annotations

import csv
import gc
import gzip
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from nanogpt_kit.api import Dataset, KitError
from nanogpt_kit.components.dataset.huggingface import HuggingFace
from nanogpt_kit.components.dataset.openwebtext import OpenWebText
from nanogpt_kit.testing.dataset import DatasetConformance

TEXTS = [f"document {number} \u2603" for number in range(700)]

both_ways = pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "converted"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library reads the environment when it is imported, and so later changes to its settings are made there."""
    import datasets.config
    import huggingface_hub.constants

    cache = tmp_path / "hf"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    return cache


def write(path: Path, texts: list[str | None], **columns: list[Any]) -> Path:
    """As other programs write the format that the ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "id": range(len(texts)), **columns})
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    if form == "parquet":
        pq.write_table(table, path, row_group_size=90)
    elif form == "arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=90)
    elif form in ("jsonl", "json"):
        content = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    elif form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([table.column_names, *([*row.values()] for row in table.to_pylist())])
    else:
        path.write_text("\n".join(text or "" for text in texts), encoding="utf-8")
    return path


def refusal(dataset: Dataset) -> str:
    with pytest.raises(KitError) as caught:
        list(dataset.documents_with_split())
    return str(caught.value)


# --- local files ------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.arrow", "a.txt"])
def test_the_ending_of_a_local_file_says_how_to_read_it(tmp_path: Path, name: str, streaming: bool) -> None:
    dataset = HuggingFace(source=str(write(tmp_path / name, [*TEXTS])), streaming=streaming)
    assert list(dataset.all_documents()) == TEXTS
    assert dataset.splits == ("train", "val")
    assert not dataset.has_own_splits


@both_ways
def test_a_glob_is_read_in_the_order_of_the_names(tmp_path: Path, streaming: bool) -> None:
    for number in (2, 1, 3):
        write(tmp_path / f"{number}.parquet", TEXTS[number * 100 : number * 100 + 100])
    write(tmp_path / "other.csv", ["no"])
    dataset = HuggingFace(source=str(tmp_path / "*.parquet"), streaming=streaming)
    assert list(dataset.all_documents()) == TEXTS[100:400]


@both_ways
def test_splits_of_the_source_may_be_named(tmp_path: Path, streaming: bool) -> None:
    for split, texts in {"train": TEXTS[:400], "validation": TEXTS[400:600], "test": TEXTS[600:]}.items():
        write(tmp_path / "data" / f"{split}-00000-of-00001.parquet", texts)
    source = str(tmp_path / "data")
    dataset = HuggingFace(source=source, val="validation", test="test", streaming=streaming)
    assert dataset.splits == ("train", "val", "test")
    assert dataset.has_own_splits
    assert [list(dataset.documents(split)) for split in dataset.splits] == [TEXTS[:400], TEXTS[400:600], TEXTS[600:]]
    assert HuggingFace(source=source, train="test", val="train", streaming=streaming).splits == ("train", "val")
    message = refusal(HuggingFace(source=source, val="valid", streaming=streaming))
    assert message == f"{source!r} has no split 'valid'; did you mean 'validation'? Allowed: test, train, validation."


def test_streamed_and_converted_it_is_divided_alike(tmp_path: Path) -> None:
    source = str(write(tmp_path / "a.parquet", [*TEXTS]))
    streamed, converted = (HuggingFace(source=source, streaming=way, test_fraction=0.2) for way in (True, False))
    assert list(streamed.documents_with_split()) == list(converted.documents_with_split())
    assert streamed.fingerprint() == converted.fingerprint()


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_only_what_is_not_streamed_is_kept(tmp_path: Path, own_cache: Path, name: str) -> None:
    source = str(write(tmp_path / name, [*TEXTS]))
    list(HuggingFace(source=source).documents_with_split())
    assert not list(own_cache.rglob("*.arrow"))
    list(HuggingFace(source=source, streaming=False).documents_with_split())
    (kept,) = own_cache.rglob("*.arrow")
    assert kept.stat().st_size > sum(map(len, TEXTS))


@both_ways
def test_null_is_an_empty_document(tmp_path: Path, streaming: bool) -> None:
    source = str(write(tmp_path / "a.parquet", ["one", None, "", "two"]))
    dataset = HuggingFace(source=source, streaming=streaming)
    assert list(dataset.all_documents()) == ["one", "", "", "two"]
    assert sorted(text for _, text in dataset.documents_with_split()) == [
        "",
        "",
        "one",
        "two",
    ]  # empty ones are counted


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the library's reader of .csv leaves it open
@pytest.mark.filterwarnings("ignore:.*a.csv:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("name", "streaming"),
    [
        *(("a.parquet", True), ("a.arrow", True)),
        *((f"a.{form}", False) for form in ("parquet", "arrow", "jsonl", "csv")),
    ],
)
def test_a_column_that_is_no_text_is_named_with_its_type(tmp_path: Path, name: str, streaming: bool) -> None:
    source = str(write(tmp_path / name, [*TEXTS]))
    message = refusal(HuggingFace(source=source, field="id", streaming=streaming))
    assert message == f"{source}: dataset.field: column 'id' holds int64, not strings; columns of strings: text"
    message = refusal(HuggingFace(source=source, field="txt", streaming=streaming))
    assert message == f"{source}: dataset.field: no column 'txt'; did you mean 'text'? Allowed: id, text."
    gc.collect()  # here, where its warning is expected


def test_faults_in_local_lines_are_named_with_their_place(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", [*TEXTS])
    assert refusal(HuggingFace(source=str(lines), field="id")) == f"{lines}:1: no text under 'id', but a number"
    lines.write_bytes(b'{"text": "caf\xe9"}\n')
    assert refusal(HuggingFace(source=str(lines))).startswith(f"{lines}:1: not UTF-8: byte 0xe9 at offset 13; save it")
    folder = write(tmp_path / "data" / "train.csv", [*TEXTS])
    told = f"{folder}:1: dataset.field: no column 'txt'; did you mean 'text'?"
    assert refusal(HuggingFace(source=str(folder.parent), field="txt")).startswith(told)


def test_values_of_several_types_are_told_as_that(tmp_path: Path) -> None:
    mixed = tmp_path / "a.json"
    mixed.write_text('{"text": "a"}\n{"text": 7}\n')
    told = f"{mixed}: dataset.field: column 'text' holds values of several types, not strings"
    assert refusal(HuggingFace(source=str(mixed), streaming=False)) == told


def test_the_cause_of_a_conversion_that_failed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    message = refusal(HuggingFace(source=str(tmp_path / "a.txt"), streaming=False))
    assert "can't decode byte 0xe9" in message
    (tmp_path / "a.json").write_bytes(b"")
    assert refusal(HuggingFace(source=str(tmp_path / "a.json"))).endswith("contains no text: a file is empty")


@both_ways
def test_a_word_that_means_nothing_elsewhere_is_a_word(tmp_path: Path, streaming: bool) -> None:
    source = str(write(tmp_path / "a.csv", ["NA", "null", "b"]))
    assert list(HuggingFace(source=source, streaming=streaming).all_documents()) == ["NA", "null", "b"]


def test_how_a_description_says_that_files_are_read_is_followed(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id\ttext\n1\ta, b\n")
    (tmp_path / "README.md").write_text('---\nconfigs:\n- config_name: default\n  sep: "\\t"\n---\n')
    assert list(HuggingFace(source=str(tmp_path)).all_documents()) == ["a, b"]


def test_a_part_of_a_split_is_read_whole_or_not_streamed(tmp_path: Path) -> None:
    source = str(write(tmp_path / "a.parquet", [*TEXTS]))
    parts = {"train": "train[:90%]", "val": "train[90%:]"}
    told = "'train[90%:]' is a part of a split, which requires dataset.streaming = false"
    assert refusal(HuggingFace(source=source, **parts)) == told
    dataset = HuggingFace(source=source, streaming=False, **parts)
    assert [list(dataset.documents(split)) for split in ("train", "val")] == [TEXTS[:630], TEXTS[630:]]


@both_ways
@pytest.mark.parametrize("content", [b"", b"PAR1 and so on"])
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, streaming: bool, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    message = refusal(HuggingFace(source=str(tmp_path / "a.parquet"), streaming=streaming))
    assert str(tmp_path / "a.parquet") in message
    assert re.search("0 bytes|magic bytes|corrupt", message)
    assert "\n" not in message


def test_a_source_that_is_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "mixed" / "a.parquet", ["x"])
    write(tmp_path / "mixed" / "a.csv", ["x"])
    for source, told in {
        f"{tmp_path}/none.parquet": "matches no file or folder",
        f"{tmp_path}/*.parquet": "matches no file or folder",
        "none.jsonl": "matches no file or folder",
        f"{tmp_path}/empty": "is a folder without files",
        f"{tmp_path}/mixed/*": "should have one ending of .parquet, .jsonl, .json, .csv, .txt, .arrow; it has .csv, .p",
    }.items():
        assert f"dataset.source: {source!r} {told}" in refusal(HuggingFace(source=source))


def test_reading_is_quiet_and_leaves_no_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import datasets.utils.logging

    before = datasets.utils.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    source = str(write(tmp_path / "a.parquet", [*TEXTS]))
    list(HuggingFace(source=source, streaming=False).documents_with_split())
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    refusal(HuggingFace(source=str(tmp_path / "b.parquet"), streaming=False))
    assert capfd.readouterr() == ("", "")
    assert (datasets.utils.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()) == before


def test_the_size_of_the_text_is_that_of_its_column(tmp_path: Path) -> None:
    source = write(tmp_path / "data" / "a.parquet", [f"{number:0200}" for number in range(700)], url=["x" * 50] * 700)
    for named in (source, source.parent):
        assert HuggingFace(source=str(named)).text_bytes() == pytest.approx(140_000, rel=0.1)
    assert HuggingFace(source=str(write(tmp_path / "a.arrow", ["x"]))).text_bytes() is None


# --- fingerprints and options -----------------------------------------------------------------------------------


def test_the_fingerprint_of_local_files_is_that_of_their_contents(tmp_path: Path) -> None:
    def fingerprint(name: str, **options: Any) -> str:
        return HuggingFace(source=str(tmp_path / name), **options).fingerprint()

    for name, texts in {"here/a.jsonl": ["one"], "there/b.jsonl": ["one"], "there/c.jsonl": ["two"]}.items():
        write(tmp_path / name, texts)
    write(tmp_path / "d.json", ["one"])
    assert fingerprint("here/a.jsonl") == fingerprint("there/b.jsonl")
    changed: list[dict[str, Any]] = [{}, {"field": "id"}, {"val_fraction": 0.2}, {"val": "val"}, {"train": "test"}]
    found = {fingerprint("here/a.jsonl", **options) for options in changed}
    found |= {fingerprint(name) for name in ("there/c.jsonl", "there/*", "here", "there", "d.json")}
    assert len(found) == 10


def test_on_the_hub_the_fingerprint_is_what_was_asked_for_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked"))
    options: dict[str, Any] = {"source": "org/name"}
    changes: list[dict[str, Any]] = [
        {"source": "org/other"},
        {"config": "en"},
        {"revision": "v1"},
        {"field": "content"},
        {"train": "all"},
        {"val": "val"},
        {"val": "val", "test": "test"},
        {"val_fraction": 0.2},
    ]
    found = [HuggingFace(**{**options, **change}).fingerprint() for change in [{}, {"streaming": False}, *changes]]
    assert found[0] == found[1]
    assert len(set(found)) == len(changes) + 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"test": "test"}, "test = 'test' requires val to name a split; or omit test and set test_fraction"),
        (
            {"val": "val", "test_fraction": 0.1},
            "should be 0 where val names a split ('val'); set test",
        ),
        ({"val": "train"}, "train and val should be different splits, and both are 'train'"),
        ({"val": "dev", "test": "dev"}, "val and test should be different splits, and both are 'dev'"),
    ],
)
def test_splits_are_either_named_or_cut(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HuggingFace(source="org/name", **options)
    assert told in str(caught.value)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    check = (
        "import sys, nanogpt_kit.components.dataset.openwebtext as o, nanogpt_kit.components.dataset.huggingface;"
        "o.OpenWebText().fingerprint();"
        "sys.exit(', '.join({'datasets', 'pyarrow', 'torch', 'huggingface_hub'} & sys.modules.keys()) or None)"
    )
    assert subprocess.run([sys.executable, "-c", check], stderr=subprocess.PIPE, check=False).stderr == b""


# --- openwebtext ------------------------------------------------------------------------------------------------


@both_ways
def test_openwebtext_reads_a_local_copy(tmp_path: Path, streaming: bool) -> None:
    for number in range(2):
        write(tmp_path / "copy" / f"{number}.parquet", TEXTS[number * 350 :][:350])
    dataset = OpenWebText(source=str(tmp_path / "copy"), streaming=streaming, val_fraction=0.2)
    assert list(dataset.all_documents()) == TEXTS
    assert list(dataset.documents_with_split()) == list(
        HuggingFace(source=str(tmp_path / "copy"), val_fraction=0.2).documents_with_split()
    )


def test_openwebtext_validates_on_one_page_in_two_thousand_as_nanogpt_does(tmp_path: Path) -> None:
    texts = [str(number) for number in range(60_000)]
    dataset = OpenWebText(source=str(write(tmp_path / "a.parquet", [*texts])))
    count = sum(split == "val" for split, _ in dataset.documents_with_split())
    assert count == pytest.approx(30, abs=4 * 30**0.5)


# --- the hub ----------------------------------------------------------------------------------------------------


def test_offline_it_says_what_to_do() -> None:
    message = refusal(OpenWebText())
    assert message == (
        "dataset.source: 'Skylion007/openwebtext' is not a local file or folder, and the hub cannot be reached; "
        "set dataset.source to a local parquet file or folder, or use another dataset"
    )


def test_without_a_network_it_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    began = time.monotonic()
    assert "the hub cannot be reached" in refusal(HuggingFace(source="org/name"))
    assert time.monotonic() - began < 10
    assert not datasets.config.HF_HUB_OFFLINE


def parquet(texts: list[str]) -> bytes:
    file = BytesIO()
    pq.write_table(pa.table({"text": texts, "id": range(len(texts))}), file, row_group_size=100)
    return file.getvalue()


CARD = """---
dataset_info:
  features:
  - name: text
    dtype: string
  splits:
  - name: train
    num_bytes: 12345
    num_examples: 2
---
"""
HUB = {
    "org/plain/data/train-00000-of-00002.parquet": parquet(TEXTS[:300]),
    "org/plain/data/train-00001-of-00002.parquet": parquet(TEXTS[300:600]),
    "org/plain/data/validation-00000-of-00001.parquet": parquet(TEXTS[600:]),
    "org/lines/train.jsonl": b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS),
    "org/told/README.md": CARD.encode(),
    "org/told/train.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "org/more/README.md": CARD.replace("dtype: string", "dtype: string\n  - name: id\n    dtype: int64").encode(),
    "org/more/train.jsonl": b'{"text": "one", "id": 1}\n{"text": "two", "id": 2}\n',
    "org/script/script.py": b"raise SystemExit('it ran')",
    "org/converted/plain_text/train/0000.parquet": parquet(TEXTS[:5]),
    "org/converted/large/partial-train/0000.parquet": parquet(TEXTS[5:9]),
    "org/lost/train-00000-of-00002.parquet": parquet(TEXTS[:300]),
    "org/lost/train-00001-of-00002.parquet": parquet(TEXTS[300:]),
}
COMMIT = "c" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as reading a public dataset takes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        file = re.fullmatch(r"/datasets/(org/\w+)/resolve/(?:refs/convert/parquet|[^/]+)/(.+)", path)
        listing = re.fullmatch(rf"/api/datasets/(org/\w+)/tree/{COMMIT}/?(.*)", path)
        about = re.fullmatch(r"/api/datasets/(org/\w+)(/revision/.*)?", path)
        if path == "/":
            self.answer(200)
        elif file:
            self.file(f"{file[1]}/{file[2]}")
        elif listing:
            self.listing(f"{listing[1]}/", f"{listing[1]}/{listing[2]}".rstrip("/") + "/")
        elif about and any(name.startswith(f"{about[1]}/") for name in HUB):
            self.answer(200, json.dumps({"id": about[1], "sha": COMMIT}).encode())
        else:
            self.answer(404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def file(self, name: str) -> None:
        content = HUB.get(name)
        if content is None:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        elif name.endswith("lost/train-00001-of-00002.parquet"):
            self.answer(403)
        else:
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X_Repo_Commit": COMMIT}
            wanted = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            part = content[int(wanted[1]) : int(wanted[2]) + 1] if wanted else content
            self.answer(206 if wanted else 200, part, **headers)

    def listing(self, repository: str, folder: str) -> None:
        below = {name.removeprefix(folder) for name in HUB if name.startswith(folder)}
        if "recursive=true" not in self.path:
            below = {name.partition("/")[0] for name in below}
        found = [
            {"type": "file" if (content := HUB.get(folder + name)) is not None else "directory", "oid": "o"}
            | {"path": (folder + name).removeprefix(repository), "size": len(content or b"")}
            for name in sorted(below)
        ]
        if found:
            self.answer(200, json.dumps(found).encode())
        else:
            self.answer(404, X_Error_Code="EntryNotFound")

    def answer(self, code: int, content: bytes = b"{}", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


ASKED: dict[str, dict[str, Any]] = {
    "plain": {"source": "org/plain"},
    "its splits": {"source": "org/plain", "val": "validation"},
    "converted": {"source": "org/plain", "streaming": False},
    "lines": {"source": "org/lines"},
    "told": {"source": "org/told"},
    "told of more": {"source": "org/more"},
    "no split": {"source": "org/plain", "val": "valdation"},
    "no column": {"source": "org/plain", "field": "txt"},
    "no config": {"source": "org/plain", "config": "en"},
    "nobody": {"source": "nobody/nothing"},
    "script": {"source": "org/script"},
    "script, converted": {"source": "org/converted", "revision": "refs/convert/parquet", "config": "plain_text"},
    "in part": {"source": "org/converted", "revision": "refs/convert/parquet", "config": "large"},
    "lost": {"source": "org/lost"},
}
ASK = """
import json, sys
from nanogpt_kit.components.dataset.huggingface import HuggingFace
told = {}
for name, options in json.loads(sys.argv[1]).items():
    dataset, documents = HuggingFace(**options), []
    try:
        documents.extend(dataset.documents_with_split())
        told[name] = [documents, dataset.text_bytes()]
    except Exception as error:
        told[name] = [type(error).__name__, str(error), len(documents)]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process of its own got from the hub, whose address the libraries read when they are imported."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path_factory.mktemp("hf")),
            "no_proxy": "*",
        }
        command = [sys.executable, "-c", ASK, json.dumps(ASKED)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["plain", "converted"])
def test_a_dataset_of_the_hub_is_read(told: dict[str, Any], name: str) -> None:
    assert [text for _, text in told[name][0]] == TEXTS[:600]


def test_formats_other_than_parquet_are_streamed_as_well(told: dict[str, Any]) -> None:
    assert [text for _, text in told["lines"][0]] == TEXTS


def test_the_hubs_own_splits_are_read(told: dict[str, Any]) -> None:
    expected = [["val", text] for text in TEXTS[600:]] + [["train", text] for text in TEXTS[:600]]
    assert told["its splits"][0] == expected


def test_its_size_is_known_where_the_hub_tells_it_of_the_text_alone(told: dict[str, Any]) -> None:
    assert told["told"][1] == 12345
    assert told["told of more"][1] is None
    assert told["plain"][1] is None


@pytest.mark.parametrize("name", ["script, converted", "in part"])
def test_what_the_hub_converted_is_read_by_config(told: dict[str, Any], name: str) -> None:
    assert sorted(text for _, text in told[name][0]) == (TEXTS[:5] if name == "script, converted" else TEXTS[5:9])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no split", "'org/plain' has no split 'valdation'; did you mean 'validation'? Allowed: train, validation."),
        ("no column", "dataset.field: no column 'txt'; did you mean 'text'? Allowed: id, text."),
        ("no config", "BuilderConfig 'en' not found. Available: ['default']; set dataset.config to one of them"),
        (
            "nobody",
            "Dataset 'nobody/nothing' doesn't exist on the Hub or cannot be accessed. Check the spelling;",
        ),
        ("script", 'script, which is not supported; dataset.revision="refs/convert/parquet" reads'),
    ],
)
def test_what_the_hub_does_not_have_is_named(told: dict[str, Any], name: str, message: str) -> None:
    kind, text, _ = told[name]
    assert kind == "KitError"
    assert message in text
    assert "\n" not in text


def test_a_lost_connection_is_none_of_the_users_mistakes(told: dict[str, Any]) -> None:
    """An OSError: what was prepared until then is kept."""
    kind, message, documents = told["lost"]
    assert (kind, documents) == ("ConnectionError", 300)
    assert message.startswith("dataset.source: 'org/lost': the connection to the hub was lost: ")


# --- what holds for all datasets --------------------------------------------------------------------------------


class TestDivided(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        type(self).component = HuggingFace(source=str(write(tmp_path / "a.parquet", [*TEXTS, *TEXTS[:9], None])))


class TestWithItsSplits(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        for split in ("train", "test"):
            write(tmp_path / "data" / f"{split}.jsonl", TEXTS[:30])
        type(self).component = HuggingFace(source=str(tmp_path / "data"), val="test")


class TestOpenWebText(DatasetConformance):
    @pytest.fixture(autouse=True)
    def _sources(self, tmp_path: Path) -> None:
        type(self).component = OpenWebText(source=str(write(tmp_path / "a.parquet", [*TEXTS])))
