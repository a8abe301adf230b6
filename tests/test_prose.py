"""The words of the package: no idioms that a reader stumbles over, no vague names, descriptions that read alone."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
import typing
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nanogpt_kit
from nanogpt_kit import api
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "nanogpt_kit").rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "plugins").glob("*/README.md"))
HEADERS = sorted((ROOT / "experiments").glob("*.toml"))

GENERATED = re.compile(
    r"<!-- (?!needs|file|exit|until)[a-z]+: [^>]* -->.*?<!-- end -->", re.DOTALL
)  # which repeats what the code says

# An idiom, as a regular expression that ignores case, and what to write instead
IDIOMS = {
    r"(?<!there )\b(is|are|was|were) no (?!longer|more|less|better|worse|faster|slower|later)": "is not",
    r"\b(go|goes|gone|going|went) on\b": "continues, resumes",
    r"(?<!one )\bat a time\b": "at once, in a batch",
    r"\bbut for\b": "except",
    r"\bwants\b": "needs, requires",
    r"\b(tell|tells|telling|told)\b(?! (\w+ )?apart)": "reports, logs, says which",
    r"\bof (its|their) own\b(?! (?!and|or|in|at|for|that|which|with|where)\w)": "its own, separate",
    r"\bin vain\b": "without effect",
    r"\bby then\b": "at that time",
    r"\bso many\b": "that many, 1 / n of",
    r"\banew\b": "again",
    r"\bwho may see whom\b": "which positions attend to which",
    r"\bto the bit\b": "bit for bit",
    r"\bat work\b": "running, used by another process",
    r"\bno numbers?\b": "not finite",
    r"\bwithout a word\b": "without reporting a status",
    r"\b(lie|lies) (in|at|below|beside)\b": "is in",
    r"\b(speak|spoken)\b": "run, report",
    r"\b(hears|heard)\b": "is called, receives",
    r"\bwhere wanted\b": "optional",
    r"\b(is|be|are) had\b": "is available",
    r"(?<!other )\bin words\b": "as text",
    r"\b(a|the|its|whole|each|largest|in|two|of) shares?\b": "fraction, chunk",
    r"\bof the draws\b": "for sampling",
    r"\bsays? (it|so) itself\b": "declares",
}
# Where one of them is right, or is quoted: a part of the file's path, and a part of the line
ALLOWED = [
    ("CONTRIBUTING.md", "|"),  # the glossary names the words that are not used
]

# What a function or class may be called in one module, and not in two
VAGUE = set(
    """
    again all alternatives apart ask asked begin build cause check checked choose chosen clear close count cut data
    describe draw end entry explain facts file find finish folder forget format found get give held info item items
    keep kept key kind label line lines listed load make measure measured memory name names number one open options
    other own part parts parse path pick piece place plan put read ready rest result results run save say says score
    see seen shares show shown size split start state stop take taken tell text time times timing together told
    total value values wanted whole words work write written
    """.split()  # noqa: SIM905
)

LONGEST_DESCRIPTION = 110  # characters: one line of `plugins show`


def listing(found: Iterable[tuple[str, str]]) -> str:
    """The violations of each file, one on a line."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for file, what in found:
        by_file[file].append(what)
    lines = [
        f"{file} ({len(what)})\n" + "".join(f"    {one}\n" for one in what) for file, what in sorted(by_file.items())
    ]
    return f"{sum(map(len, by_file.values()))} in {len(by_file)} files\n{''.join(lines)}"


