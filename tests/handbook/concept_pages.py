"""What the pages of the concepts say, their text and the rows of their tables; and the size of GPT-2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanogpt_kit import Experiment
from nanogpt_kit.nn.flops import ModelSize, model_size

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts"


def text_of(name: str) -> str:
    """The text of a page with single spaces."""
    return " ".join((CONCEPTS / f"{name}.md").read_text(encoding="utf-8").split())


def row(page: str, first: str) -> list[str]:
    """The cells after the first one of the row of a table that begins with it."""
    lines = (CONCEPTS / f"{page}.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def rounded(values: Sequence[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]


def gpt2() -> ModelSize:
    size = model_size(Experiment.load("owt_gpt2").model, 50257)
    assert size is not None
    return size
