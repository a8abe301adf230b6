"""Each module draws one figure of the documentation by its function `draw`; figures of code are drawn from the code."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

FIGURES = Path(__file__).parents[2] / "figures"


def figures() -> Iterator[tuple[Path, str]]:
    """The file of each figure, and what it should have."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        draw = importlib.import_module(f"{__name__}.{module.name}").draw
        yield FIGURES / f"{module.name.replace('_', '-')}.svg", draw().svg()
