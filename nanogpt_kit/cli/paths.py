"""Arguments that are paths: the shell expands `~` in most places, but not behind "=" and not in quotes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nanogpt_kit.core.paths import expand_path


def expand(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The callback of an option or argument that is a path or a run's name. Raises KitError that names it."""
    if not isinstance(value, str | Path):  # it was left out
        return value
    return type(value)(expand_path(str(value), param.opts[0], "command line"))
