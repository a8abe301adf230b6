"""What is wrong with installed plugins: their metadata, the meaning of their names, and what importing them does."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.installed_names import name_fault, unreadable_distributions
from nanogpt_kit.core.isolated_import import IsolatedImport
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import unmet_requirement

SLOW_SECONDS = 2.0  # an import that takes longer is reported

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. An error makes something unusable, a warning does not."""

    level: Level
    distribution: str  # with its version; of unreadable metadata the folder
    entry_point: str  # empty where the finding is about the distribution
    cause: str
    remedy: str

    def __str__(self) -> str:
        where = ", ".join(filter(None, [self.distribution, self.entry_point]))
        return f"{self.level}: {where}: {self.cause}; {self.remedy}"


def finding(level: Level, entry: Entry, cause: str, remedy: str) -> Finding:
    return Finding(level, f"{entry.distribution} {entry.version}", entry_point_text(entry), cause, remedy)


def entry_point_text(entry: Entry) -> str:
    return f"{entry.kind} {entry.name} = {entry.target!r}"


def unreadable_findings() -> Iterator[Finding]:
    for distribution in unreadable_distributions():
        yield Finding("error", distribution.folder, "", distribution.cause, distribution.remedy)


def requirement_findings(entries: Collection[Entry]) -> Iterator[Finding]:
    """One for each distribution that was made for another version of the kit."""
    for name, version in dict.fromkeys((entry.distribution, entry.version) for entry in entries):
        unmet = unmet_requirement(name, version)
        if unmet:
            cause, _, remedy = unmet.partition(": ")
            yield Finding("error", f"{name} {version}", "", cause, remedy)


def name_findings(entries: Collection[Entry], registry: Registry, built_in_verbs: Collection[str]) -> Iterator[Finding]:
    for entry in entries:
        fault = name_fault(entry, registry, built_in_verbs)
        if fault:
            level: Level = "error" if fault.status == "unknown kind" else "warning"
            yield finding(level, entry, fault.cause, fault.remedy)


def import_findings(result: IsolatedImport) -> Iterator[Finding]:
    entry = result.entry
    author = "report it to its author"
    unusable = f"{author}, or pip uninstall {entry.distribution}"
    if result.outcome == "timed out":
        yield finding("error", entry, result.cause, f"{unusable}; --timeout sets another limit")
    elif result.outcome == "raised" and result.cause.startswith("ModuleNotFoundError"):
        yield finding("error", entry, result.cause, f"pip install --upgrade {entry.distribution}, or {author}")
    elif result.outcome != "imported":
        yield finding("error", entry, result.cause, unusable)
    for fault in (result.facts or {}).get("default_faults", ()):
        cause = f"a default that the class itself refuses: {fault}"
        yield finding("error", entry, cause, f"{author}; an experiment that sets the option can use it")
    if result.output and result.outcome in ("imported", "refused"):
        first = result.output.strip().partition("\n")[0]
        yield finding("warning", entry, f"its import prints {first!r}", author)
    if result.threads:
        yield finding("warning", entry, f"its import starts {result.threads} thread(s)", author)
    if (result.seconds or 0.0) > SLOW_SECONDS:
        cause = f"its import takes {result.seconds:.1f} s beyond nanogpt_kit.api and torch"
        yield finding("warning", entry, cause, f"{author}: what takes long can be imported when it is used")
