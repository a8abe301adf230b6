"""The example of docs/guide/mixtures.md is checked, prepared and trained as it is printed there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.components.dataset import python_stdlib
from tests.data.mixtures import sentences

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "mixtures.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_example_runs(
    tiny: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a small library in place of Python's own."""
    (dataset,), (commands,) = blocks("toml"), blocks("sh")
    _, _, rest = tiny.read_text(encoding="utf-8").partition("[tokenizer]")
    (tmp_path / "my.toml").write_text(f'name = "my"\n{dataset}\n[tokenizer]{rest}', encoding="utf-8")
    for folder, word in (("notes", "note"), ("library", "def")):
        (tmp_path / folder).mkdir()
        suffix = "txt" if folder == "notes" else "py"
        for number, text in enumerate(sentences(word, 30)):
            (tmp_path / folder / f"{number}.{suffix}").write_text(text, encoding="utf-8")
    library = python_stdlib.distinct_sources(tmp_path / "library")
    monkeypatch.setattr(python_stdlib, "distinct_sources", lambda _: library)
    monkeypatch.chdir(tmp_path)
    outputs = []
    for line in commands.splitlines():
        words = line.partition("#")[0].split()[1:]
        answer = command(*words, "dataset.part.0.dataset.val_bytes=200")
        assert answer.code == 0, answer.err
        outputs.append(answer.out + answer.err)
    assert "code: 75% of the training windows, 75 in the run" in outputs[0]
    assert "notes: 25% of the training windows, 25 in the run" in outputs[1]
    assert "val/loss/code" in outputs[2]
    assert "60% code" in outputs[2]


def test_the_table_has_the_options_of_a_part() -> None:
    from nanogpt_kit.components.dataset.mixture import Part

    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(Part.model_fields)
