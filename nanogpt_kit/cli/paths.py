"""Arguments that are paths: the shell expands `~` in most places, but not behind "=" and not in quotes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nanogpt_kit.core.paths import expanded


class Name(click.ParamType):
    """A path, or the name of a run or a published model, as a string."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises KitError that names the option."""
        return expanded(str(value), param.opts[0] if param else "", "command line")


class File(Name):
    """A path that need not exist."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Path(super().convert(value, param, ctx))


NAME, FILE = Name(), File()