def texts_of_code(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings, docstrings among them, each line with its number."""
    source = path.read_text(encoding="utf-8")
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            text = re.sub(r"\{[^{}]*\}", "{}", token.string) if re.match(r"[rR]?[fF]", token.string) else token.string
            for offset, line in enumerate(text.splitlines()):
                yield token.start[0] + offset, line


def texts(path: Path) -> Iterator[tuple[int, str]]:
    if path.suffix == ".py":
        yield from texts_of_code(path)
        return
    text = GENERATED.sub(lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"))
    for number, line in enumerate(text.splitlines(), start=1):
        comment = line.partition("#")[2] if path.suffix == ".toml" else line
        if comment:
            yield number, comment


def idioms(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """What is banned: file, and line with the words and what to write instead."""
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        for number, line in texts(path):
            if any(part in name and words in line for part, words in ALLOWED):
                continue
            for idiom, better in IDIOMS.items():
                for match in re.finditer(idiom, line, re.IGNORECASE):
                    yield name, f"{number}: {match[0]!r}; better: {better}"


def test_the_package_has_no_banned_idiom() -> None:
    found = list(idioms(PACKAGE))
    assert not found, listing(found)


def test_the_documentation_and_the_experiments_have_no_banned_idiom() -> None:
    found = list(idioms([*PAGES, *HEADERS]))
    assert not found, listing(found)


def test_the_check_of_idioms_catches_them_and_spares_good_english(tmp_path: Path) -> None:
    bad = ["x is no file", "the run goes on", "all but for one", "it wants a key", "it is told", "resumed to the bit"]
    good = ["there is no file", "it is no longer there", "one at a time", "nothing tells them apart", "bit for bit"]
    for line in (*bad, *good):
        found = [idiom for idiom in IDIOMS if re.search(idiom, line, re.IGNORECASE)]
        assert bool(found) == (line in bad), (line, found)


def vague_names() -> Iterator[tuple[str, str]]:
    """Vague module-level names that two or more modules define.

    Verbs of the command line and components are named after their files.
    """
    homes: dict[str, list[Path]] = defaultdict(list)
    for path in PACKAGE:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            is_named_after_file = node.name.lower() == path.stem.replace("_", "")
            if node.name.lower().strip("_") in VAGUE and not is_named_after_file:
                homes[node.name].append(path)
    for name, paths in homes.items():
        if len(paths) > 1:
            yield from ((path.relative_to(ROOT).as_posix(), name) for path in paths)


def test_no_vague_name_is_defined_in_two_modules() -> None:
    found = list(vague_names())
    assert not found, listing(found)


def test_the_glossary_has_each_word_once() -> None:
    _, _, glossary = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Glossary")
    words = [word.strip() for word in re.findall(r"^\| (.*?) \|", glossary, re.MULTILINE)]
    words = [re.split("[;,]", word)[0] for word in words]
    assert {"arm", "format"} <= set(words)
    assert [word for word, count in Counter(words).items() if count > 1] == []


def models() -> Iterator[type[Options]]:
    """Every section and every built-in component."""

    def below(annotation: Any) -> Iterator[type[Options]]:
        if inspect.isclass(annotation) and issubclass(annotation, Options) and "kind" not in vars(annotation):
            yield annotation
        for part in typing.get_args(annotation):
            yield from below(part)

    yield Experiment
    for field in Experiment.model_fields.values():
        yield from below(field.annotation)
    for entry in Registry.installed().entries:
        if entry.distribution == KIT_DISTRIBUTION:
            module, _, name = entry.target.partition(":")
            yield getattr(__import__(module, fromlist=[name]), name)


def is_slot(annotation: Any) -> bool:
    """Whether its kind describes it: `norm: Norm`, `sampler: tuple[Sampler, ...]`."""
    if inspect.isclass(annotation):
        return issubclass(annotation, Component)
    return any(is_slot(part) for part in typing.get_args(annotation))


def descriptions() -> Iterator[tuple[str, str]]:
    for model in models():
        for name, field in model.model_fields.items():
            owner = next(cls for cls in reversed(model.__mro__) if name in vars(cls).get("__annotations__", {}))
            text = field.description or ""
            described_elsewhere = is_slot(field.annotation) or (
                inspect.isclass(field.annotation) and issubclass(field.annotation, Options)
            )
            if not text and not described_elsewhere and not (model is Experiment and name in ("sweep", "ablate")):
                yield owner.__module__, f"{name}: no description"
            if re.match(r"(of|whether)\b", text, re.IGNORECASE):
                yield owner.__module__, f"{name}: begins with {text.split()[0]!r}: {text}"
            if len(text) > LONGEST_DESCRIPTION:
                yield owner.__module__, f"{name}: {len(text)} characters: {text}"


def test_every_description_of_an_option_reads_alone_on_one_line() -> None:
    found = sorted(set(descriptions()))
    assert not found, listing(found)


def test_every_public_function_and_class_has_a_docstring() -> None:
    found = []
    for module in (nanogpt_kit, api):
        for name in module.__all__:
            value = getattr(module, name)
            is_ours = getattr(value, "__module__", "").startswith("nanogpt_kit")
            text = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", "")
            if is_ours and (inspect.isclass(value) or inspect.isfunction(value)):
                generated = (text or "").startswith(f"{name}(")  # by dataclass
                if not text or generated:
                    found.append((value.__module__, name))
    assert not found, listing(found)
