"""Names that are replaced: each works for one more minor version, with a warning that says what to write instead.

A name of the api is deprecated in `api.DEPRECATED`, an option in `deprecated_options` of its class, the name of a
built-in component in DEPRECATED_COMPONENTS.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from nanogpt_kit.core.requirements import warn_once


@dataclass(frozen=True)
class Deprecation:
    """What replaces a name, and the version that no longer has it."""

    replacement: str  # of the same sort: a name of the api, an option of the same class, a component of the same kind
    removed_in: str  # such as "0.4"

    def text(self, old: str, new: str = "") -> str:
        replacement = new or self.replacement
        return f"{old} is deprecated: write {replacement}; nanogpt-kit {self.removed_in} does not have {old}"

    def warn_author(self, old: str, new: str) -> None:
        """For whoever wrote the Python code that uses the name."""
        warnings.warn(self.text(old, new), DeprecationWarning, stacklevel=3)

    def warn_user(self, old: str, new: str = "") -> None:
        """For whoever runs a command: once in each process."""
        warn_once(self.text(old, new))


DEPRECATED_COMPONENTS: dict[tuple[str, str], Deprecation] = {}  # by kind and old name
