"""Every command of the handbook runs, in the order of its page; what the tutorial prints is compared with the page."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.first_hour.newcomer import install_wheel
from tests.handbook.given import GIVEN, Given, write_folder
from tests.handbook.pages import PAGES, ROOT, TUTORIAL, Block, blocks_of, commands_of, is_full_size
from tests.handbook.printed import difference
from tests.handbook.shell import Printed, Shell, forking_commands

pytestmark = pytest.mark.slow

RUN = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]
# Exit codes that depend on what is measured: tiny models give other verdicts than those of the pages
INTERRUPTED = 130  # by Ctrl-C
VERDICTS = {"compare": (0, 3, 4), "ablate": (0, 3, 4), "mup-check": (0, 1)}


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes the folder of commands for a page.

    A page of the tutorial has the wheel in an environment, and so has one that installs something. The commands of all
    others are forked from a process that has imported the kit.
    """
    made: dict[str, Path] = {}

    def make(page: Path) -> Path:
        blocks = [block for block in blocks_of(page) if block.is_run]
        before = GIVEN.get(ids(page), Given()).before
        name = ids(page) if any("pip " in text for text in (*before, *(block.text for block in blocks))) else ""
        if not name and not page.is_relative_to(TUTORIAL) and not any(block.marker("until") for block in blocks):
            return forking_commands(tmp_path_factory.mktemp("commands"))
        if name not in made:
            made[name] = install_wheel(ROOT, tmp_path_factory.mktemp("environment"))
        return made[name]

    return make


@pytest.mark.parametrize("page", RUN, ids=ids)
def test_every_command_of_a_page_runs(page: Path, tmp_path: Path, environment: Callable[[Path], Path]) -> None:
    blocks = blocks_of(page)
    folder = tmp_path / "folder"
    folder.mkdir()
    in_tutorial = page.is_relative_to(TUTORIAL)
    shell = Shell(environment(page), folder, tmp_path / "state", threads=None if is_full_size(page) else 1)
    given = GIVEN.get(ids(page), Given())
    if not is_full_size(page):
        write_folder(folder)
        for name, text in given.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for command in given.before:
            assert (printed := shell.run(command)).code == 0, printed
    unused = dict(given.smaller)
    for block in blocks:
        if name := block.marker("file"):
            path = shell.current_folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(smaller(block.text, given, unused), encoding="utf-8")
        elif block.is_run:
            run_block(block, shell, given, unused, compares=in_tutorial)
    assert not unused, f"the page does not have {', '.join(unused)}"
    shutil.rmtree(tmp_path)


def run_block(block: Block, shell: Shell, given: Given, unused: dict[str, str], compares: bool) -> None:
    commands = commands_of(block)
    done: list[Printed] = []
    for command in commands:
        last = command is commands[-1]
        printed = shell.run(smaller(f"{command}\n", given, unused), block.marker("until") if last else None)
        done.append(printed)
        expected: tuple[int, ...] = (int(block.marker("exit") or 0) if last else 0,)
        if last and block.marker("until") and not block.marker("exit"):
            expected = (0, INTERRUPTED)
        if not compares and not (last and block.marker("exit")):
            expected = VERDICTS.get(verb(command), expected)
        assert printed.code in expected, f"{block}\n{printed}"
    if compares and block.output is not None:
        output = "".join(printed.output for printed in done)
        assert not (problem := difference(block.output, output)), f"{block}: {problem}\nprinted:\n{output}"


def smaller(text: str, given: Given, unused: dict[str, str]) -> str:
    for old, new in given.smaller.items():
        if old in text:
            unused.pop(old, None)
            text = text.replace(old, new)
    return text


def verb(command: str) -> str:
    words = [] if "\n" in command else shlex.split(command, comments=True)
    return words[1] if words[:1] == ["nanogpt-kit"] and len(words) > 1 else ""
