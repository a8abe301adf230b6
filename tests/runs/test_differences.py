"""In what two runs differ, section by section."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.runs.differences import RunDifferences, compare_folders
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.index import read_run
from tests.runs.listed_runs import make_listed_run

ORIGIN: dict[str, Any] = {
    "components": {"model": "nanogpt-kit/gpt", "model.mlp": "local file/mine", "optimizer": "lion-kit/lion"},
    "distributions": {"nanogpt-kit": "0.2.0", "lion-kit": "1.0", "torch": "2.12.0"},
    "machine": {"host": "here", "python": "3.12", "precision": "bf16", "threads": 2, "choices": {"model": "fast"}},
    "git": {"commit": "abc", "dirty": False},
    "data": {
        "folder": "x",
        "dataset": "d" * 64,
        "tokenizer": "t" * 64,
        "splits": {"train": "1", "val": "2"},
        "counted": None,
    },
}


def differences(first: RunFolder, second: RunFolder) -> RunDifferences:
    return compare_folders(read_run(first), read_run(second))


def with_component(run: RunFolder, text: str) -> RunFolder:
    (run.path / "components").mkdir()
    (run.path / "components" / "mine.py").write_text(text)
    return run


def test_a_copy_differs_in_nothing() -> None:
    one, two = (with_component(make_listed_run(f"a/{name}", **ORIGIN), "x = 1\n") for name in ("one", "two"))
    found = differences(one, two)
    assert (found.options, found.code, found.sources, found.data, found.environment, found.metrics) == ({},) * 6
    assert (found.steps, found.unrecorded) == ((20, 20), {})


def test_each_section_has_the_values_of_both() -> None:
    one = with_component(make_listed_run("a/one", code="k" * 64, **ORIGIN), "x = 1\ny = 2\n")
    changed = {
        **ORIGIN,
        "components": {**ORIGIN["components"], "model": "nanogpt-kit/wide"},
        "distributions": {"nanogpt-kit": "0.2.0", "lion-kit": "1.1", "torch": "2.13.0"},
        "machine": {**ORIGIN["machine"], "threads": 3, "choices": {"model": "slow"}},
        "git": {"commit": "def", "dirty": True},
        "data": {
            **ORIGIN["data"],
            "tokenizer": "u" * 64,
            "splits": {"train": "1", "val": "3"},
            "counted": {"val": "4"},
        },
    }
    two = make_listed_run(
        "a/two", {"optimizer.lr": 0.5, "model.bias": True}, loss=2.0, step=17, code="l" * 64, **changed
    )
    (with_component(two, "x = 1\ny = 3").path / "dirty.patch").write_text("diff")
    found = differences(one, two)
    assert found.options == {"optimizer.lr": (0.001, 0.5), "model.bias": (None, True)}
    assert found.code.keys() == {"model", "model.mlp", "optimizer", "all code"}
    assert found.code["model"] == ("nanogpt-kit/gpt 0.2.0", "nanogpt-kit/wide 0.2.0")
    assert found.code["optimizer"] == ("lion-kit/lion 1.0", "lion-kit/lion 1.1")
    hashes = found.code["model.mlp"]
    assert all(text.startswith("local file/mine sha256 ") for text in hashes)
    assert "--- a/one/components/mine.py\n+++ a/two/components/mine.py\n" in found.sources["mine.py"]
    assert "\n-y = 2\n+y = 3\n" in found.sources["mine.py"]
    assert found.data == {"tokenizer": ("t" * 12, "u" * 12), "tokens of val": ("2", "3"), "marks of val": (None, "4")}
    assert found.environment.pop("dirty.patch")[0] is None
    assert found.environment == {
        "lion-kit": ("1.0", "1.1"),
        "torch": ("2.12.0", "2.13.0"),
        "threads": (2, 3),
        "choices.model": ("fast", "slow"),
        "commit": ("abc", "def"),
        "changed since the commit": (False, True),
    }
    assert found.metrics["val/loss"] == (2.5, 2.0)
    assert found.steps == (20, 16)


def test_what_a_folder_does_not_record_is_named_and_not_compared() -> None:
    one, two = make_listed_run("a/one", **ORIGIN), make_listed_run("a/two")
    (two.path / "metrics.jsonl").write_text("")
    found = differences(one, two)
    assert found.unrecorded == {section: ["a/two"] for section in ("code", "data", "environment", "metrics")}
    assert (found.code, found.data, found.environment, found.metrics) == ({}, {}, {}, {})


def test_a_component_file_of_one_run_is_shown_whole() -> None:
    one, two = with_component(make_listed_run("a/one"), "x = 1\n"), make_listed_run("a/two")
    assert differences(one, two).sources["mine.py"].endswith("@@ -1 +0,0 @@\n-x = 1\n")
