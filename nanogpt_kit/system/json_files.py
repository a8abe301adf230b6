"""JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanogpt_kit.system.reading import read_text
from nanogpt_kit.system.writing import write_atomically


def write_json(path: Path, values: Any) -> None:
    """Writes UTF-8; ASCII with escapes where a file name among the values is not UTF-8."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError:
        content = json.dumps(values, indent=2).encode("ascii")
    write_atomically(path, content + b"\n")


def read_json(path: Path) -> Any:
    """Any JSON value; callers check it. Raises only OSError and ValueError, whatever the file contains."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("too deeply nested") from None
