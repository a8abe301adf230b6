"""Hides passwords of URLs in everything that is recorded or printed.

The URL of a storage is parsed by SQLAlchemy, which also connects with it. In free text (patches, messages, command
lines) the end of a URL is unknown, so a pattern hides more than the password rather than less.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.overrides import parse_override

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

HIDDEN = "***"
MIN_CHARACTERS = 4  # of a password that is searched for in a message; a shorter one may be part of any word
NOT_SHOWN = "its message is not shown, since it may contain the password"

SCHEME = r"[a-z][a-z0-9+.-]{0,30}://"  # bounded, since lines of a patch may be megabytes long
USER = re.compile(r"[^:/]*(?::[^@]*)?@")  # user and password, as SQLAlchemy finds them after the scheme
PLAIN = re.compile(r"([A-Za-z]:)?[^:=?&@]*|[/.~][^:=?&]*")  # a word or a path: not a URL without its scheme
DATABASE_NAME = re.compile(r"[\w.$-]*")  # anything else may contain part of a password
SECRET_NAME = r"\w{0,40}(?:pass|pwd|secret|token|auth|apikey|api_key)\w{0,40}"

DATABASE = re.compile(  # with one slash where it was made into a path
    r"((?:postgres|mysql|mariadb)[a-z0-9+.-]{0,30}:/{1,2})(?![^\s@]{0,99}:\*\*\*@[^@]*$)(?=.{0,999}:).{0,2000}@",
    re.IGNORECASE,
)
USER_PASSWORD = re.compile(  # any other scheme://user:password@host; digits before a slash may be a port
    rf"({SCHEME}[^\s:/\"']{{0,99}}:)(?!\d+(?:[/\s]|$))(?:[^\s/\"']{{1,999}}|[^\s@\"']{{1,999}})(?=@)", re.IGNORECASE
)
IN_QUERY = re.compile(rf"((?:[?&+\s]|%20|%26){SECRET_NAME}(?:=|%3D))[^\s&\"']+", re.IGNORECASE)
STORAGE_LINE = re.compile(rf"(.*?)([\"']?)({SCHEME}.*)", re.IGNORECASE | re.DOTALL)


def hide_password(storage: str) -> str:
    """A value of `sweep.storage` that may be shown: a URL has its password and query replaced by ***.

    Where it is not certain which part is the password, only the scheme is shown.
    """
    scheme, mark, _ = storage.partition("://")
    if not mark:
        return storage if PLAIN.fullmatch(storage) else HIDDEN
    if not re.fullmatch(SCHEME, scheme + mark, re.IGNORECASE):
        return HIDDEN
    url = parse_url(storage)
    if url is None or not is_password_certain(url, storage):
        return f"{scheme}://{HIDDEN}"
    if url.password is None and not url.query:
        return storage
    try:
        text = url.set(query={}).render_as_string(hide_password=True)
    except UnicodeEncodeError:  # it is not UTF-8, as in an old file's line
        return f"{scheme}://{HIDDEN}"
    return f"{text}?{HIDDEN}" if url.query else text


def is_password_certain(url: URL, storage: str) -> bool:
    """Whether the whole password is where SQLAlchemy finds it."""
    is_path = url.get_backend_name() == "sqlite"
    return not is_ambiguous(storage) and (is_path or bool(DATABASE_NAME.fullmatch(url.database or "")))


def is_ambiguous(storage: str) -> bool:
    """Whether another "@" follows the one after the password, so that the password may be longer than it seems."""
    scheme, _, rest = storage.partition("://")
    found = USER.match(rest)
    if found is None and scheme.lower().startswith("sqlite"):  # a file path
        return False
    return "@" in rest[found.end() if found else 0 :]


def parse_url(storage: str) -> URL | None:
    """The URL as SQLAlchemy reads it; None where it cannot."""
    from sqlalchemy.engine import make_url  # imported here, since it takes 0.25 s
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(storage)
    except (ArgumentError, ValueError):  # the latter for a port that is not a number
        return None


def hide_password_in_message(message: str, storage: str) -> str:
    """The message of a database driver, without the password of the storage in any encoding."""
    if "://" not in storage:
        return hide_in_text(message)
    message = message.replace(storage, hide_password(storage))
    secrets = passwords_in_url(storage)
    if any(len(password) < MIN_CHARACTERS for password in secrets):
        return NOT_SHOWN
    for form in sorted(password_encodings(secrets), key=len, reverse=True):
        message = message.replace(form, HIDDEN)
    return hide_in_text(message)


def passwords_in_url(storage: str) -> set[str]:
    """The passwords in a URL, decoded and as written; where it cannot be parsed, everything after the scheme."""
    url, rest = parse_url(storage), storage.partition("://")[2]
    if url is None or not is_password_certain(url, storage):
        return {rest, *re.split(r"[@:/?&=]", rest)} - {""}
    user = USER.match(rest)
    raw = user[0].partition(":")[2][:-1] if user else ""
    found = {raw, url.password or ""}
    for name, value in parse_qsl(storage.partition("?")[2]):
        if re.fullmatch(SECRET_NAME, name, re.IGNORECASE):
            found.add(value)
        found |= set(re.findall(rf"{SECRET_NAME}=(\S+)", value, re.IGNORECASE))
    return found - {""}


def password_encodings(secrets: Iterable[str]) -> set[str]:
    """Each password as a URL, Python, JSON and a shell write it; and its parts, as other parsers split it."""
    made = set()
    for password in {form for secret in secrets for form in (secret, unquote(secret))}:
        parts = password.split("@")
        tails = ("@".join(parts[i:]) for i in range(len(parts)))
        for text in {password, *tails, *re.split(r"[@:/?#&=\s\"']", password)}:
            if len(text) >= MIN_CHARACTERS:
                made |= {text, quote(text), quote(text, safe=""), quote_plus(text)}
                made |= {repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
                made.add(shlex.quote(text).strip("'"))
    return made


def hide_in_command(words: Sequence[str]) -> str:
    """A command line without passwords, to record."""
    hidden, is_storage = [], False
    for word in words:
        option, equals, value = word.partition("=")
        if is_storage:
            word = hide_password(word)
        elif equals and option == "--storage":
            word = f"{option}={hide_password(value)}"
        elif equals and "storage" in word.lower():
            word = f"{option}={hide_password(override_value(word))}"
        else:
            word = hide_in_text(word)
        is_storage = option == "--storage" and not equals and not is_storage
        hidden.append(word)
    return shlex.join(hidden)


def override_value(word: str) -> str:
    """The value of KEY=VALUE; "://", which is hidden completely, where it is not a string and may contain a storage."""
    try:
        value = parse_override(word)[1]
    except KitError:
        return "://"
    return value if isinstance(value, str) else "://"


def hide_in_text(text: str) -> str:
    """Hides passwords of URLs in free text; in those of databases, everything up to the last "@" of the line."""
    if ":/" not in text:
        return text
    return "\n".join(
        IN_QUERY.sub(rf"\1{HIDDEN}", USER_PASSWORD.sub(rf"\1{HIDDEN}", DATABASE.sub(rf"\1{HIDDEN}@", line)))
        for line in text.split("\n")
    )


def hide_in_patch(patch: bytes) -> bytes:
    """Hides passwords in the lines of a patch; the alphabet of binary patches has no colon, so they contain no URL."""
    lines = patch.split(b"\n")
    for i, line in enumerate(lines):
        if b":/" in line:
            text = line.decode("utf-8", "surrogateescape")
            lines[i] = hide_in_line(text).encode("utf-8", "surrogateescape")
    return b"\n".join(lines)


def hide_in_line(line: str) -> str:
    if line.startswith("@@ "):  # the heading of a hunk: a line of the file that may be cut off anywhere
        return line[: line.index(" @@", 3) + 3] if " @@" in line[3:] else line
    found = STORAGE_LINE.fullmatch(line) if "storage" in line.lower() else None
    if found is None:
        return hide_in_text(line)
    before, mark, url = found.groups()
    end = url.rfind(mark) if mark else -1
    url, after = (url[:end], url[end:]) if end >= 0 else (url, "")
    return f"{before}{mark}{hide_password(url.rstrip())}{url[len(url.rstrip()) :]}{hide_in_text(after)}"
