"""The shell of these tests: what outlives a command, its exit code, Ctrl-C, and that it has no network."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.handbook.given import Given
from tests.handbook.pages import ROOT, Block
from tests.handbook.shell import SERVERS, Shell, write_program
from tests.handbook.test_commands import run_block

FETCH = "import urllib.request; urllib.request.urlopen('http://example.org')"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    for name in ("bin", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    return Shell(tmp_path / "bin", tmp_path / "folder", tmp_path / "state")


def test_variables_functions_and_the_folder_outlive_a_command(shell: Shell) -> None:
    for command in ("mkdir inner && cd inner", "a=1 b='x y'", "export C=3", "f() { echo $a-$b-$1; }"):
        assert shell.run(command).code == 0
    assert shell.run("f z").output == "1-x y-z\n"
    assert shell.run("sh -c 'echo $C$a'").output == "3\n"
    assert shell.current_folder.name == "inner"


def test_the_exit_code_is_that_of_the_command(shell: Shell) -> None:
    codes = {
        "true": 0,
        "false": 1,
        "exit 3": 3,
        "no-such-command": 127,
        "false | true": 1,
        "if true; then (exit 4); fi": 4,
    }
    assert {command: shell.run(command).code for command in codes} == codes


def test_ctrl_c_comes_when_a_line_is_printed(shell: Shell) -> None:
    loop = "import time\nfor n in range(999): print('step', n, flush=True); time.sleep(0.05)"
    Path(shell.folder / "loop.py").write_text(loop, encoding="utf-8")
    printed = shell.run("python loop.py", until="step 2")
    assert "step 2\n" in printed.output
    assert "KeyboardInterrupt" in printed.output
    assert "step 900" not in printed.output
    assert printed.code != 0


def test_a_server_is_asked_for_a_page(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    server = (
        "from http.server import *\nserver = HTTPServer(('127.0.0.1', 0), SimpleHTTPRequestHandler)\n"
        "print('Listening', 'http://127.0.0.1:%d/' % server.server_port, flush=True)\nserver.serve_forever()\n"
    )
    Path(shell.folder / "server.py").write_text(server, encoding="utf-8")
    write_program(shell.commands / "serve", '#!/bin/sh\nexec python "$1"\n')
    monkeypatch.setitem(SERVERS, "serve", ("--port 0", "Listening "))
    assert shell.run("serve server.py  # a comment\n").code == 0
    assert shell.run("serve nothing.py").code != 0


def test_there_is_no_network(shell: Shell) -> None:
    printed = shell.run(f'python -c "{FETCH}"')
    assert printed.code == 1
    assert "refused" in printed.output


@pytest.mark.parametrize(
    ("text", "markers", "output", "problem"),
    [
        ("true\necho 1 file", (), "2 file\n", ""),
        ("false\ntrue", (), None, "exit code 1"),
        ("true\nfalse", (("exit", "1"),), None, ""),
        ("true", (("exit", "1"),), None, "exit code 0"),
        ("echo 1 file", (), "1 folder\n", "1 folder".replace("1", "#")),
    ],
)
def test_a_block_fails_where_a_command_or_its_output_differs(
    shell: Shell, text: str, markers: tuple[tuple[str, str], ...], output: str | None, problem: str
) -> None:
    block = Block(ROOT / "docs" / "page.md", 1, "sh", f"{text}\n", markers, output=output)
    with pytest.raises(AssertionError, match=problem) if problem else nullcontext():
        run_block(block, shell, Given(), {}, compares=True)
