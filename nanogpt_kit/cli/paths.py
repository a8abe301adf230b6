"""Arguments that are paths: shells expand `~` in most places, but not after "=" and not in quotes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nanogpt_kit.core.paths import expand_path


def expand_path_argument(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """The click callback of an argument that is a path or names a run. Raises KitError if it cannot be expanded."""
    if not isinstance(value, str | Path):  # the option was not given
        return value
    return type(value)(expand_path(str(value), param.opts[0], "command line"))
