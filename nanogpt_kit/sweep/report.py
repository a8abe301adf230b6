from pathlib import Path
from typing import Any


def write(summary: Any, study: Any, path: Path) -> None:
    """Being written."""
