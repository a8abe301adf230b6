"""What newcomers write into a file: one mistake is one error, and its line names what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., object]

MISTAKES = {  # what is in the file -> what is written instead, and the error without the file
    "steps = 20": [
        ("step = 20", "28: train.step: unknown key; did you mean 'steps'?"),
        ("max_iters = 20", "28: train.max_iters: unknown key; did you mean train.steps?"),
        ("epochs = 3", "28: train.epochs: unknown key; did you mean train.steps (epochs x training tokens / "),
        ("steps = 10k", "28: train.steps: not TOML: "),
    ],
    "batch_tokens = 80": [("batch_size = 5", "29: train.batch_size: unknown key; did you mean train.batch_tokens (")],
    "[train]": [("[trian]", "27: trian: unknown key; did you mean 'train'?")],
    "[model]": [("[modle]", "10: modle: unknown key; did you mean 'model'?")],
    "[optimizer]": [("[optim]", "19: optim: unknown key; did you mean 'optimizer'?")],
    'name = "tiny"': [("nmae = 'tiny'", "1: nmae: unknown key; did you mean 'name'?")],
    "lr = 3e-3": [
        ("lr = '3e-3'", "21: optimizer.lr: should be a number, got '3e-3'; write 3e-3 without quotes"),
        (
            "lr = 1e-4.0",
            "21: optimizer.lr: not TOML: Expected newline or end of document after a statement: an exponent",
        ),
    ],
    "[sample]": [
        (
            "[callback]\nconsole = false\n[sample]",
            """42: callback.console: to leave a component out, give the list without""",
        ),
        ("[sampler]\ntemp = 0.5\n[sample]", "did you mean 'temperature'?"),
        (
            "[optimizer.group]\nmatch = 'wte'\n[sample]",
            "41: optimizer.group: should be a list, as in [[optimizer.group]], got {",
        ),
        ("[sample]\nstop = 'x'", """42: sample.stop: should be a list, as in stop = ["x"], got 'x'"""),
    ],
}


@pytest.mark.parametrize(
    ("old", "new", "error"), [(old, *mistake) for old, mistakes in MISTAKES.items() for mistake in mistakes]
)
def test_the_only_error_names_the_remedy(old: str, new: str, error: str, tiny: Path, command: Command) -> None:
    text = tiny.read_text(encoding="utf-8")
    assert old in text
    tiny.write_text(text.replace(old, new, 1), encoding="utf-8")
    answer = command("check", tiny)
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert line.startswith(f"error: {tiny}:")
    assert error in line


def test_an_option_that_is_missing_besides_is_an_error_of_its_own(tiny: Path, command: Command) -> None:
    text = tiny.read_text(encoding="utf-8").replace("steps = 20", "threads_ = 20", 1)
    tiny.write_text(text, encoding="utf-8")
    answer = command("check", tiny)
    assert [
        part for part in ("2 errors", "train.steps: missing", "did you mean 'threads'?") if part not in answer.err
    ] == []
