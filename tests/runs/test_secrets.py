"""Passwords are masked in all forms that a storage's URL may have, and nothing else is touched."""

from __future__ import annotations

import json
import shlex

import pytest

from nanogpt_kit.runs.secrets import masked, masked_patch


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("postgresql://me:s3cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg2://me:s3cret@host:5432/db?a=b", "postgresql+psycopg2://me:***@host:5432/db?a=b"),
        ("MySQL://me:s3cret@host", "MySQL://me:***@host"),
        ("mysql://:s3cret@host/db", "mysql://:***@host/db"),
        ("mysql://me:s3cret@/db?unix_socket=/run/x", "mysql://me:***@/db?unix_socket=/run/x"),
        ("postgresql://me:s3%40cret%2Fx%3A@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s3@cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s3:cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s3/cret+==@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:/s3cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me%40srv:s3cret@host/db", "postgresql://me%40srv:***@host/db"),
        ("postgresql://me@srv:s3cret@srv.azure.com/db", "postgresql://me@srv:***@srv.azure.com/db"),
        ("postgresql://me:123456@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:s3cret@[::1]:5432/db", "postgresql://me:***@[::1]:5432/db"),
        ("postgresql://host/db?user=me&password=s3cret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql://host/db?password=s3cret", "postgresql://host/db?password=***"),
        ("postgresql://host/db?sslpassword=s3cret", "postgresql://host/db?sslpassword=***"),
        ("mysql://host/db?passwd=s3cret#x", "mysql://host/db?passwd=***"),
        ("a mysql://a:s3cret@b, and redis://c:s3cret@d!", "a mysql://a:***@b, and redis://c:***@d!"),
        ("(error at postgresql://me:s3cret@host:1/x)", "(error at postgresql://me:***@host:1/x)"),
    ],
)
def test_a_password_is_masked_and_the_text_around_it_stays(text: str, told: str) -> None:
    assert masked(text) == told
    assert "s3" not in masked(shlex.join(["sweep", f"--storage={text}"]))
    assert "s3" not in masked(json.dumps({"storage": text}))
    assert masked(told) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a loss of 3.2 @ step 5: fine",
        r"C:\Users\me:x@home\runs",
        "git@github.com:me/repository.git",
        "ssh://git@github.com:22/me/repository.git",
        "http://host:8080/path",
        "http://host:8080/path/@scope/package",
        "http://host:8080 by me@example.com",
        "grpc://127.0.0.1:4321",
        "sqlite:////home/me@work/x.db",
        "sqlite:///C:/Users/me@work/x.db",
        "postgresql://me@host/db",
        "https://example.com/?a=b&user=me@x.org",
        "file:///a:b@c",
        "mailto:me@example.com",
        '["http://host:8080", "me@example.com"]',
        "password = 3",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert masked(text) == text


def test_of_a_patch_only_lines_that_set_a_storage_are_touched() -> None:
    url = b"postgresql://me:s3cret@host/db"
    before = b"\n".join(
        [
            b"diff --git a/x.toml b/x.toml",
            b'+storage = "' + url + b'"\r',
            b"-export NANOGPT_KIT_STORAGE=" + url,
            b' sweep.storage="' + url + b'"  # caf\xe9',
            b'+example = "' + url + b'"',
            b"+the storage is slow",
            b"+\xff\xfe storage \x00",
            b"",
        ]
    )
    after = masked_patch(before).split(b"\n")
    changed = [
        number for number, (one, other) in enumerate(zip(before.split(b"\n"), after, strict=True)) if one != other
    ]
    assert changed == [1, 2, 3]
    assert after[1] == b'+storage = "postgresql://me:***@host/db"\r'
    assert after[2] == b"-export NANOGPT_KIT_STORAGE=postgresql://me:***@host/db"
    assert after[3] == b' sweep.storage="postgresql://me:***@host/db"  # caf\xe9'
