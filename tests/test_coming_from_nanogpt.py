"""docs/coming-from-nanogpt.md: each option of nanoGPT has its row, each line of code is the one it names, and the
example runs."""

from __future__ import annotations

import ast
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.interop.nanogpt_options import DEFAULTS, ELSEWHERE
from tests.handbook.pages import blocks_of
from tests.nanogpt_names import CONFIG, OPTIONS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "coming-from-nanogpt.md"
MOST_LINES = 300
LINE_LINK = re.compile(r"\[`(?:\w+\.)?(\w+)`\]\(([^)#]+)#L(\d+)\)")


def section(file: str) -> str:
    """The section of the page about a file of nanoGPT."""
    text = PAGE.read_text(encoding="utf-8")
    (found,) = [part for part in re.split(r"^## ", text, flags=re.M) if f" {file}" in part.partition("\n")[0]]
    return found


def rows(file: str) -> list[str]:
    """The option of each row of its table."""
    return re.findall(r"^\| `(\w+)` \|", section(file), re.MULTILINE)


@pytest.mark.parametrize("file", [*OPTIONS])
def test_every_option_of_nanogpt_has_one_row_in_the_order_of_its_file(file: str) -> None:
    assert tuple(rows(file)) == OPTIONS[file]


def test_the_options_that_are_converted_are_those_of_the_page() -> None:
    assert tuple(DEFAULTS) == OPTIONS["train.py"]
    others = {name for file in ("sample.py", "bench.py") for name in OPTIONS[file]}
    assert set(ELSEWHERE) == others - {*DEFAULTS}


def test_a_line_that_is_linked_defines_what_the_link_names() -> None:
    links = LINE_LINK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(links) > 15
    for name, target, number in links:
        line = (PAGE.parent / target).read_text(encoding="utf-8").splitlines()[int(number) - 1]
        assert re.search(rf"(def|class) {name}\b", line), f"{name}: {target}#L{number} is {line!r}"


def test_the_page_is_short() -> None:
    assert PAGE.read_text(encoding="utf-8").count("\n") <= MOST_LINES


def example() -> Iterator[list[str]]:
    """The arguments of each command of the example."""
    (block,) = (block.text for block in blocks_of(PAGE) if block.is_run and "--from-nanogpt" in block.text)
    for line in block.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "nanogpt-kit"
        yield words


def test_the_example_runs(
    command: Callable[..., Any], tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "nanoGPT" / "config" / "train_shakespeare_char.py"
    file.parent.mkdir(parents=True)
    file.write_text(CONFIG, encoding="utf-8")
    # The text of the tests in place of a download, and fewer steps
    more = {"new": ["--source", text_file], "run": ["train.steps=2", "sample.num_samples=0", "callback=[]"]}
    verbs = []
    for verb, *words in example():
        verbs.append(verb)
        words = ["a" if word == "ROMEO:" else word for word in words]  # a text that has these characters
        answer = command(verb, *words, *more.get(verb, []))
        assert answer.code == 0, answer.err
    assert verbs == ["new", "check", "run", "sample"]


# nanoGPT itself


def constants(tree: ast.Module) -> list[str]:
    """The options of a program: what it assigns before it reads configurator.py."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Expr) and "configurator.py" in ast.unparse(node):
            return found
        if isinstance(node, ast.Assign):
            found += [ast.unparse(target) for target in node.targets]
    raise AssertionError("it does not read configurator.py")


@pytest.mark.slow
@pytest.mark.data
def test_the_names_are_those_of_nanogpts_files() -> None:
    checkout = os.environ.get("NANOGPT_KIT_TEST_NANOGPT")
    if not checkout:
        pytest.skip("NANOGPT_KIT_TEST_NANOGPT does not say where a checkout of nanoGPT is")

    def tree(file: str) -> ast.Module:
        return ast.parse(Path(checkout or "", file).read_text(encoding="utf-8"))

    for file in ("train.py", "sample.py", "bench.py"):
        assert [name for name in constants(tree(file)) if name != "config_keys"] == [*OPTIONS[file]], file
    (config,) = [node for node in tree("model.py").body if isinstance(node, ast.ClassDef) and node.name == "GPTConfig"]
    fields = [ast.unparse(node.target) for node in config.body if isinstance(node, ast.AnnAssign)]
    assert fields == [*OPTIONS["model.py"]]
    scripts = [tree(f"data/{name}/prepare.py") for name in ("openwebtext", "shakespeare", "shakespeare_char")]
    assigned = {name for script in scripts for name in assigned_names(script)}
    assert assigned >= set(OPTIONS["prepare.py"])


def assigned_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield from (ast.unparse(target) for target in node.targets)
