"""What the names of installed components and verbs mean, where they clash, and which metadata cannot be read.

All of it is read from metadata: nothing is imported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from nanogpt_kit.core.entry import GROUP, VERB, Entry
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

USUAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # needs no quotes in TOML lists and on command lines

Status = Literal["shadowed", "ambiguous", "unknown kind", "unusual name"]


@dataclass(frozen=True)
class NameFault:
    """Why the bare name of an entry does not mean it, or is hard to use."""

    status: Status
    cause: str
    remedy: str


@dataclass(frozen=True)
class UnreadableDistribution:
    """An installed distribution of which no component can be known."""

    folder: str
    cause: str
    remedy = "reinstall or remove it"

    def __str__(self) -> str:
        return f"{self.folder}: {self.cause}; {self.remedy}"


def kinds_of(registry: Registry) -> list[str]:
    """The kinds, read from the built-in components: importing their base classes takes longer."""
    return list(dict.fromkeys(entry.kind for entry in registry.entries if entry.distribution == KIT_DISTRIBUTION))


def name_fault(entry: Entry, registry: Registry, built_in_verbs: Collection[str] = ()) -> NameFault | None:
    """What a user should know about the name of an entry; None where the bare name means it."""
    is_verb, kinds = entry.kind == VERB, kinds_of(registry)
    if not is_verb and entry.kind not in kinds:
        near = difflib.get_close_matches(entry.kind, kinds, n=1)
        question = f"; did you mean {GROUP}{near[0]}?" if near else ""
        group = f"its entry-point group {GROUP}{entry.kind} is that of no kind"
        return NameFault("unknown kind", f"{group}{question}", "its author has to correct pyproject.toml")
    use = f"`nanogpt-kit {entry.qualified}` calls it" if is_verb else f'use = "{entry.qualified}" chooses it'
    others = [
        other.distribution
        for other in (registry.verbs if is_verb else registry.of_kind(entry.kind))
        if other.name == entry.name and other.distribution != entry.distribution
    ]
    if entry.is_plugin and (entry.name in built_in_verbs if is_verb else KIT_DISTRIBUTION in others):
        return NameFault("shadowed", f"{entry.name!r} means the built-in {entry.kind}", use)
    if entry.is_plugin and others:
        verb = "offers" if len(others) == 1 else "offer"
        return NameFault("ambiguous", f"{' and '.join(others)} {verb} {entry.kind} {entry.name!r}, too", use)
    if not USUAL_NAME.fullmatch(entry.name):
        cause = f"the name {entry.name!r} has other characters than letters, digits, _, - and ."
        return NameFault("unusual name", cause, f"{use}, in quotes; its author should rename it")
    return None


def unreadable_distributions() -> list[UnreadableDistribution]:
    """The installed distributions whose metadata is damaged, and that may offer components."""
    found = []
    for distribution in metadata.distributions():
        folder = str(getattr(distribution, "_path", "an unknown folder"))  # which no public name has
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if GROUP in text:
                _ = distribution.name.lower(), distribution.version, list(distribution.entry_points)
        except Exception as error:  # of the standard library, about files that anybody may have written
            cause = str(error).strip().partition("\n")[0]
            found.append(
                UnreadableDistribution(folder, f"its metadata cannot be read: {type(error).__name__}: {cause}")
            )
    return found
