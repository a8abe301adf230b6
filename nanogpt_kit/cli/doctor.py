"""`nanogpt-kit doctor`: what this machine can do, and why something is off."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanogpt_kit.core.errors import printable

if TYPE_CHECKING:
    from nanogpt_kit.bench.machine import Fact

PREPARED = re.compile(r".+-[0-9a-f]{12}")  # as the folders of prepared data are named
VARIABLES = {  # told where they are set
    "TIKTOKEN_CACHE_DIR": "where tiktoken keeps the vocabularies that it has downloaded",
    "HF_HOME": "where the hub's datasets and weights are kept",
    "HF_HUB_OFFLINE": "with 1 nothing is downloaded from the hub",
    "HF_DATASETS_OFFLINE": "with 1 no dataset is downloaded from the hub",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
def doctor(as_json: bool) -> None:
    """Tell what this machine can do, and why something is off."""
    from nanogpt_kit.bench.machine import asked, facts

    found = facts()
    found |= {"folders": asked(folders), "prepared data": asked(prepared_data), "from elsewhere": asked(from_elsewhere)}
    if as_json:
        values = {section: {fact.name: in_values(fact) for fact in told} for section, told in found.items()}
        click.echo(json.dumps(values, indent=2))
        return
    for section, told in found.items():
        click.echo(section)
        width = max([18, *(len(fact.name) for fact in told)])
        for fact in told:
            click.echo(line(printable(f"  {fact.name:{width}}  {fact.verdict:9}  "), printable(fact.says)))
        click.echo()


def in_values(fact: Fact) -> dict[str, object]:
    return {"verdict": fact.verdict or None, "says": fact.says, **fact.values}


def line(start: str, says: str) -> str:
    """On a terminal it goes on below itself where it is too long; else it is one line, for grep."""
    if not sys.stdout.isatty():
        return start + says
    width = max(shutil.get_terminal_size().columns - len(start), 30)
    parts = textwrap.wrap(says, width, break_long_words=False, break_on_hyphens=False)
    return start + f"\n{'':{len(start)}}".join(parts)


def folders() -> Iterator[Fact]:
    """Where runs and data lie, and how much room is left there."""
    from nanogpt_kit.bench.machine import in_words, judged
    from nanogpt_kit.core.errors import KitError
    from nanogpt_kit.data.prepare import data_root
    from nanogpt_kit.runs.files import check_writable
    from nanogpt_kit.runs.folder import runs_root

    for name, root in {"runs": runs_root(), "data": data_root()}.items():
        path, why, free = root.absolute(), None, None
        try:
            check_writable(path)
            there = next(folder for folder in (path, *path.parents) if folder.exists())
            free = shutil.disk_usage(there).free
        except (KitError, OSError) as error:
            why = f"{error}; NANOGPT_KIT_{name.upper()} may name another folder"
        new = "" if free is None or path.exists() else ", made when it is needed"
        yield judged(name, why, f"{path}, {in_words(free)} free{new}", path=str(path), free_bytes=free)


def prepared_data() -> Iterator[Fact]:
    from nanogpt_kit.bench.machine import Fact
    from nanogpt_kit.data.manifest import OtherVersion
    from nanogpt_kit.data.prepare import data_root

    root = data_root()
    found = [path for path in sorted(root.iterdir()) if PREPARED.fullmatch(path.name)] if root.is_dir() else []
    if not found:
        yield Fact("none", "nanogpt-kit prepare and run make it where an experiment needs it")
    for path in found:
        try:
            yield tokens(path)
        except OSError as error:
            yield Fact(path.name, f"cannot be read: {error.strerror} ({error.filename})", "unknown")
        except OtherVersion:
            why = f"another version of nanogpt-kit wrote it, and this one takes no notice; {path} may be removed"
            yield Fact(path.name, why, "off")
        except ValueError:
            why = f"damaged: its manifest.json is not what was written; remove {path} to prepare it anew"
            yield Fact(path.name, why, "off")


def tokens(path: Path) -> Fact:
    """What a folder of prepared data holds. Raises the errors of a manifest that is damaged."""
    from nanogpt_kit.bench.machine import in_words, judged
    from nanogpt_kit.data.build import folder_bytes
    from nanogpt_kit.data.manifest import load_manifest
    from nanogpt_kit.data.prepared_data import data_files

    manifest, why = load_manifest(path), None
    wrong = [file.path.name for file in data_files(path, manifest) if not is_of_size(file.path, file.size)]
    if wrong:
        why = f"damaged: the size of {' and '.join(wrong)} is not what was written; remove {path} to prepare it anew"
    counts = {name: split.tokens for name, split in manifest.splits.items()}
    says = ", ".join(f"{split} {count:,} tokens" for split, count in counts.items())
    return judged(path.name, why, f"{says}, {in_words(folder_bytes(path))}", bytes=folder_bytes(path), tokens=counts)


def is_of_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def from_elsewhere() -> Iterator[Fact]:
    """What vocabularies, and datasets of the hub, need."""
    from nanogpt_kit.bench.machine import Fact, judged

    try:
        why, version = None, metadata.version("tokenizers")
    except metadata.PackageNotFoundError:
        why, version = 'needs tokenizers: pip install "nanogpt-kit[bpe]"', None
    yield judged("bpe, huggingface", why, f"tokenizers {version}", version=version)
    for variable, meaning in VARIABLES.items():
        value = os.environ.get(variable)
        if value is not None:
            here = "" if "OFFLINE" in variable or Path(value).is_dir() else "; there is no such folder yet"
            yield Fact(variable, f"{value or 'empty'} ({meaning}{here})", values={"setting": value})
