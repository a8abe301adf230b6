"""How many trials a confirmation has, before it is known which are the best."""

from __future__ import annotations

from nanogpt_kit.core.sections import Sweep


def most_confirmed(options: Sweep, branches: int, complete: int) -> int:
    """How many of `complete` trials a confirmation takes at most: the best of all is also that of its branch."""
    return min(complete, options.confirm + 1 + max(0, branches - 1)) if options.confirm else 0
