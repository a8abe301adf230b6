"""The experiments that come with the package, and what finds an experiment by its path or name.

A wheel has them in the package, a clone in experiments/ beside it.
"""

from __future__ import annotations

import difflib
import errno
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.toml_lines import MalformedToml, parse_toml
from nanogpt_kit.system.reading import read_text

PACKAGE = Path(__file__).parents[1]
FOLDER = PACKAGE / "experiments" if (PACKAGE / "experiments").is_dir() else PACKAGE.parent / "experiments"
SUFFIX = ".toml"
EXPECTED = "Expected: "  # begins the second line of a header
MAX_BYTES = 100_000  # of a file in the current folder that is listed
MARKS = ("extends", "dataset", "model")  # an experiment sets one of these; pyproject.toml and others set none

GROUPS = {  # in the order in which they are listed
    "First steps": ("quickstart", "my_text"),
    "Small models": ("shakespeare_char_cpu", "shakespeare_char", "shakespeare_bpe", "tinystories"),
    "Sweeps and ablations": ("sweep_lr", "sweep_optimizers", "sweep_architecture", "ablate_parts"),
    "GPT-2, training": ("owt_gpt2", "fineweb_gpt2", "fineweb_edu_gpt2", "finetune_shakespeare"),
    "GPT-2, evaluation": ("eval_gpt2", "eval_gpt2_medium", "eval_gpt2_large", "eval_gpt2_xl"),
    "Speed": ("bench_cpu", "bench_baby", "bench_gpt2", "bench_gpt2_gpu"),
}


def shipped_experiments() -> dict[str, Path]:
    """The file of each experiment that comes with the package, by its name without .toml; in the order of GROUPS."""
    files = {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}"))}
    names = [name for group in GROUPS.values() for name in group if name in files]
    return {name: files[name] for name in (*names, *sorted(files.keys() - set(names)))}


def local_experiments() -> dict[str, Path]:
    """The experiments in the current folder, by name without .toml."""
    return {path.stem: path for path in sorted(Path().glob(f"*{SUFFIX}")) if is_experiment(path)}


def is_experiment(path: Path) -> bool:
    """Whether a file sets what experiments set; one that is not TOML yet may be meant as an experiment."""
    try:
        values, _ = parse_toml(read_text(path, MAX_BYTES))
    except (OSError, UnicodeDecodeError):
        return False
    except MalformedToml:
        return True
    return any(mark in values for mark in MARKS)


def find_experiment(text: str) -> Path:
    """The file that `text` names: a path; or a name, which is that of NAME.toml in the current folder or is shipped.

    A name may end in .toml. Raises KitError with the nearest names where there is no such experiment, and for a file or
    folder that is not an experiment.
    """
    if text.endswith(SUFFIX) and path_exists(text):
        return Path(text)
    if is_bare_name(text):
        in_folder, shipped = Path(f"{text}{SUFFIX}"), shipped_experiments().get(text.removesuffix(SUFFIX))
        if os.path.isfile(in_folder):  # unlike Path.is_file, accepts a name that is longer than a file's can be
            return in_folder
        if shipped is not None:
            return shipped
    if path_exists(text):
        raise KitError(explain_other_file(text))
    raise KitError(explain_unknown_experiment(text))


def path_exists(text: str) -> bool:
    """Whether there is something at this path, readable or not."""
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    return True


def is_bare_name(text: str) -> bool:
    """Whether this is a name without a folder."""
    return bool(text) and text not in (os.curdir, os.pardir) and os.path.basename(text) == text


def explain_other_file(text: str) -> str:
    """That a file or folder is not an experiment, and what a user may have meant."""
    recorded = os.path.join(text, f"experiment{SUFFIX}")
    if os.path.isfile(recorded):
        return f"{text!r} is the folder of a run, whose experiment is {recorded}"
    what = "a folder" if os.path.isdir(text) else f"not a {SUFFIX} file"
    name = f"{Path(text).resolve().stem}{SUFFIX}"
    command = shlex.join(["nanogpt-kit", "new", name, "--source", text])
    return f"{text!r} is {what}, so it is not an experiment; `{command}` writes one that trains on its text"


def explain_unknown_experiment(text: str) -> str:
    """That there is none, the nearest name, and all that there are."""
    local, shipped = local_experiments(), shipped_experiments()
    beside = f"{text}{SUFFIX}"  # folder/mine for folder/mine.toml
    close = [beside] if os.path.isfile(beside) else nearest_names(text, [*local, *shipped])
    guess = f"; did you mean {close[0]!r}?" if close else "."
    files = f" In the current folder: {', '.join(path.name for path in local.values())}." if local else ""
    names = f" Shipped: {', '.join(shipped)}." if shipped else ""
    return f"no experiment {text!r}{guess}{files}{names} `nanogpt-kit new FILE.toml` writes a new one"


def nearest_names(text: str, names: list[str]) -> list[str]:
    """The name that is most like the last part of a path, without .toml; empty where none is."""
    return difflib.get_close_matches(Path(text).name.removesuffix(SUFFIX), names, n=1)


def find_base(text: str, extending: Path) -> Path:
    """The file that `extends = text` in the file `extending` names.

    It is a path relative to that file; or a name, which is that of NAME.toml beside it or is shipped. A file does not
    extend itself, so that quickstart.toml may extend the shipped quickstart.
    """
    beside = extending.parent / text
    if is_bare_name(text):
        shipped = shipped_experiments().get(text.removesuffix(SUFFIX))
        named = [beside, beside.with_name(f"{text}{SUFFIX}"), *([shipped] if shipped else [])]
        for path in named:
            if os.path.isfile(path) and os.path.realpath(path) != os.path.realpath(extending):
                return path
    return beside


def path_in_messages(path: Path) -> str:
    """A shipped file relative to the folder of the package, as in nanogpt_kit/experiments/quickstart.toml."""
    return path.relative_to(PACKAGE.parent).as_posix() if path.parent == FOLDER else str(path)


@dataclass(frozen=True)
class Header:
    """The comment at the top of an experiment: what it is, and its loss, time and device; either may be empty."""

    purpose: str
    expected: str


def read_header(path: Path) -> Header:
    """The first two lines of comment, without a line for editors (`#:schema`). Raises OSError, UnicodeDecodeError."""
    purpose = expected = ""
    for line in read_text(path, MAX_BYTES).splitlines():
        if not line.startswith("#"):
            break
        comment = line[1:].strip()
        if comment.startswith(EXPECTED):
            expected = comment.removeprefix(EXPECTED)
            break
        if comment and not line.startswith("#:"):
            purpose = purpose or comment
    return Header(purpose, expected)
