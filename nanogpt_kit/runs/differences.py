"""In what two runs differ: options, code of components, data, environment, metrics; from their folders alone."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt_kit.core.entry import LOCAL
from nanogpt_kit.core.options import leaves
from nanogpt_kit.runs.folder import PROVENANCE
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.recorded_values import read_object, texts_of
from nanogpt_kit.system.reading import read_bytes

MAX_SOURCE_BYTES = 10_000_000  # of a component file
MAX_PATCH_BYTES = 1 << 28
HASH_LENGTH = 12  # of those that are shown

Pairs = dict[str, tuple[Any, Any]]  # by key: the values of both runs, None where one has none


@dataclass(frozen=True)
class RunDifferences:
    """What differs, by section; a section without differences is empty."""

    options: Pairs
    code: Pairs  # by component: distribution, name and version, or the hash of a local file
    sources: dict[str, str]  # unified diffs of local component files, by file name
    data: Pairs
    environment: Pairs
    metrics: Pairs
    steps: tuple[int | None, int | None]  # of the evaluations
    unrecorded: dict[str, list[str]]  # by section: the runs whose folders have no record of it; it is empty then


def compare_folders(first: IndexedRun, second: IndexedRun) -> RunDifferences:
    both = (first, second)
    origins = tuple(read_object(run.path, PROVENANCE) for run in both)
    files = tuple(component_files(Path(run.path)) for run in both)
    recorded = {
        "options": [run.options for run in both],
        "code": list(map(code_of, both, origins, files)),
        "data": list(map(data_of_origin, origins)),
        "environment": list(map(environment_of, both, origins)),
        "metrics": [run.metrics for run in both],
    }
    missing = {
        section: [run.reference for run, one in zip(both, values, strict=True) if not one]
        for section, values in recorded.items()
    }
    pairs = {section: {} if missing[section] else differing(*values) for section, values in recorded.items()}
    return RunDifferences(
        **pairs,
        sources=source_diffs(files, (first.reference, second.reference)),
        steps=(first.evaluated_step, second.evaluated_step),
        unrecorded={section: runs for section, runs in missing.items() if runs},
    )


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> Pairs:
    keys = [*first, *(key for key in second if key not in first)]
    pairs = {key: (first.get(key), second.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def component_files(folder: Path) -> dict[str, str]:
    """The content of the local component files that a run has kept, by name."""
    found = {}
    try:
        paths = sorted((folder / "components").glob("*.py"))
    except OSError:
        return {}
    for path in paths:
        try:
            found[path.name] = read_bytes(path, MAX_SOURCE_BYTES).decode("utf-8", "backslashreplace")
        except OSError:
            continue
    return found


def code_of(run: IndexedRun, origin: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, str]:
    """The code of each component, of the local files, and of the kit as a whole where the run has recorded it."""
    versions = texts_of(origin.get("distributions"))
    code = {}
    for key, qualified in texts_of(origin.get("components")).items():
        distribution, _, name = qualified.rpartition("/")
        version = versions.get(distribution, "")
        if distribution == LOCAL:
            version = short_hash(files.get(f"{name}.py"))
        code[key] = f"{qualified} {version}".rstrip()
    if run.code:
        code["all code"] = run.code[:HASH_LENGTH]
    return code


def source_diffs(files: Sequence[Mapping[str, str]], runs: Sequence[str]) -> dict[str, str]:
    """Of each file that both have and that differs, or that one of them has."""
    diffs = {}
    for name in sorted({*files[0], *files[1]}):
        before, after = (contents.get(name, "").splitlines(keepends=True) for contents in files)
        old, new = (f"{run}/components/{name}" for run in runs)
        lines = difflib.unified_diff(before, after, old, new)
        if diff := "".join(line if line.endswith("\n") else f"{line}\n" for line in lines):
            diffs[name] = diff
    return diffs


def data_of_origin(origin: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of the text and the tokenizer, and hashes of tokens, documents and marks of each split."""
    data = origin.get("data")
    if not isinstance(data, dict):
        return {}
    found = {key: text[:HASH_LENGTH] for key, text in texts_of(data).items() if key != "folder"}
    for kind, word in (("splits", "tokens"), ("documents", "documents"), ("counted", "marks")):
        found |= {f"{word} of {split}": text[:HASH_LENGTH] for split, text in texts_of(data.get(kind)).items()}
    return found


def environment_of(run: IndexedRun, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Packages, machine and commit."""
    git = origin.get("git")
    packages = texts_of(origin.get("distributions"))
    machine = origin.get("machine")
    found: dict[str, Any] = {name: version for name, version in packages.items() if name != LOCAL}
    if isinstance(machine, dict):
        found |= {".".join(map(str, key)): value for key, value in leaves(machine)}
    if isinstance(git, dict):
        found |= {"commit": git.get("commit"), "changed since the commit": git.get("dirty")}
    patch = patch_hash(Path(run.path))
    return {**found, "dirty.patch": patch} if patch else found


def patch_hash(folder: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(folder / "dirty.patch", MAX_PATCH_BYTES)).hexdigest()[:HASH_LENGTH]
    except OSError:
        return ""


def short_hash(text: str | None) -> str:
    return "" if text is None else f"sha256 {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:HASH_LENGTH]}"
