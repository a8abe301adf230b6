"""For each file of a run folder: what a resume and a reader say where one byte is flipped, and where half is missing.

A checkpoint's files have hashes, so that any change of them is noticed, and the checkpoint before takes its place.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

Victim = Any  # of conftest.py
NEWEST = "checkpoints/step-00000004"
EVENTS = "events.out.tfevents"  # the beginning of their names
BEFORE = "skipped checkpoint"  # and the one of step 2 is taken

# File -> what `run --into` says where a byte is flipped and where half is missing, and what `sample` says then. "" is
# exit code 0 without a word of it; BEFORE is exit code 0 with a warning; else the exit code is 1 or 2.
TABLE = {
    f"{NEWEST}/model.safetensors": ((BEFORE, BEFORE), (BEFORE, BEFORE)),
    f"{NEWEST}/training.pt": ((BEFORE, BEFORE), (BEFORE, BEFORE)),
    f"{NEWEST}/tokenizer.json": ((BEFORE, BEFORE), (BEFORE, BEFORE)),
    f"{NEWEST}/manifest.json": ((BEFORE, BEFORE), (BEFORE, BEFORE)),
    "experiment.toml": (("experiment.toml:", "experiment.toml"), ("experiment.toml:", "experiment.toml")),
    "provenance.json": (("provenance.json", "provenance.json"), ("", "")),
    "machine_choices.json": (("machine_choices.json", "machine_choices.json"), ("", "")),
    "metrics.jsonl": (("metrics.jsonl", ""), ("", "")),  # its end may be torn by a kill, its middle may not
    "status.json": (("", ""), ("", "")),  # it says what was, and nothing of a resume depends on it
    "samples.txt": (("", ""), ("", "")),  # people read it
    "dirty.patch": (("", ""), ("", "")),
    EVENTS: (("", ""), ("", "")),
    "lock": (("", ""), ("", "")),  # empty; its file is locked, not its content
}
DAMAGES = ("flip", "cut")
RARE = {"samples.txt", "dirty.patch", EVENTS, "lock"}


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif not content:
        file.write_bytes(b"\xff")
    else:  # the first bit of every kind of text: what was ASCII is not UTF-8 any more
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :])


def files(folder: Path) -> list[str]:
    """Those of the run, the newest checkpoint's only; an event file's name holds its time."""
    found = (Path(at, name).relative_to(folder).as_posix() for at, _, names in os.walk(folder) for name in names)
    return sorted(EVENTS if name.startswith(EVENTS) else name for name in found)


def test_the_table_has_every_file_of_a_run(victim: Victim) -> None:
    found = {name for name in files(victim.path) if not name.startswith("checkpoints/step-00000002")}
    assert found | {"dirty.patch"} == set(TABLE)  # there is one where the repository has changes


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=pytest.mark.slow if how == "cut" or name in RARE else ())
        for name in TABLE
        for how in DAMAGES
    ],
)
def test_a_damaged_file_of_a_run_is_named_or_does_not_matter(
    name: str, how: str, victim: Victim, caplog: pytest.LogCaptureFixture
) -> None:
    file = victim.path / name
    if name == EVENTS:
        (file,) = victim.path.glob(f"{EVENTS}.*")
    if name == "dirty.patch" and not file.exists():
        file.write_text("a patch\n")
    damage(file, how)
    expected = [says[DAMAGES.index(how)] for says in TABLE[name]]
    for verb, says in zip(("sample", "into"), reversed(expected), strict=True):  # which changes nothing, comes first
        caplog.clear()
        with caplog.at_level(logging.INFO, "nanogpt_kit"):
            answer = victim.answer(verb)
        assert "Traceback" not in answer.err
        assert says in answer.err + caplog.text
        assert (answer.code == 0) == (says in ("", BEFORE)), answer.err
