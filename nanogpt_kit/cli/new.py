"""`nanogpt-kit new FILE.toml`: a commented experiment to edit, copied from one that is shipped."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
import tomli_w
from click.core import ParameterSource

from nanogpt_kit.cli.candidates import any_path_candidates, nanogpt_config_candidates, shipped_candidates
from nanogpt_kit.cli.new_from_nanogpt import convert_nanogpt_config
from nanogpt_kit.cli.paths import expand_path_argument
from nanogpt_kit.core.errors import KitError, did_you_mean, printable
from nanogpt_kit.core.shipped import SUFFIX, explain_other_file, shipped_experiments
from nanogpt_kit.system.reading import read_text
from nanogpt_kit.system.writing import write_atomically

OWN_TEXT = "my_text"  # the shipped experiment that trains on the user's text
OWN_TEXT_PURPOSE = "# A small model of your own text: set dataset.source, then run it.\n"  # its first line
SCHEMA = "nanogpt-kit.schema.json"
DEFAULT_NAME = "experiment"  # where a file name has no letter that a name may have
MAX_NAME = 100  # characters
MAX_NAMED = 3  # files in a message
SOURCE = re.compile(r"^source = (?P<value>.+?)(?P<gap> *)(?P<comment>#.*)?$", re.MULTILINE)


@click.command(context_settings={"allow_extra_args": True})
@click.argument("file", callback=expand_path_argument, metavar="FILE.toml", shell_complete=any_path_candidates)
@click.option(
    "--from",
    "template",
    default=OWN_TEXT,
    show_default=True,
    metavar="NAME",
    shell_complete=shipped_candidates,
    help="Shipped experiment to copy; `nanogpt-kit experiments list` shows them.",
)
@click.option(
    "--from-nanogpt",
    "config",
    metavar="CONFIG.py",
    callback=expand_path_argument,
    shell_complete=nanogpt_config_candidates,
    help="Config file of nanoGPT whose training to write as an experiment. It is parsed, not executed.",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="PATH",
    shell_complete=any_path_candidates,
    help="Text to train on: a file, folder or glob, for dataset.source; may be repeated. With --from-nanogpt also a "
    "folder with train.bin.",
)
@click.pass_context
def new(ctx: click.Context, file: str, template: str, config: str | None, sources: tuple[str, ...]) -> None:
    """Write FILE.toml, a commented experiment to edit and run, and beside it a JSON schema for editors.

    Nothing is overwritten. The name of the experiment is that of the file.
    """
    check_no_more_words(ctx.args, file, sources)
    if "" in sources:
        raise KitError("command line: --source is empty; expected a file, a folder or a glob")
    path = new_path(file)
    name = experiment_name(path.stem)
    if config is not None:
        if ctx.get_parameter_source("template") is not ParameterSource.DEFAULT:
            raise KitError("command line: --from and --from-nanogpt exclude each other")
        converted = convert_nanogpt_config(config, name, sources)
        write_experiment(path, converted.text, f"nanoGPT's {config}")
        print_steps(path, "run", converted.before)
        return
    text = set_value(read_template(template), "name", name)
    if sources:
        text = set_source(text, template, sources)
    write_experiment(path, text, f"the shipped {template}")
    verb = next((one for one in ("sweep", "ablate") if f"\n[{one}]\n" in text), "run")
    edit = f"edit {path}" if template != OWN_TEXT else f"set dataset.source in {path} to a file or folder of text"
    print_steps(path, verb, [] if sources else [edit])


def check_no_more_words(words: Sequence[str], file: str, sources: Sequence[str]) -> None:
    """Raises KitError for words after FILE, such as the files that a shell makes of an unquoted glob."""
    if not words:
        return
    if "=" in words[0]:
        raise KitError(f"command line: unexpected {words[0]!r}: `new` takes no overrides; set the option in {file}")
    if words[0].endswith(".py") and not sources:
        command = shlex.join(["nanogpt-kit", "new", file, "--from-nanogpt", words[0]])
        raise KitError(f"command line: unexpected {words[0]!r}; to convert a config file of nanoGPT, write `{command}`")
    paths = [*sources, *words]
    options = [word for path in paths[:MAX_NAMED] for word in ("--source", path)]
    command = shlex.join(["nanogpt-kit", "new", file, *options]) + " ..." * (len(paths) > MAX_NAMED)
    raise KitError(
        f"command line: unexpected {words[0]!r}: --source takes one path; put quotes around a glob, as in "
        f"--source '*.txt', or write `{command}`"
    )


def new_path(file: str) -> Path:
    """The file to write. Raises KitError where it has no name or exists, or where its folder does not exist."""
    if os.path.basename(file) in ("", SUFFIX) and not os.path.isdir(file):
        raise KitError(f"{file!r} should be the name of a new file, as in my{SUFFIX}")
    if not file.endswith(SUFFIX) and os.path.lexists(file):
        raise KitError(explain_other_file(file))
    path = Path(file if file.endswith(SUFFIX) else f"{file}{SUFFIX}")
    if os.path.lexists(path):
        raise KitError(f"{path} exists, and nothing is overwritten; choose another name")
    if not path.parent.is_dir():
        folder = shlex.quote(str(path.parent))
        if os.path.lexists(path.parent):
            raise KitError(f"{path}: {folder} is not a folder")
        raise KitError(f"{path}: the folder {folder} does not exist; `mkdir -p {folder}` makes it")
    return path


def read_template(name: str) -> str:
    """The text of a shipped experiment. Raises KitError where there is none of that name."""
    shipped = shipped_experiments()
    file = shipped.get(name.removesuffix(SUFFIX))
    if file is None:
        raise KitError(f"--from: no shipped experiment {name!r}{did_you_mean(name, shipped)}")
    return read_text(file)


def experiment_name(stem: str) -> str:
    """A file's name without what the name of an experiment may not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:MAX_NAME] or DEFAULT_NAME


