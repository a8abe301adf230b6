"""The value of an override, as a user writes it on the command line."""

from __future__ import annotations

import json
import re
from typing import Any

WORD = re.compile(r"[A-Za-z_][\w./-]*")


def override_text(value: Any) -> str:
    """A value as a user writes it after "=": names without quotes, tables as inline tables of TOML."""
    is_name = isinstance(value, str) and WORD.fullmatch(value) and value not in ("true", "false", "inf", "nan")
    return str(value) if is_name else inline_toml(value)


def inline_toml(value: Any) -> str:
    """A value of JSON on one line, as TOML has it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {inline_toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
