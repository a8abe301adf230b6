"""The pages keep the conventions that the other tests of this folder rely on: markers, fences, lengths, figures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handbook.pages import (
    CONCEPTS,
    MARKERS,
    NEEDS,
    PAGES,
    ROOT,
    TUTORIAL,
    Block,
    blocks_of,
    commands_of,
    outside_blocks,
    parse,
)

MOST_LINES = 300
RUN_BY_CI = {("README.md", "run"), ("README.md", "test")}  # by name in .ci/run
LANGUAGES = {"", "sh", "python", "toml", "text", "json", "jsonl"}
OTHER_SHELLS = {"bash", "console", "shell", "zsh", "fish", "powershell", "bat"}
TYPED = re.compile(r"^(\$ |nanogpt-kit |python -m |pip install )", re.MULTILINE)
IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<target>[^)\s]+)[^)]*\)|<img [^>]*>")
LINE_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#]+)#L(?P<line>\d+)[^)]*\)")
CODE_SPAN = re.compile(r"`[^`]+`")
NAME = re.compile(r"`(?P<name>[\w.]+)(?:\([^`]*\))?`")


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def generator_kinds() -> set[str]:
    """The kinds of the blocks that docs/generate.py makes."""
    tree = ast.parse((ROOT / "docs" / "generate.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "BLOCKS":
            assert isinstance(node.value, ast.Dict)
            return {str(ast.literal_eval(key)) for key in node.value.keys if key}
    raise AssertionError("docs/generate.py has no BLOCKS")


GENERATORS = generator_kinds()


LIST_MARK = re.compile(r" {0,3}([-*+]|1[.)]|#{1,6}) ")


# Lines


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_no_line_within_a_paragraph_begins_like_a_list_or_a_heading(page: Path) -> None:
    wrong = [*wrong_breaks(page.read_text(encoding="utf-8"))]
    assert not wrong, "\n".join(wrong)


def wrong_breaks(text: str) -> Iterator[str]:
    """Such as `n` at the end of a line and `- 1` at the beginning of the next one, which is read as a list."""
    before = (0, "")
    for number, line in outside_blocks(text):
        in_paragraph = before[0] == number - 1 and before[1][:1].isalpha()
        if in_paragraph and LIST_MARK.match(line):
            yield f"{number}: begins like a list or a heading"
        before = number, line


def test_a_minus_at_the_beginning_of_a_line_is_found() -> None:
    assert [*wrong_breaks("with n\n- 1 pairs\n")] == ["2: begins like a list or a heading"]
    assert [*wrong_breaks("Both (1,\n1) and\n1) or 2\n")] == ["2: begins like a list or a heading"]
    assert not [*wrong_breaks("Two:\n\n- 1\n- 2 and\n  more\n\n# Title\n")]


# Markers


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_marker_is_known_and_stands_before_a_fence(page: Path) -> None:
    wrong = [*wrong_comments(page.read_text(encoding="utf-8"), page)]
    assert not wrong, "\n".join(wrong)


def wrong_comments(text: str, page: Path) -> Iterator[str]:
    blocks, comments = parse(text, page)
    found = {comment.line for comment in comments}
    for number, line in outside_blocks(text):
        if "<!--" in CODE_SPAN.sub("", line) and number not in found:
            yield f"{number}: a comment stands alone on its line, as <!-- NAME: ARGUMENT -->"
    for comment in comments:
        if comment.name not in {*MARKERS, *GENERATORS, "end"}:
            yield f"{comment.line}: unknown: {comment.name}"
        elif comment.name in MARKERS and not comment.before_fence:
            yield f"{comment.line}: {comment.name} does not stand right before a fence"
    for block in blocks:
        for name, argument in block.markers:
            if problem := wrong_marker(block, name, argument):
                yield f"{block.line}: {name}: {problem}"


def wrong_marker(block: Block, name: str, argument: str) -> str:
    if name == "needs" and argument not in NEEDS:
        return f"{argument!r} is none of {', '.join(NEEDS)}"
    if name == "file" and (not argument or argument.startswith("/") or ".." in argument.split("/")):
        return "not the name of a file in the folder"
    if name == "file" and block.language == "sh":
        return "commands are run, not saved"
    if name == "exit" and not argument.isdigit():
        return "not a number"
    if name in ("exit", "until") and not block.is_run:
        return "the block is not run"
    if name in ("run", "test") and (ids(block.page), name) not in RUN_BY_CI:
        return "only .ci/run knows these two blocks of the README"
    return ""


@pytest.mark.parametrize(
    "text",
    [
        "<!-- nedes: gpu -->\n```sh\nls\n```\n",
        "<!-- needs: gpus -->\n```sh\nls\n```\n",
        "<!--needs: gpu-->\n```sh\nls\n```\n",
        "<!-- needs: gpu -->\n\n```sh\nls\n```\n",
        "Text <!-- needs: gpu -->\n```sh\nls\n```\n",
        "<!-- exit: three -->\n```sh\nls\n```\n",
        "<!-- exit: 3 -->\n```toml\nname = 1\n```\n",
        "<!-- exit: 3 -->\n<!-- needs: gpu -->\n```sh\nls\n```\n",
        "<!-- file: ../x.py -->\n```python\nx = 1\n```\n",
        "<!-- file: x.sh -->\n```sh\nls\n```\n",
        "<!-- run -->\n```sh\nls\n```\n",
    ],
)
def test_a_wrong_marker_is_reported(text: str) -> None:
    assert [*wrong_comments(text, ROOT / "docs" / "page.md")]


def test_right_markers_are_not_reported() -> None:
    text = (
        "<!-- needs: gpu -->\n```sh\nls\n```\n<!-- exit: 3 -->\n<!-- until: step -->\n```sh\nls\n```\n"
        "<!-- file: a/x.py -->\n```python\nx = 1\n```\n<!-- code: x.py X -->\n<!-- end -->\n"
        "```text\n<!-- nothing -->\n```\n"
    )
    assert not [*wrong_comments(text, ROOT / "docs" / "page.md")]


def test_a_page_is_parsed_into_blocks_with_markers_and_outputs() -> None:
    text = (
        "<!-- exit: 3 -->\n```sh\nfalse\n```\n\n```\nno\n```\n\nText\n\n```\ntext\n```\n"
        "\n1. List\n\n   ```sh\n   ls\n   ```\n"
    )
    blocks, _ = parse(text, ROOT / "page.md")
    assert [(block.language, block.text, block.output, block.line) for block in blocks] == [
        ("sh", "false\n", "no\n", 2),
        ("", "text\n", None, 12),
        ("sh", "ls\n", None, 18),
    ]
    assert blocks[0].marker("exit") == "3"


def test_commands_are_split_as_the_shell_reads_them() -> None:
    text = (
        "# a comment\nls \\\n  -l\nx='a\nb'\n\nwhile true; do\n  break\ndone\ncat <<END\nls\nEND\n"
        'echo "$(pwd)" # (\nf() {\n  ls\n}\n'
    )
    block = Block(ROOT / "page.md", 1, "sh", text)
    loop, document, function = "while true; do\n  break\ndone", "cat <<END\nls\nEND", "f() {\n  ls\n}"
    assert commands_of(block) == ["ls \\\n  -l", "x='a\nb'", loop, document, 'echo "$(pwd)" # (', function]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_generated_block_ends_before_the_next_begins(page: Path) -> None:
    _, comments = parse(page.read_text(encoding="utf-8"), page)
    marks = [comment for comment in comments if comment.name in {*GENERATORS, "end"}]
    assert all(mark.name in GENERATORS for mark in marks[::2]), marks
    assert all(mark.name == "end" for mark in marks[1::2]), marks
    assert len(marks) % 2 == 0, f"{marks[-1]} has no end"


# Forms


@pytest.mark.parametrize("page", sorted(TUTORIAL.glob("0*.md")), ids=ids)
def test_a_page_of_the_tutorial_ends_with_an_exercise_and_its_solution(page: Path) -> None:
    headings = re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[-3:] == ["Exercise", "Solution", "Where to go next"]


@pytest.mark.parametrize("page", sorted(set(CONCEPTS.glob("*.md")) - {CONCEPTS / "index.md"}), ids=ids)
def test_a_concept_has_lines_of_code_and_a_figure(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.search(r"^<!-- code: .*\.py ", text, re.MULTILINE)
    assert IMAGE.search(text)
    assert {"What goes wrong", "Try it", "Sources"} <= set(re.findall(r"^## (.*)$", text, re.MULTILINE))


# Fences


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_block_of_commands_runs_or_says_what_it_needs(page: Path) -> None:
    for block in blocks_of(page):
        if block.generated:
            continue
        is_other_shell = block.language in OTHER_SHELLS
        assert block.language in LANGUAGES or is_other_shell, f"{block}: unknown language {block.language}"
        is_marked = block.marker("needs") or block.marker("file")
        assert not is_other_shell or is_marked, f"{block}: no `sh`, and no marker `needs` or `file`"
        if block.language in ("", "text") and not block.marker("file"):
            assert not TYPED.search(block.text), f"{block}: commands belong into a block `sh`"


# Lengths, figures, links to lines


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_page_is_no_longer_than_300_lines(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, lines


def images_of(page: Path) -> Iterator[tuple[str, str]]:
    """The alternative text and the target of each image; of HTML both are empty."""
    text = "\n".join(line for _, line in outside_blocks(page.read_text(encoding="utf-8")))
    for image in IMAGE.finditer(text):  # its alternative text may be on two lines
        yield image["alt"] or "", image["target"] or ""


def test_every_figure_is_embedded_in_a_page() -> None:
    embedded = {(page.parent / target).resolve() for page in PAGES for _, target in images_of(page)}
    figures = {path.resolve() for path in (ROOT / "docs" / "figures").iterdir()}
    assert not (unused := sorted(path.name for path in figures - embedded)), unused


def test_every_drawing_has_the_module_that_draws_it() -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "docs" / "drawing" / "figures").glob("[a-z]*.py")}
    drawings = {path.stem for path in (ROOT / "docs" / "figures").glob("*.svg")}
    assert drawings == modules, drawings ^ modules


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_image_says_what_is_seen(page: Path) -> None:
    for alt, target in images_of(page):
        assert len(alt.split()) >= 2, f"{target or 'an <img>: write ![what is seen](file)'}: {alt!r}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_link_to_a_line_has_the_name_that_is_defined_there(page: Path) -> None:
    for _, line in outside_blocks(page.read_text(encoding="utf-8")):
        for link in LINE_LINK.finditer(line):
            assert not (problem := wrong_link(page, link)), f"{link[0]}: {problem}"


def wrong_link(page: Path, link: re.Match[str]) -> str:
    name = NAME.fullmatch(link["text"])
    if not name:
        return "the text is not the name of a definition in backticks"
    found = lines_of(page.parent / link["path"], name["name"])
    return "" if int(link["line"]) in found else f"the definition is on {found}; `make pages` rewrites the number"


def lines_of(path: Path, name: str) -> list[int]:
    """The lines on which a dotted name is defined."""
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    *owners, last = name.split(".")
    for owner in owners:
        body = [inner for node in body if isinstance(node, ast.ClassDef) and node.name == owner for inner in node.body]
    if not owners:  # a method needs no class where only one class has it
        body += [inner for node in body if isinstance(node, ast.ClassDef) for inner in node.body]
    return [node.lineno for node in body if last in defined(node)]


def defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_a_wrong_link_to_a_line_is_reported() -> None:
    page, path = ROOT / "docs" / "page.md", "../tests/handbook/test_pages.py"
    (line,) = lines_of(Path(__file__), "lines_of")
    link = "[{}](" + path + "#L{})"
    cases = {("`lines_of`", line): True, ("`lines_of(path, name)`", line): True, ("`lines_of`", line + 1): False}
    cases |= {(f"line {line}", line): False, ("`Block.text`", line): False, ("`MOST_LINES`", 1): False}
    for (text, number), right in cases.items():
        match = LINE_LINK.fullmatch(link.format(text, number))
        assert match
        assert bool(wrong_link(page, match)) is not right, text
