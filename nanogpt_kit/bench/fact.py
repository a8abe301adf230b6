"""One line of the report about this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fact:
    """One line of the report."""

    name: str
    text: str  # for people; of a feature that is off: why, and what would help
    verdict: str = ""  # available, off, unknown; empty where there is nothing to judge
    values: dict[str, Any] = field(default_factory=dict)  # for programs
