"""The pages of the handbook as blocks of code with their markers: comments on the lines before a fence.

- `<!-- needs: X -->`: the block is not run, since most machines lack X, one of NEEDS.
- `<!-- file: NAME -->`: the block is saved under NAME before the next command.
- `<!-- exit: N -->`: the last command of the block ends with exit code N instead of 0.
- `<!-- until: TEXT -->`: the last command of the block gets Ctrl-C when it prints a line that begins with TEXT.
- `<!-- run -->`, `<!-- test -->`: `.ci/run` runs the block.

A fence without a language right after a block of commands has their output.
"""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial"
CONCEPTS = ROOT / "docs" / "concepts"

NEEDS = (
    *("gpu", "network", "several machines", "nanoGPT", "Slurm", "macOS", "Windows", "another terminal", "a plugin"),
    *("several GPUs", "a clone", "a database", "matplotlib", "zsh", "fish"),
)
MARKERS = ("needs", "file", "exit", "until", "run", "test")
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w-]*)$")
COMMENT = re.compile(r"^ *<!-- (?P<name>[\w-]+)(?:: ?(?P<argument>.*?))? -->$")


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    page: Path
    line: int  # of its first fence, from 1
    language: str
    text: str
    markers: tuple[tuple[str, str], ...] = ()
    generated: bool = False  # by docs/generate.py
    output: str | None = None  # of commands: what the page says that they print

    def marker(self, name: str) -> str | None:
        return dict(self.markers).get(name)

    @property
    def is_run(self) -> bool:
        """Whether the commands of the block run in these tests."""
        return self.language == "sh" and not {"needs", "run", "test"} & dict(self.markers).keys()

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Comment:
    """An HTML comment on a line, outside of the blocks."""

    line: int
    name: str
    argument: str
    before_fence: bool


def is_full_size(page: Path) -> bool:
    """Whether the commands of a page run as they are printed; those of all others become small."""
    return page.is_relative_to(TUTORIAL) or page.is_relative_to(CONCEPTS)


def blocks_of(page: Path) -> list[Block]:
    return parse(page.read_text(encoding="utf-8"), page)[0]


def parse(text: str, page: Path) -> tuple[list[Block], list[Comment]]:
    """The blocks and the comments of a page. A fence that is not closed ends with the page."""
    blocks: list[Block] = []
    comments: list[Comment] = []
    waiting: list[Comment] = []  # those on the lines right before
    generated, follows_commands = False, False
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if fence := FENCE.match(line):
            inner = list(until_fence(lines, fence["ticks"]))
            markers = tuple((comment.name, comment.argument) for comment in waiting if comment.name in MARKERS)
            comments += [replace(comment, before_fence=True) for comment in waiting]
            content = textwrap.dedent("".join(f"{one}\n" for one in inner))
            if follows_commands and not fence["language"]:
                blocks[-1] = replace(blocks[-1], output=content)
            block = Block(page, number, fence["language"], content, markers, generated)
            follows_commands = block.language == "sh"
            if not (blocks and blocks[-1].output is content):
                blocks.append(block)
            waiting = []
        elif comment := COMMENT.match(line):
            waiting.append(Comment(number, comment["name"], comment["argument"] or "", before_fence=False))
            generated = comment["name"] != "end" if is_of_generator(comment["name"]) else generated
        elif line.strip():
            comments += waiting
            waiting, follows_commands = [], False
        else:
            comments += waiting
            waiting = []
    return blocks, comments + waiting


def is_of_generator(name: str) -> bool:
    """Whether a comment begins or ends a block that docs/generate.py makes."""
    return name not in MARKERS


def until_fence(lines: Iterator[tuple[int, str]], ticks: str) -> Iterator[str]:
    for _, line in lines:
        if line.strip() == ticks:
            return
        yield line


def outside_blocks(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a page that are not in a block, with their numbers, from 1."""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if fence := FENCE.match(line):
            for _ in until_fence(lines, fence["ticks"]):
                pass
        else:
            yield number, line


def commands_of(block: Block) -> list[str]:
    """The commands of a block of commands, each one or several lines: what the shell reads before it acts."""
    commands: list[str] = []
    lines: list[str] = []
    for line in block.text.splitlines():
        if not lines and (not line.strip() or line.lstrip().startswith("#")):
            continue
        lines.append(line)
        if is_complete("\n".join(lines)):
            commands.append("\n".join(lines))
            lines = []
    return commands + (["\n".join(lines)] if lines else [])


def is_complete(text: str) -> bool:
    """Whether the shell would not wait for a further line: of a loop, a string, a here-document."""
    if text.endswith("\\"):
        return False
    if not re.search(r"[\"'`(]|<<|\b(if|while|for|case|do)\b|\{$", text):
        return True
    read = subprocess.run(["bash", "-n"], input=f"{text}\n", text=True, capture_output=True, check=False)
    return read.returncode == 0 and not read.stderr
