"""Passwords of URLs are in nothing that is recorded or printed; a matrix of URLs and places."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch import processes
from nanogpt_kit.runs.secrets import (
    hide_in_command,
    hide_in_patch,
    hide_in_text,
    hide_password,
    hide_password_in_message,
)
from nanogpt_kit.sweep.study.storage import check_storage_form, is_journal, open_storage

# Each URL's secrets, and what may be shown of it. A port that nobody listens at, where one is reached.
SHOWN = "postgresql://me:***@h/db"
URLS = {
    "plain": ("postgresql://me:s3cret@h/db", ["s3cret"], SHOWN),
    "driver": ("postgresql+psycopg2://me:s3cret@h:1/db", ["s3cret"], "postgresql+psycopg2://me:***@h:1/db"),
    "no database": ("mysql://me:s3cret@h", ["s3cret"], "mysql://me:***@h"),
    "no user": ("mysql://:s3cret@h/db", ["s3cret"], "mysql://:***@h/db"),
    "no host": ("mysql://me:s3cret@/db?unix_socket=/run/x", ["s3cret"], "mysql://me:***@/db?***"),
    "digits and a slash": ("postgresql://me:12/34secret@h/db", ["12/34secret", "34secret"], SHOWN),
    "digits, a slash, a digit": ("postgresql://me:123456/7@h/db", ["123456", "/7"], SHOWN),
    "like a port": ("postgresql://me:8080/tcp@h/db", ["8080", "tcp"], SHOWN),
    "ends in a slash": ("postgresql://me:12345/@h/db", ["12345"], SHOWN),
    "digits": ("postgresql://me:123456@h/db", ["123456"], SHOWN),
    "double quote": ('mysql://me:s3"cret@h/db', ['s3"', "cret"], "mysql://me:***@h/db"),
    "single quote": ("mysql://me:s3'cret@h/db", ["s3'", "cret"], "mysql://me:***@h/db"),
    "blank": ("mysql://me:s3 cret@h/db", ["s3 ", "cret"], "mysql://me:***@h/db"),
    "colon": ("postgresql://me:s3:cret@h/db", ["s3", "cret"], SHOWN),
    "question mark": ("postgresql://me:s3?cret@h/db", ["s3", "cret"], SHOWN),
    "hash": ("postgresql://me:s3#cret@h/db", ["s3", "cret"], SHOWN),
    "encoded": ("postgresql://me:s3%40cret%2Fx%3A@h/db", ["s3%40cret", "s3@cret", "cret"], SHOWN),
    "at in the user": ("postgresql://me@srv:s3cret@h/db", ["s3cret"], "postgresql://me%40srv:***@h/db"),
    "at": ("postgresql://me:p@s3cret@127.0.0.1/db", ["s3cret", "p@"], "postgresql://***"),
    "at and slash": ("postgresql://me:p@s3/cret@h/db", ["s3", "cret", "p@"], "postgresql://***"),
    "at and query": ("postgresql://me:p@s3?x=cret@h/db", ["s3", "cret", "p@"], "postgresql://***"),
    "slash in the user": ("postgresql://m/e:s3cret@h/db", ["s3cret"], "postgresql://***"),
    "host forgotten": ("postgresql://me:s3cret/db", ["s3cret"], "postgresql://***"),
    "bad host": ("postgresql://me:s3cret@[::1/db", ["s3cret"], "postgresql://***"),
    "query": ("postgresql://h/db?user=me&password=s3cret&x=1", ["s3cret"], "postgresql://h/db?***"),
    "sslpassword": ("postgresql://h/db?sslpassword=s3cret", ["s3cret"], "postgresql://h/db?***"),
    "passwd": ("mysql://h/db?passwd=s3cret#x", ["s3cret"], "mysql://h/db?***"),
    "options": ("postgresql://h/db?options=-c%20password%3Ds3cret", ["s3cret"], "postgresql://h/db?***"),
    "other scheme": ("redis://me:s3cret@h/1", ["s3cret"], "redis://me:***@h/1"),
    "proxy": ("grpc://me:s3cret@h:1", ["s3cret"], "grpc://me:***@h:1"),
    "three slashes": ("postgresql:///me:s3cret@h/db", ["s3cret"], "postgresql://***"),
    "after the database": ("postgresql://h/db password=s3cret", ["s3cret"], "postgresql://***"),
    "bad scheme": ("post gres://me:s3cret@h", ["s3cret"], "***"),
    "no scheme": ("me:s3cret@h/db", ["s3cret"], "***"),
    "one slash": ("postgresql:/me:s3cret@h/db", ["s3cret"], "***"),
    "a journal's ending": ("postgresql://me:s3cret@h/x.journal", ["s3cret"], "postgresql://me:***@h/x.journal"),
}
CASES = pytest.mark.parametrize(("url", "secrets", "shown"), URLS.values(), ids=URLS)


def free_of(secrets: list[str], text: str) -> None:
    ways = {form for secret in secrets for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret))}
    assert not [form for form in ways if form in text], text


@CASES
def test_a_storage_is_shown_without_its_password(url: str, secrets: list[str], shown: str) -> None:
    assert hide_password(url) == shown
    free_of(secrets, hide_in_text(f"error: {hide_password(url)} is none of: a"))


@CASES
@pytest.mark.parametrize("form", ["--storage {}", "--storage={}", "sweep.storage={}", "sweep={{storage={}}}"])
def test_no_recorded_command_contains_the_password(url: str, secrets: list[str], shown: str, form: str) -> None:
    option = json.dumps(url, ensure_ascii=False) if "{storage" in form else url
    words = [word.format(option) for word in form.split(" ")]
    free_of(secrets, hide_in_command(["nanogpt-kit", "sweep", "x.toml", *words, "train.steps=5"]))
    assert hide_in_command([*words, "train.steps=5"]).endswith("train.steps=5")
    quoted = f'"sweep".storage = {json.dumps(url, ensure_ascii=False)}'
    free_of(secrets, hide_in_command(["run", quoted]))


@CASES
@pytest.mark.parametrize("line", ["storage = {}", "NANOGPT_KIT_STORAGE={}", '"sweep.storage"={}  # caf\xe9', "s='{}'"])
def test_no_patch_contains_the_password(url: str, secrets: list[str], shown: str, line: str) -> None:
    if "://" not in url or (line.startswith("s=") and (shown == "***" or shown.endswith("://***"))):
        pytest.skip("nothing says that it is a URL, or that it is a storage's")
    text = line.format(url if "'" in line or "KIT" in line else json.dumps(url)).encode("latin-1")
    free_of([one for one in secrets if len(one) > 3], hide_in_patch(b"+" + text).decode("latin-1"))


@CASES
def test_no_message_of_a_sweep_contains_the_password(url: str, secrets: list[str], shown: str) -> None:
    assert not is_journal(url)
    try:
        check_storage_form(url)
    except KitError as error:
        free_of(secrets, str(error))


@CASES
def test_no_message_of_a_driver_contains_the_password(url: str, secrets: list[str], shown: str) -> None:
    host = url.rpartition("@")[2].partition("/")[0]
    tails = [f"{url.split('@')[-2]}@{host}" if "@" in url else "", *secrets, *map(repr, secrets), *map(quote, secrets)]
    said = f"could not connect with {url} or {tails!r} or {json.dumps(tails)} or {shlex.join(tails)}"
    free_of([one for one in secrets if len(one) > 3], hide_password_in_message(said, url) if "://" in url else "")


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql://me:p@s3cret@127.0.0.1/db", "write it as %40"),
        ("postgresql://me:s3cret/db", "the host or the port"),
        ("postgresql://me:s3cret@h/x.journal2?a=b@c", "write it as %40"),
        ("grpc://me:s3cret@h:1", "grpc://HOST:PORT"),
    ],
)
def test_an_ambiguous_url_is_refused_with_a_remedy(url: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(KitError, match=remedy) as raised:
        open_storage(url, tmp_path)
    assert raised.value.faults[0].key == "sweep.storage"
    assert "s3cret" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_drivers_message_is_printed_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanogpt_kit.sweep.study import storage

    def fail(url: str, engine: Any) -> None:
        raise OSError(f"cannot resolve 12/34secret at {quote('12/34secret', safe='')}\nand more")

    monkeypatch.setattr(storage, "open_tables", fail)
    with pytest.raises(KitError) as raised:
        open_storage("postgresql+psycopg2://me:12/34secret@h/db", tmp_path)
    assert "34secret" not in str(raised.value)
    assert "postgresql+psycopg2://me:***@h/db cannot be reached: cannot resolve ***" in str(raised.value)


def test_a_message_that_may_hold_a_short_password_is_not_shown() -> None:
    assert "host" not in hide_password_in_message("no such host", "postgresql://me:o@h/db")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "journal",
        "sqlite",
        "/home/me@work/x.journal",
        "a loss of 3.2 @ step 5: fine",
        r"C:\Users\me:x@home\runs",
        "git@github.com:me/repository.git",
        "ssh://git@github.com:22/me/repository.git",
        "http://host:8080/path",
        "http://host:8080/path/@scope/package",
        "http://host:8080 by me@example.com",
        "hf://datasets/me/x@main",
        "grpc://127.0.0.1:4321",
        "sqlite:////home/me@work/x.db",
        "sqlite:///C:/Users/me@work/x.db",
        "postgresql://me@host/db",
        "https://example.com/?a=b&user=me@x.org",
        "file:///a:b@c",
        "mailto:me@example.com",
        '["http://host:8080", "me@example.com"]',
        "password = 3",
        "postgresql://me:***@h/db cannot be reached: x",
    ],
)
def test_text_that_is_not_a_password_stays(text: str) -> None:
    assert hide_in_text(text) == text
    assert hide_in_patch(b"+" + text.encode()) == b"+" + text.encode()
    assert hide_in_command([text]) == shlex.join([text])


@pytest.mark.parametrize(
    "path", ["journal", "sqlite", "x/y+z.journal", "/me@work/x.journal", "sqlite:////me@work/x.db", r"C:\x\y.journal"]
)
def test_a_storage_without_a_password_is_shown_as_it_is(path: str) -> None:
    assert hide_password(path) == path


def test_the_lines_of_a_patch_keep_what_is_around_a_url() -> None:
    url = b"postgresql://me:s3cret@host/db"
    hidden = url.replace(b"s3cret", b"***")
    before = [
        b"diff --git a/x.toml b/x.toml",
        b'+storage = "' + url + b'"\r',
        b' sweep.storage="' + url + b'"  # caf\xe9',
        b"+the storage is slow",
        b"+\xff\xfe storage \x00",
        b'@@ -1,2 +1,2 @@ storage = "postgresql://me:s3cre',
        b"",
    ]
    after = hide_in_patch(b"\n".join(before)).split(b"\n")
    assert after == [
        before[0],
        b'+storage = "' + hidden + b'"\r',
        b' sweep.storage="' + hidden + b'"  # caf\xe9',
        *before[3:5],
        b"@@ -1,2 +1,2 @@",
        b"",
    ]


@pytest.mark.parametrize(
    "piece", ["a", "x://", "mysql://", "http://a:", "?pass=", "x://a:/", "password", "mysql://a:b@"]
)
def test_long_lines_take_no_longer_than_their_length(piece: str) -> None:
    line = f"@ :// storage {piece * (50_000 // len(piece))}".encode()
    began = time.monotonic()
    hide_in_patch(line + b"\n+" + line.replace(b"storage", b""))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("override", ["sweep.storage={}", '"sweep"."storage"={}', "sweep={{storage={}}}"])
def test_no_rank_has_the_password_on_its_command_line(
    override: str, tiny: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(processes, "run_ranks", lambda count, arguments, stdout: started.extend(arguments) or 0)
    word = override.format("'postgresql://me:s3cret@127.0.0.1:1/db'")
    space = "sweep.space.optimizer.lr.choice=[1e-3]"
    answer = command("run", tiny, "train.steps=1", word, space, "--nproc", 2)
    assert answer.code == 0, answer.err
    assert started == ["run", str(tiny), "train.steps=1", space]


def test_no_file_of_a_run_and_no_output_contains_the_password(
    tiny: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "12/34secret"
    url = f"postgresql://me:{secret}@127.0.0.1:1/db"
    swept = tiny.with_name("swept.toml")
    swept.write_text(tiny.read_text(encoding="utf-8"), encoding="utf-8")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "swept.toml"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    with swept.open("a", encoding="utf-8") as file:
        file.write(f'[sweep]\nstorage = "{url}"\n[sweep.space]\n"optimizer.lr" = {{ choice = [3e-3, 1e-3] }}\n')
    monkeypatch.chdir(tmp_path)
    words = ["train.steps=1", "sample.num_samples=0", f"sweep.storage='{url}'"]
    answers = [
        command("run", swept, *words),
        command("check", swept, "--explain"),
        command("check", swept, "--explain", "--json"),
        command("sweep", swept, f"--storage={url}"),
        command("sweep", swept, url),
        command("sweep", swept, f"sweep.storage=['{url}']"),
        command("sweep", swept, f'sweep.storage="{url}'),
        command("sweep", swept, f"sweep.storage='postgresql://me@127.0.0.1:1/db?password={secret}'x"),
        command("run", swept, f"postgresql://127.0.0.1:1/database?user=me&password:{secret}"),
        command("check", url),
        command("check", f"postgresql://127.0.0.1:1/db?user=me&password={secret}"),
    ]
    assert [answer.code for answer in answers] == [0, 0, 0, *[2] * 8], answers
    assert "34secret" not in "".join(answer.out + answer.err for answer in answers)
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"provenance.json", "dirty.patch", "experiment.toml"} <= {path.name for path in written}
    assert not [path for path in written if b"34secret" in path.read_bytes()]
    assert "34secret" not in repr(Experiment.load(swept))
