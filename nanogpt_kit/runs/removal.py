"""Removing a run, whole or not at all, and the reasons why one should stay."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from nanogpt_kit.core.errors import Busy, KitError
from nanogpt_kit.runs.descendants import direct_descendants
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.files import is_link
from nanogpt_kit.runs.find import name_list
from nanogpt_kit.runs.folder import PROVENANCE, RunFolder, files_below_runs, runs_root
from nanogpt_kit.runs.indexed_run import IndexedRun
from nanogpt_kit.runs.lock import is_locked
from nanogpt_kit.runs.recorded_values import read_object, texts_of
from nanogpt_kit.system.folders import is_within
from nanogpt_kit.system.writing import sync_folder

REMOVED = re.compile(r"\..*\.[0-9a-f]{16}\.removed", re.DOTALL)  # name of a folder whose removal has begun
MAX_NAME = 100  # characters of the run's name in it
COMPARISONS = "*/*/*/comparison.json"  # below the runs folder


def is_busy(folder: RunFolder) -> bool:
    """Whether a process uses the run. Raises KitError where that cannot be determined."""
    return is_locked(folder.path / "lock")


def reasons_to_stay(folder: RunFolder, runs: Iterable[IndexedRun], removed: Collection[str] = ()) -> list[str]:
    """Sentences on why a run should not be removed; `removed` are the real paths of those that are removed with it."""
    path = folder.path
    if is_link(path):
        return [f"{path} is a link to {os.path.realpath(path)}; name that folder, or remove the link"]
    if not any((path / name).is_file() for name in (PROVENANCE, "status.json")):
        return [f"{path} has neither {PROVENANCE} nor status.json, so it may not be a run; remove the folder yourself"]
    runs = list(runs)
    real = os.path.realpath(path)
    if is_within(os.getcwd(), real):
        return [one_line(f"{real} contains the current folder; give the command in another one")]
    inner = [run.reference for run in runs_within(real)]
    reasons = [f"{path} contains other runs: {', '.join(inner)}; remove them first"] if inner else []
    children = direct_descendants(path, runs)
    names = [run.reference for run in runs if run.path in children and os.path.realpath(run.path) not in removed]
    if names:
        reasons.append(f"{path}: {name_list(names)} began from it; remove {'it' if len(names) == 1 else 'them'} first")
    return [one_line(reason) for reason in reasons]


def runs_within(path: str) -> list[IndexedRun]:
    """Runs in folders below a run, where only a user can have put them."""
    from_top = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if name not in ("checkpoints", "components")]
        if folder != path and {"experiment.toml", PROVENANCE} <= set(files):
            from_top.append(IndexedRun.read(folder, folder))
    return from_top


def comparisons_with(folder: RunFolder) -> list[str]:
    """The folders of the comparisons whose records name this run, relative to the runs folder."""
    top = runs_root()
    return sorted(
        str(path.parent.relative_to(top)) for path in files_below_runs(COMPARISONS) if is_named_in(path, folder, top)
    )


def is_named_in(record: Path, folder: RunFolder, top: Path) -> bool:
    measurements = read_object(os.fspath(record.parent), record.name).get("measurements")
    runs = [texts_of(one).get("run", "") for one in measurements] if isinstance(measurements, list) else []
    real = os.path.realpath(folder.path)
    end = os.sep + os.path.relpath(real, os.path.realpath(top))  # the runs folder may have been moved since
    return any(f"{os.sep}{run}".endswith(end) or os.path.realpath(run) == real for run in runs if "\0" not in run)


def remove_run(folder: RunFolder) -> None:
    """Removes a run with everything in its folder; links are removed, not what they lead to.

    Raises Busy where a process uses it, and KitError where it cannot be removed. A kill leaves the whole run, or a
    hidden folder that is not a run and that the next removal beside it removes.
    """
    path = Path(os.path.realpath(folder.path.parent), folder.path.name)  # which may lead through the run itself by ".."
    hidden = path.with_name(f".{path.name[:MAX_NAME]}.{secrets.token_hex(8)}.removed")
    try:
        with folder.lock():  # nobody resumes it meanwhile
            path.rename(hidden)
    except BlockingIOError:
        raise Busy(f"{folder} is being used by another process") from None
    except OSError as error:
        raise KitError(f"cannot remove {folder}: {error.strerror}") from None
    (hidden / "experiment.toml").unlink(missing_ok=True)  # first: without it the folder is not a run
    with suppress(OSError):
        sync_folder(path.parent)
    for leftover in leftovers(path.parent):
        shutil.rmtree(leftover, ignore_errors=True)
    if hidden.exists():
        raise KitError(f"{folder} is removed, except some files in {hidden}; remove that folder yourself")
    remove_empty_parents(path.parent)


def leftovers(parent: Path) -> Iterator[Path]:
    """Folders whose removal has begun and did not end."""
    with os.scandir(parent) as entries:
        for entry in list(entries):
            if REMOVED.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


def remove_empty_parents(folder: Path) -> None:
    """Removes the folder of an experiment without runs, and folders between it and the runs folder."""
    top, path = os.path.realpath(runs_root()), os.path.realpath(folder)
    with suppress(OSError):  # other files are in it
        while path != top and is_within(path, top):
            os.rmdir(path)
            path = os.path.dirname(path)
