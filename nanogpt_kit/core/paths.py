"""Paths as people write them: `~`, `~user`, `$VAR` and `${VAR}` stand for what a shell would replace them by.

The shell itself leaves them where they stand behind "=" or in a file.
"""

from __future__ import annotations

import os
import re

from nanogpt_kit.core.errors import Fault, KitError

VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)


def expanded(text: str, key: str = "", place: str = "") -> str:
    """`text` with its home folder and variables replaced; a file that exists under a name with `$` is that file.

    Raises KitError, at `key` and `place`, for a variable that is not set and for a user who does not exist.
    """
    whole = os.path.expanduser(text)
    if text.startswith("~") and whole == text and not os.path.lexists(text):
        user = re.split(r"[/\\]", text)[0]
        message = f"{text!r}: {user} has no home folder on this machine; a name that begins with ~ is written ./~"
        raise KitError(Fault(message, key, place))
    if "$" not in whole or os.path.lexists(whole):
        return whole
    for found in VARIABLE.finditer(whole):
        if not os.environ.get(found[1] or found[2] or ""):
            message = f"{text!r}: the environment variable {found[1] or found[2]} is not set, or is empty"
            raise KitError(Fault(f"{message}; set it, or write the path itself", key, place))
    return VARIABLE.sub(lambda found: os.environ[found[1] or found[2]], whole)
