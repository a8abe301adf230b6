"""`nanogpt-kit doctor`: what this machine can do, and why a feature is off."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.output import is_terminal
from nanogpt_kit.core.errors import printable
from nanogpt_kit.system.terminal import terminal_width, wrap_line

if TYPE_CHECKING:
    from nanogpt_kit.bench.machine_facts import Fact

PREPARED_FOLDER = re.compile(r".+-[0-9a-f]{12}")  # names of folders of prepared data
VARIABLES = {  # reported where they are set
    "TIKTOKEN_CACHE_DIR": "folder of the vocabularies that tiktoken has downloaded",
    "HF_HOME": "folder of the datasets and weights from the hub",
    "HF_HUB_OFFLINE": "1: nothing is downloaded from the hub",
    "HF_DATASETS_OFFLINE": "1: no dataset is downloaded from the hub",
}


@click.command()
@click.option("--calibrate", is_flag=True, help="Measure again what is fastest on this machine.")
@json_option()
def doctor(calibrate: bool, as_json: bool) -> None:
    """Show what this machine can do, and why a feature is off.

    With --calibrate what was measured here is forgotten, and measured again: now for the shapes of the experiments
    bench_cpu, bench_baby and bench_gpt2, for others when they are first needed.
    """
    from nanogpt_kit.bench.machine_facts import collect_facts, machine_facts

    if calibrate:
        from nanogpt_kit.bench.calibration import calibrate_again

        calibrate_again()
    sections = machine_facts()
    sections |= {"folders": collect_facts(folder_facts), "prepared data": collect_facts(prepared_data_facts)}
    sections |= {"downloads": collect_facts(download_facts)}
    if as_json:
        values = {section: {fact.name: json_of_fact(fact) for fact in facts} for section, facts in sections.items()}
        print_json(values)
        return
    for section, facts in ((section, facts) for section, facts in sections.items() if facts):
        click.echo(section)
        width = max([18, *(len(fact.name) for fact in facts)])
        for fact in facts:
            click.echo(fact_line(printable(f"  {fact.name:{width}}  {fact.verdict:9}  "), printable(fact.text)))
        click.echo()


def json_of_fact(fact: Fact) -> dict[str, object]:
    return {"verdict": fact.verdict or None, "text": fact.text, **fact.values}


def fact_line(start: str, text: str) -> str:
    """On a terminal a long text is wrapped and indented; elsewhere it is one line, for grep."""
    return wrap_line(text, terminal_width(sys.stdout), start) if is_terminal(sys.stdout) else start + text


def folder_facts() -> Iterator[Fact]:
    """The folders of runs and data, and the free space there."""
    from nanogpt_kit.bench.machine_facts import feature, format_bytes
    from nanogpt_kit.core.errors import KitError
    from nanogpt_kit.data.prepare import data_root
    from nanogpt_kit.runs.files import check_writable
    from nanogpt_kit.runs.folder import runs_root

    for name, root in {"runs": runs_root(), "data": data_root()}.items():
        path, why, free = root.absolute(), None, None
        try:
            check_writable(path)
            existing = next(folder for folder in (path, *path.parents) if folder.exists())
            free = shutil.disk_usage(existing).free
        except (KitError, OSError) as error:
            why = f"{error}; set NANOGPT_KIT_{name.upper()} to another folder"
        new = "" if free is None or path.exists() else ", created when needed"
        yield feature(name, why, f"{path}, {format_bytes(free)} free{new}", path=str(path), free_bytes=free)


def prepared_data_facts() -> Iterator[Fact]:
    from nanogpt_kit.bench.machine_facts import Fact
    from nanogpt_kit.data.manifest import OtherVersion
    from nanogpt_kit.data.prepare import data_root

    root = data_root()
    paths = [path for path in sorted(root.iterdir()) if PREPARED_FOLDER.fullmatch(path.name)] if root.is_dir() else []
    if not paths:
        yield Fact("none", "prepare and run write it when an experiment needs it")
    for path in paths:
        try:
            yield prepared_folder_fact(path)
        except OSError as error:
            yield Fact(path.name, f"cannot be read: {error.strerror} ({error.filename})", "unknown")
        except OtherVersion:
            why = f"written by another version of nanogpt-kit and not used; {path} may be removed"
            yield Fact(path.name, why, "off")
        except ValueError:
            why = f"damaged: its manifest.json is not what was written; remove {path} to prepare it again"
            yield Fact(path.name, why, "off")


def prepared_folder_fact(path: Path) -> Fact:
    """The tokens of each split of prepared data. Raises the errors of a damaged manifest."""
    from nanogpt_kit.bench.machine_facts import feature, format_bytes
    from nanogpt_kit.data.manifest import load_manifest
    from nanogpt_kit.data.prepared_data import data_files
    from nanogpt_kit.system.folders import folder_bytes

    manifest, why = load_manifest(path), None
    damaged = [file.path.name for file in data_files(path, manifest) if not has_size(file.path, file.size)]
    if damaged:
        why = f"damaged: the size of {' and '.join(damaged)} is not what was written; remove {path} to prepare it again"
    counts = {name: split.tokens for name, split in manifest.splits.items()}
    text = ", ".join(f"{split} {count:,} tokens" for split, count in counts.items())
    size = folder_bytes(path)
    return feature(path.name, why, f"{text}, {format_bytes(size)}", bytes=size, tokens=counts)


def has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def download_facts() -> Iterator[Fact]:
    """The variables that decide where vocabularies and datasets from the hub are kept."""
    from nanogpt_kit.bench.machine_facts import Fact

    for variable, meaning in VARIABLES.items():
        value = os.environ.get(variable)
        if value is not None:
            missing = "" if "OFFLINE" in variable or Path(value).is_dir() else "; the folder does not exist yet"
            yield Fact(variable, f"{value or 'empty'} ({meaning}{missing})", values={"setting": value})
