"""The options of components for completion, from a cache that may be deleted at any time.

Components import torch, which takes more than a second. So the options of all components of a distribution are read
from their classes once, when an experiment first names one of them, and again when one of its modules has changed;
those of a plugin in a separate process, since a stranger's code may do anything.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.util
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanogpt_kit import __version__
from nanogpt_kit.cli.option_words import OptionWords, words_from_record, words_of_options
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.isolated_import import import_isolated
from nanogpt_kit.core.kinds import KINDS, load_entry
from nanogpt_kit.core.options import Component
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.system.folders import cache_dir
from nanogpt_kit.system.reading import read_text
from nanogpt_kit.system.writing import write_atomically

FORMAT = 1  # of the files


def component_words(entry: Entry) -> dict[str, OptionWords]:
    """The options of a component; none where it cannot be imported."""
    with suppress(TypeError, KeyError, AttributeError):  # absent, or changed by somebody
        return words_from_record(words_of_distribution(entry.distribution, entry.version)[name_of_entry(entry)])
    return {}


@functools.cache
def words_of_distribution(distribution: str, version: str) -> dict[str, Any]:
    """The options of each of its components, as JSON values, from the cache where it is up to date."""
    entries = [entry for entry in Registry.installed().entries if entry.distribution == distribution]
    sources = [[name_of_entry(entry), entry.target, change_time(entry.target)] for entry in entries]
    identity = [FORMAT, __version__, version, sources]
    options = read_cache(distribution, identity)
    if options is None:
        options = options_of_entries(entries)
        write_cache(distribution, identity, options)
    return options


def name_of_entry(entry: Entry) -> str:
    return f"{entry.kind}:{entry.name}"


def options_of_entries(entries: list[Entry]) -> dict[str, Any]:
    """The options of each component that can be imported, as JSON values; those of plugins in separate processes."""
    gc.disable()  # the imports of torch make many objects and no garbage, and the process ends soon
    plugins = [entry for entry in entries if entry.is_plugin and entry.kind in KINDS]
    options = {}
    for entry in (entry for entry in entries if not entry.is_plugin):
        with suppress(Exception):  # one that is broken leaves the others their options
            options[name_of_entry(entry)] = word_records(load_entry(entry))
    imported = import_isolated(plugins, describe=word_records)
    return options | {name_of_entry(one.entry): one.facts for one in imported if one.outcome == "imported"}


def word_records(component: type[Component]) -> dict[str, Any]:
    return {name: asdict(option) for name, option in words_of_options(component).items()}


def read_cache(distribution: str, identity: list[Any]) -> dict[str, Any] | None:
    with suppress(OSError, RuntimeError, ValueError, TypeError, KeyError):  # absent or damaged
        record = json.loads(read_text(cache_file(distribution)))
        if record["identity"] == identity:
            return dict(record["options"])
    return None


def write_cache(distribution: str, identity: list[Any], options: dict[str, Any]) -> None:
    with suppress(OSError, RuntimeError):  # a full or read-only disk, or no home: the next time takes as long
        file = cache_file(distribution)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps({"identity": identity, "options": options}))


def cache_file(distribution: str) -> Path:
    """Raises RuntimeError without a home."""
    return cache_dir() / "completion" / f"{hashlib.sha256(distribution.encode()).hexdigest()[:16]}.json"


def change_time(target: str) -> int:
    """The time at which the module of an entry point was changed, in ns; 0 where it is unknown.

    Nothing is imported: only a top-level package is found without importing those around it.
    """
    package, *parts = target.partition(":")[0].split(".")
    with suppress(Exception):  # finders that packages install may raise anything
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        path = Path(folders[0], *parts) if folders else Path(spec.origin or "") if spec else Path()
        files = (path.with_suffix(".py"), path / "__init__.py")
        return next(file.stat().st_mtime_ns for file in files if file.is_file())
    return 0
