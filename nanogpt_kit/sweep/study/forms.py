"""What `sweep.storage` may look like. Whether anything is there, only opening it tells."""

from __future__ import annotations

import re

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.runs.secrets import hide_password, is_ambiguous, parse_url

FORMS = "journal, sqlite, a path that ends in .journal, sqlite:///PATH, postgresql://..., mysql://..., grpc://HOST:PORT"
DATABASE = re.compile(r"(sqlite(\+\w+)?:///.|(postgresql|mysql)(\+\w+)?://).*")
PROXY = re.compile(r"grpc://(?P<host>[^:/]+):(?P<port>\d+)/?")


def is_journal(named: str) -> bool:
    return named == "journal" or (named.endswith(".journal") and "://" not in named)


def check_form(named: str) -> None:
    """Raises KitError where it is of none of the forms."""
    reason = ""
    if named.startswith("grpc://"):
        reason = "" if PROXY.fullmatch(named) else "should be grpc://HOST:PORT"
    elif DATABASE.fullmatch(named):
        if is_ambiguous(named):
            reason = 'has an "@" too many; in a user name, a password or a query write it as %40'
        elif parse_url(named) is None:
            reason = "is not a URL: the host or the port cannot be read; in a password write @ as %40 and : as %3A"
    elif not is_journal(named) and named != "sqlite":
        reason = f"is none of: {FORMS}"
    if reason:
        raise KitError(Fault(f"{hide_password(named)!r} {reason}", "sweep.storage"))
