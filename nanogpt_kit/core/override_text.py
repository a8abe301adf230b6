"""The value of an override, as a user writes it on the command line."""

from __future__ import annotations

import json
import re
from typing import Any

WORD = re.compile(r"[A-Za-z_][\w./-]*")


def override_text(value: Any) -> str:
    """A value as a user writes it after "=": names without quotes."""
    is_name = isinstance(value, str) and WORD.fullmatch(value) and value not in ("true", "false", "inf", "nan")
    return str(value) if is_name else json.dumps(value, ensure_ascii=False)
