"""The tests catch the mistakes of mutations.toml: each is planted in a copy of the package, and the tests named beside
it must fail there. They are default tests, except for mistakes that only another device shows.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("nanogpt_kit", "tests")  # the rest of the repository is linked
SECONDS = 600  # for one start of pytest, which takes a few, and all tests 20


@dataclass(frozen=True)
class Mutation:
    """A mistake, and the tests that notice it."""

    broken: str
    file: str  # in nanogpt_kit
    text: str  # occurs once in the file
    becomes: str
    caught_by: tuple[str, ...]  # node ids, each of a test with all its parameters
    slow: bool = False  # by slow tests, else by default ones

    @property
    def path(self) -> Path:
        return Path("nanogpt_kit") / self.file

    def apply(self, source: str) -> str:
        assert source.count(self.text) == 1, f"{self.path} has {source.count(self.text)} times: {self.text}"
        return source.replace(self.text, self.becomes)


def read_mutations() -> list[Mutation]:
    tables = tomllib.loads((Path(__file__).parent / "mutations.toml").read_text(encoding="utf-8"))["mutation"]
    return [Mutation(**{**table, "caught_by": tuple(table["caught_by"])}) for table in tables]


MUTATIONS = read_mutations()
each_mutation = pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.broken for mutation in MUTATIONS])


@each_mutation
def test_a_mutation_still_applies(mutation: Mutation) -> None:
    source = (ROOT / mutation.path).read_text(encoding="utf-8")
    before, after = ast.parse(source), ast.parse(mutation.apply(source))
    assert ast.dump(before) != ast.dump(after)


@each_mutation
def test_the_tests_of_a_mutation_are_marked_as_it_says(mutation: Mutation) -> None:
    assert mutation.caught_by
    for node in mutation.caught_by:
        file, _, name = node.partition("[")[0].partition("::")
        module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        marks = [statement for statement in module.body if ast.unparse(statement).startswith("pytestmark")]
        [test] = [part for part in module.body if isinstance(part, ast.FunctionDef) and part.name == name]
        marked = " ".join(map(ast.unparse, [*marks, *(mark for mark in test.decorator_list if is_mark(mark))]))
        assert re.findall(r"mark\.(slow|gpu)", marked) == (["slow"] if mutation.slow else []), node


def is_mark(decorator: ast.expr) -> bool:
    """Whether it marks the whole test; a mark within `parametrize` is that of a single case."""
    return not ast.unparse(decorator).startswith("pytest.mark.parametrize")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, whose package and tests may be changed."""
    folder = tmp_path_factory.mktemp("mutated")
    for path in ROOT.iterdir():
        if path.name in COPIED:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    where = python(folder, "-c", "import nanogpt_kit; print(nanogpt_kit.__file__)")
    assert where.stdout.strip() == str(folder / "nanogpt_kit" / "__init__.py")
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a copy of the repository, whose package comes before one that is installed."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def run_tests(folder: Path, nodes: tuple[str, ...], slow: bool) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "pytest", "-q", "-rfE", "--tb=short", *(["-m", "slow"] if slow else []), *nodes)


@contextmanager
def planted(mutation: Mutation, copy: Path) -> Iterator[None]:
    file = copy / mutation.path
    file.write_text(mutation.apply(file.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        yield
    finally:
        shutil.copy2(ROOT / mutation.path, file)  # with its time, by which Python knows what it has compiled


@pytest.mark.slow
@pytest.mark.parametrize("slow", [False, True], ids=["default tests", "slow tests"])
def test_the_named_tests_pass_in_a_copy_without_a_mutation(slow: bool, copy: Path) -> None:
    nodes = {node: None for mutation in MUTATIONS if mutation.slow == slow for node in mutation.caught_by}
    done = run_tests(copy, tuple(nodes), slow)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@each_mutation
def test_a_mutation_is_caught_by_each_of_its_tests(mutation: Mutation, copy: Path) -> None:
    with planted(mutation, copy):
        done = run_tests(copy, mutation.caught_by, mutation.slow)
    output = done.stdout + done.stderr
    assert done.returncode == 1, output  # 1: tests failed; others mean that they could not be run
    assert not re.search(r"^ERROR ", done.stdout, re.MULTILINE), output
    for node in mutation.caught_by:
        assert re.search(rf"^FAILED {re.escape(node)}(\[| - |$)", done.stdout, re.MULTILINE), f"{node} passed\n{output}"
    assert not re.search(r"^E +(Import|Name|Syntax)Error", done.stdout, re.MULTILINE), output  # it must be able to run
