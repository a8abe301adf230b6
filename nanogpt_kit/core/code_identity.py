"""The identity of the code of a run: a hash of the source that decides its results.

A version does not identify it, since code under development changes without one. Included are:

- the rooms of the kit that run between the experiment and its last metric. Those that start a run, judge it,
  show it or convert it (`NOT_IN_A_RUN`) compute nothing of it, and changing them keeps its results;
- of built-in components, the folders of the kinds that the experiment uses: a component imports only the api and
  modules beside it;
- of other components the whole package, since it may import any part of that, except of callbacks that only report;
- local component files as they were executed, and what they import from outside the folders of installed libraries;
- files that options of components name, as the questions of an evaluator, except the text, which has a fingerprint.

Libraries are not included: `provenance.json` has their versions.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from importlib import machinery, metadata
from pathlib import Path
from typing import TYPE_CHECKING

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import dotted
from nanogpt_kit.core.identity import only_reports
from nanogpt_kit.core.local_component import LocalEntry
from nanogpt_kit.core.module_source import KIT_PACKAGE, class_sources
from nanogpt_kit.core.options import digest, path_options
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.system.reading import sha256_file

if TYPE_CHECKING:
    from nanogpt_kit.core.experiment import Experiment

KIT = Path(__file__).parents[1]
NOT_IN_A_RUN = frozenset(
    {"__main__.py", "bench", "cli", "comparison", "interop", "launch", "report", "sweep", "testing"},
)
# Python, extension modules, and what torch compiles into them when a plugin is imported
SOURCE_SUFFIXES = (*machinery.SOURCE_SUFFIXES, *machinery.EXTENSION_SUFFIXES, ".c", ".cc", ".cpp", ".cu", ".cuh", ".h")

SourceFile = tuple[str, str, int, int]  # its name below its root, its path, its size, its time of change in ns


def code_identity(experiment: Experiment) -> str:
    """A hash of the source of the kit and of an experiment's components.

    Where there is no source, as in a zip file, distribution and version take its place. Costs 8 ms, and 4 when it is
    called again (one core of an AMD EPYC).
    """
    deciding = [part for _, part in experiment.parts() if not only_reports(part)]
    entries = {experiment.entry_of(part): type(part).__module__ for part in deciding}
    parts = {hash_source(KIT, NOT_IN_A_RUN | {"components"}) or metadata.version(KIT_DISTRIBUTION)}
    for entry, defined_in in entries.items():
        if not isinstance(entry, LocalEntry):
            parts |= {source_identity(module, entry) for module in (entry.target.partition(":")[0], defined_in)}
    local = {path.name: hashlib.sha256(source).hexdigest() for path, source in experiment.component_sources.items()}
    return digest([sorted(parts), local, imports_of_files(experiment), named_files(experiment)])


def plugin_sources(experiment: Experiment) -> dict[str, str]:
    """Of each component from a plugin, by distribution/name: a hash of the source of the package around it."""
    found = {}
    for _, part in experiment.parts():
        entry = experiment.entry_of(part)
        if entry.identity and not isinstance(entry, LocalEntry):
            modules = {entry.target.partition(":")[0], type(part).__module__}
            found[entry.qualified] = digest(sorted(source_identity(module, entry) for module in modules))
    return found


def imports_of_files(experiment: Experiment) -> dict[str, str]:
    """The sources of the local components in use and of what they import, by module; see `class_sources`."""
    classes = {type(part): experiment.entry_of(part) for _, part in experiment.parts()}
    local = {
        entry.target.partition(":")[0]: entry.source for entry in classes.values() if isinstance(entry, LocalEntry)
    }
    sources: dict[str, str] = {}
    for component, entry in classes.items():
        if isinstance(entry, LocalEntry):
            sources |= class_sources(component, local)
    return sources


def named_files(experiment: Experiment) -> dict[str, list[str]]:
    """The hashes of the files that options of components other than the dataset name, by their keys."""
    hashes = {}
    for key, part in experiment.parts():
        for option in [] if part.kind == "dataset" else sorted(path_options(type(part))):
            value = getattr(part, option)
            paths = map(Path, value if isinstance(value, tuple) else [value] if value else [])
            hashes[dotted((*key, option))] = [hash_content(path) for path in paths if path.is_file()]
    return hashes


def hash_content(path: Path) -> str:
    """A hash of the content of a file, whatever its name is."""
    status = path.stat()
    return hash_files((("", str(path), status.st_size, status.st_mtime_ns),))


def source_identity(module: str, entry: Entry) -> str:
    """The identity of the code around a module of a component."""
    root = source_root(module)
    return (root and hash_source(root)) or f"{entry.qualified} {entry.version}"


def source_root(module: str) -> Path | None:
    """The folder of the package that a module belongs to, or the file of a module without one.

    Of a built-in component it is the package of its kind, of others the outermost that is not a namespace package.
    None where the module has no file.
    """
    names = module.split(".")
    outer = [".".join(names[:count]) for count in range(1, len(names) + 1)]
    for name in outer[-2:] if names[0] == KIT_PACKAGE else outer:
        loaded = sys.modules.get(name)
        file = getattr(loaded, "__file__", None)
        if file:
            return Path(file).parent if hasattr(loaded, "__path__") else Path(file)
    return None


def hash_source(root: Path, excluded: frozenset[str] = frozenset()) -> str:
    """A hash of the source files of a folder without the `excluded` names in it, or of one file; "" without any."""
    files = tuple(source_files(root, excluded))
    return hash_files(files) if files else ""


def source_files(root: Path, excluded: frozenset[str]) -> Iterator[SourceFile]:
    """In the order of their names. Caches of Python and hidden files are left out."""
    if root.is_file():
        status = root.stat()
        yield root.name, str(root), status.st_size, status.st_mtime_ns
        return
    for folder, folders, files in os.walk(root):
        at_top = folder == os.fspath(root)
        below = "" if at_top else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        folders[:] = sorted(name for name in folders if name[0] not in "._" and not (at_top and name in excluded))
        for name in sorted(files):
            if name.endswith(SOURCE_SUFFIXES) and name[0] != "." and not (at_top and name in excluded):
                path = os.path.join(folder, name)
                status = os.stat(path)
                yield below + name, path, status.st_size, status.st_mtime_ns


@functools.cache
def hash_files(files: tuple[SourceFile, ...]) -> str:
    """Cached until one of them changes."""
    hashes = {name: sha256_file(Path(path)) for name, path, _, _ in files}
    return digest(hashes)
