"""Golden files: texts that were reviewed as prose."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import pytest

ACCEPT = "python -m pytest tests/messages --regenerate"


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(path, text)` fails with the difference; with `--regenerate` it writes the file."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--regenerate"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        reviewed = path.read_text(encoding="utf-8") if path.exists() else ""
        difference = difflib.unified_diff(reviewed.splitlines(), text.splitlines(), path.name, "now", lineterm="", n=0)
        if lines := list(difference):
            reason = f"sentences changed; read them as prose, and accept them with `{ACCEPT}`:"
            pytest.fail("\n".join([reason, *lines]), pytrace=False)

    return check
