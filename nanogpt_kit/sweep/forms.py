"""What `sweep.storage` may look like. Whether anything is there, only opening it tells."""

from __future__ import annotations

import re

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.runs.secrets import masked

FORMS = "journal, sqlite, a path that ends in .journal, sqlite:///PATH, postgresql://..., mysql://..., grpc://HOST:PORT"
DATABASE = re.compile(r"(sqlite(\+\w+)?:///.|(postgresql|mysql)(\+\w+)?://).*")
PROXY = re.compile(r"grpc://(?P<host>[^:/]+):(?P<port>\d+)/?")


def check_form(named: str) -> None:
    """Raises KitError where it is of none of the forms."""
    if named in ("journal", "sqlite") or named.endswith(".journal") or DATABASE.fullmatch(named):
        return
    if named.startswith("grpc://"):
        if not PROXY.fullmatch(named):
            raise KitError(Fault(f"{masked(named)!r} should be grpc://HOST:PORT", "sweep.storage"))
        return
    raise KitError(Fault(f"{masked(named)!r} is none of: {FORMS}", "sweep.storage"))