def set_value(text: str, key: str, value: str) -> str:
    return re.sub(rf"^{key} = .*$", lambda _: f"{key} = {json.dumps(value)}", text, count=1, flags=re.MULTILINE)


def set_source(text: str, template: str, sources: Sequence[str]) -> str:
    """Sets dataset.source, and keeps the comment behind it. Raises KitError where the template has no such option."""
    try:
        "".join(sources).encode("utf-8")
    except UnicodeEncodeError:
        raise KitError("--source: the name is not UTF-8, so no experiment file can contain it; rename it") from None
    if not SOURCE.search(text):
        able = [name for name, path in shipped_experiments().items() if SOURCE.search(read_text(path))]
        raise KitError(f"--source: {template} has no dataset.source; these have one: {', '.join(able)}")
    strings = [toml_string(source) for source in sources]
    value = strings[0] if len(strings) == 1 else f"[{', '.join(strings)}]"
    text = text.replace(OWN_TEXT_PURPOSE, f"# A small model of the text in {', '.join(strings)}.\n", 1)

    def replace(match: re.Match[str]) -> str:
        column = len("source = ") + len(match["value"]) + len(match["gap"])
        line = f"source = {value}"
        return f"{line:{column - 2}}  {match['comment']}" if match["comment"] else line

    return SOURCE.sub(replace, text, count=1)


def toml_string(text: str) -> str:
    return tomli_w.dumps({"x": text}).partition("= ")[2].strip()


def write_experiment(path: Path, text: str, origin: str) -> None:
    """Writes the experiment, and the schema beside it, and prints both."""
    try:
        write_atomically(path, f"#:schema {SCHEMA}\n{text}")
    except OSError as error:
        raise KitError(f"{path}: cannot be written: {error.strerror}") from None
    click.echo(printable(f"written: {path}, from {origin}"))
    write_schema(path.parent / SCHEMA)


def write_schema(path: Path) -> None:
    """Writes the schema that editors check experiment files with, unless a file of that name exists."""
    from nanogpt_kit.core.schema import experiment_schema

    schema = json.dumps(experiment_schema(), indent=2) + "\n"
    if not os.path.lexists(path):
        try:
            write_atomically(path, schema)
        except OSError as error:
            raise KitError(f"{path}: cannot be written: {error.strerror}") from None
        click.echo(printable(f"written: {path}, for editors"))
    elif not is_same_file(path, schema):
        command = shlex.join(["nanogpt-kit", "schema", "--output", str(path)])
        click.echo(printable(f"not overwritten: {path}, which has other content; `{command}` writes the schema"))


def is_same_file(path: Path, text: str) -> bool:
    try:
        return read_text(path) == text
    except (OSError, UnicodeDecodeError):
        return False


def print_steps(path: Path, verb: str, before: Sequence[str]) -> None:
    """What to do next: `before`, then check the experiment, then train it with `verb`."""
    is_named = path.parent == Path() and not os.path.lexists(path.stem)
    word = shlex.quote(path.stem if is_named else str(path))
    steps = [*before, f"nanogpt-kit check {word}", f"nanogpt-kit {verb} {word}"]
    click.echo(printable("\n".join(["next:", *(f"  {step}" for step in steps)])))
