"""Paths as users write them: `~`, `~user`, `$VAR` and `${VAR}` are replaced as a shell would.

The shell itself does not replace them after "=" or in a file.
"""

from __future__ import annotations

import os
import re

from nanogpt_kit.core.errors import Fault, KitError

VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


def expand_path(text: str, key: str = "", location: str = "") -> str:
    """`text` with its home folder and variables replaced; a file that exists under a name with `$` is that file.

    Raises KitError, at `key` and `location`, for a variable that is not set and for a user who does not exist.
    """
    whole = os.path.expanduser(text)
    if text.startswith("~") and whole == text and not os.path.lexists(text):
        user = re.split(r"[/\\]", text)[0]
        message = f"{text!r}: {user} has no home folder on this machine; a name that begins with ~ is written ./~"
        raise KitError(Fault(message, key, location))
    if "$" not in whole or os.path.lexists(whole):
        return whole
    for match in VARIABLE.finditer(whole):
        if not os.environ.get(match[1] or match[2] or ""):
            message = f"{text!r}: the environment variable {match[1] or match[2]} is not set or empty"
            raise KitError(Fault(f"{message}; set it, or write the path itself", key, location))
    return VARIABLE.sub(lambda match: os.environ[match[1] or match[2]], whole)
