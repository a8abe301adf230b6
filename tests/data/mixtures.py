"""Mixtures of small texts, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanogpt_kit.core.experiment import Experiment


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def sentences(word: str, count: int) -> list[str]:
    """Documents of 30 to 80 letters, each another one."""
    return [f"{word} {number}: " + f"{word[: 1 + number % 4]} " * (8 + number % 9) for number in range(count)]


def mixture(tiny: Path, **parts: Any) -> Experiment:
    """`tiny` on a mixture of jsonl files; a part is the texts of one, or options of [[dataset.part]] with "texts"."""
    tables = []
    for name, options in parts.items():
        table = dict(options) if isinstance(options, dict) else {"texts": options}
        if "texts" in table:
            file = write_lines(tiny.parent / f"{name}.jsonl", table.pop("texts"))
            table["dataset"] = {"use": "text", "source": str(file), **table.get("dataset", {})}
        tables.append({"name": name, **table})
    return Experiment.load(tiny).with_(dataset={"use": "mixture", "part": tables})


def alone(tiny: Path, name: str, **options: Any) -> Experiment:
    """`tiny` on the file of one part of a mixture that was made before."""
    source = str(tiny.parent / f"{name}.jsonl")
    return Experiment.load(tiny).with_(dataset={"use": "text", "source": source, **options})
