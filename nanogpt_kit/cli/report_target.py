"""What an argument of `report` names: a run, the runs of a trial, a comparison, or a sweep."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.overrides import COMMAND_LINE
from nanogpt_kit.core.shipped import find_experiment
from nanogpt_kit.core.toml import read_toml_file
from nanogpt_kit.runs.description import one_line
from nanogpt_kit.runs.find import find_run, name_list, readings, runs_by_name
from nanogpt_kit.runs.folder import files_below_runs, relative_to_cwd, runs_of_experiment, runs_root
from nanogpt_kit.runs.resume_command import kit_command, run_argument

if TYPE_CHECKING:
    from nanogpt_kit.runs.find import FoundRun

COMPARISON, SWEEP, EXPERIMENT = "comparison.json", "sweep.json", "experiment.toml"
STUDIES = {"sweep": "sweep", "ablate": "ablation"}  # by table of an experiment, which is the verb, too
MIN_PREFIX = 4  # characters of the id of a comparison


@dataclass(frozen=True)
class ReportTarget:
    """What a report is made of."""

    kind: Literal["run", "comparison", "sweep"]
    folder: Path
    meaning: str  # one line for people


def find_targets(text: str) -> list[ReportTarget]:
    """The target of an argument; several runs where it is the common beginning of the folders of a trial's runs.

    Raises KitError where there is no such thing, or where several are as likely.
    """
    target = target_of_path(Path(text)) or target_of_experiment(text) or target_of_id(text)
    if target is not None:
        return [target]
    try:
        return [target_of_run(find_run(text))]
    except KitError as error:
        from nanogpt_kit.comparison.groups import runs_of_prefix

        trial = [run for path in (Path(text), runs_root() / text) for run in runs_of_prefix(path)]
        if trial:
            return [ReportTarget("run", run.path, f"run {one_line(str(relative_to_cwd(run.path)))}") for run in trial]
        target = only_study_of(text)
        if target is not None:
            return [target]
        if names_a_run(text):  # with a step that it does not have, or several runs
            raise
        raise unknown_target(text, error) from None


def target_of_path(path: Path) -> ReportTarget | None:
    """Of a file or folder of a comparison, a sweep or a run; None where it is something else."""
    if path.name == COMPARISON and os.path.isfile(path):
        return comparison_target(path.parent)
    if path.name == SWEEP and os.path.isfile(path):
        return sweep_target(path.parent)
    if path.name == EXPERIMENT and os.path.exists(path.with_name("provenance.json")):
        return target_of_run(find_run(path.parent))
    for top in (path, runs_root() / path):
        if os.path.isfile(top / COMPARISON):
            return comparison_target(top)
        if os.path.isfile(top / SWEEP):
            return sweep_target(top)
        ids = [file.parent.name for file in sorted(top.glob(f"*/{COMPARISON}"))] if os.path.isdir(top) else []
        if ids:
            message = (
                f"{str(path)!r} is a folder of comparisons, and a report shows one; name one of them: {name_list(ids)}"
            )
            raise KitError(Fault(message, location=COMMAND_LINE))
    return None


def target_of_experiment(text: str) -> ReportTarget | None:
    """Of an experiment file or name: its sweep where it has a [sweep] table, its newest ablation where it has [ablate];
    where neither has begun, its newest run. None where there is no such file, or nothing of it."""
    try:
        values = read_experiment_values(text)
    except KitError:
        return None
    name = str(values.get("name"))
    found = studies_of(name)
    target = (found.get("sweep") if "sweep" in values else None) or (
        found.get("ablate") if "ablate" in values else None
    )
    runs = runs_of_experiment(runs_root() / name)
    if target is None:
        is_other_name = name != text and bool(runs)
        return target_of_run(find_run(name)) if is_other_name else None
    others = [f"{other.meaning}" for other in found.values() if other != target]
    others += [f"runs of {one_line(name)}: {len(runs)}, of which {one_line(name)}@best names one"] if runs else []
    more = f" (also there: {'; '.join(others)})" if others else ""
    return ReportTarget(target.kind, target.folder, target.meaning + more)


def read_experiment_values(text: str) -> dict[str, Any]:
    """The values that a file itself has, as written. Its tables decide what it is, also where it extends another."""
    from nanogpt_kit.core.layers import Layers

    file = find_experiment(text)
    with suppress(KitError):
        return Layers.load(file).values
    return dict(read_toml_file(file).values)  # what it extends is gone


def studies_of(name: str) -> dict[str, ReportTarget]:
    """The sweep of an experiment, and the newest ablation and comparison with it as the base, where there are any."""
    found = {}
    folder = runs_root() / name / "sweep"
    if os.path.isfile(folder / SWEEP):
        found["sweep"] = sweep_target(folder)
    for kind in ("ablate", "compare", "noise"):
        files = sorted(files_below_runs(f"*/{kind}/*/{COMPARISON}"), key=lambda file: file.stat().st_mtime)
        folders = [file.parent for file in files if file.parent.parent.parent.name == name]
        if folders:
            found[kind] = comparison_target(folders[-1], len(folders))
    return found


def only_study_of(text: str) -> ReportTarget | None:
    """Of a name, or a folder below runs/, without runs: its sweep, else its newest ablation or comparison."""
    name = Path(text).name if os.path.abspath(Path(text).parent) == os.path.abspath(runs_root()) else text
    return next(iter(studies_of(name).values()), None) if Path(name).name == name else None


def target_of_id(text: str) -> ReportTarget | None:
    """Of the id of a comparison, or its beginning."""
    if len(text) < MIN_PREFIX or "/" in text:
        return None
    folders = [folder for folder in comparison_folders() if folder.name.startswith(text)]
    exact = [folder for folder in folders if folder.name == text]
    folders = exact or folders
    if len(folders) > 1:
        paths = name_list([str(relative_to_cwd(folder)) for folder in folders])
        raise KitError(
            Fault(f"{text!r} is the beginning of {len(folders)} comparisons: {paths}", location=COMMAND_LINE)
        )
    return comparison_target(folders[0]) if folders else None


def comparison_folders() -> list[Path]:
    return [file.parent for file in files_below_runs(f"*/*/*/{COMPARISON}")]


def comparison_target(folder: Path, count: int = 1) -> ReportTarget:
    kind = {"ablate": "ablation", "noise": "measurement of noise"}.get(folder.parent.name, "comparison")
    newest = f", the newest of {count}" if count > 1 else ""
    return ReportTarget("comparison", folder, f"{kind} {one_line(str(relative_to_cwd(folder)))}{newest}")


def sweep_target(folder: Path) -> ReportTarget:
    return ReportTarget("sweep", folder, f"sweep {one_line(str(relative_to_cwd(folder)))}")


def target_of_run(found: FoundRun) -> ReportTarget:
    """With what else the experiment has, where the reference was an experiment's name. Raises KitError for a reference
    to a checkpoint."""
    if found.step is not None:
        remedy = f"write {shlex.quote(run_argument(found.folder))}"
        message = f"a report shows a whole run, and not its checkpoint of step {found.step:,}; {remedy}"
        raise KitError(Fault(message, location=COMMAND_LINE))
    others = [other.meaning for other in studies_of(found.experiment).values()] if found.experiment else []
    more = f" (also there: {'; '.join(others)})" if others else ""
    return ReportTarget("run", found.folder.path, found.described() + more)


def names_a_run(text: str) -> bool:
    try:
        return any(runs_by_name(name) is not None for name, *_ in readings(text))
    except KitError:  # it is the name of several
        return True


def unknown_target(text: str, error: KitError) -> KitError:
    """The message about runs, and the nearest comparison or sweep."""
    names = {folder.name: folder for folder in comparison_folders()}
    names |= {file.parent.parent.name: file.parent for file in files_below_runs(f"*/sweep/{SWEEP}")}
    close = difflib.get_close_matches(text, names, n=1)
    guess = f" A near name is that of {one_line(str(relative_to_cwd(names[close[0]])))}." if close else ""
    hint = " Nor is it a comparison or a sweep that has begun: `nanogpt-kit runs ledger` lists the comparisons."
    with suppress(KitError):
        verb = next((table for table in ("sweep", "ablate") if table in read_experiment_values(text)), "")
        hint = f" Its {STUDIES[verb]} has not begun: `{kit_command(verb, text)}` begins it." if verb else hint
    return KitError(Fault(f"{str(error).rstrip('.')}.{hint}{guess}", location=COMMAND_LINE))


def without_repetitions(targets: Iterable[ReportTarget]) -> list[ReportTarget]:
    """Each folder once, in the order of the arguments, whatever the paths by which it was named."""
    found: dict[str, ReportTarget] = {}
    for target in targets:
        found.setdefault(os.path.realpath(target.folder), target)
    return list(found.values())


def meaning_lines(targets: list[ReportTarget], most: int = 6) -> Iterator[str]:
    """What each argument was taken as, or how many runs they are."""
    if len(targets) > most:
        yield f"{len(targets):,} runs"
    else:
        yield from (target.meaning for target in targets)
