"""Passwords of storage URLs: they are written nowhere."""

from __future__ import annotations

import re

HIDDEN = "***"
IN_URL = (  # the password of scheme://user:password@host; what ends in a slash may be a port
    r"(?P<before>[a-z][a-z0-9+.]*://[^\s:/\"']*:)(?!\d+(?:[/\s]|$))(?:[^\s/\"']+|[^\s@\"']+)(?=@)"
)
IN_QUERY = r"(?P<also>[?&]\w*(?:password|passwd|pwd)=)[^\s&\"']+"
PASSWORD = re.compile(f"{IN_URL}|{IN_QUERY}", re.IGNORECASE)


def masked(text: str) -> str:
    return PASSWORD.sub(lambda found: (found["before"] or found["also"]) + HIDDEN, text)


def masked_patch(patch: bytes) -> bytes:
    """The same in the lines of a patch that set `storage`; a binary patch has none."""
    lines = patch.split(b"\n")
    for number, line in enumerate(lines):
        if b"storage" in line.lower() and b"://" in line:
            lines[number] = masked(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    return b"\n".join(lines)
