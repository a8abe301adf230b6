"""`bench --nanogpt` on the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.bench import nanogpt_generation, nanogpt_training
from tests.bench.small_nanogpt import TRAIN, write_checkout
from tests.cli.test_json_output import TABLE

Command = Callable[..., Any]
FEW = ("--rounds", 2, "--seconds", "0.01", "train.precision=fp32", "train.compile=off", "callback=[]")
GIVEN = os.environ.get("NANOGPT_KIT_TEST_NANOGPT")  # a checkout of nanoGPT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return write_checkout(tmp_path / "theirs")


@pytest.mark.slow
def test_training_is_compared_in_a_table_with_both_ways_of_waiting(
    command: Command, tiny: Path, checkout: Path
) -> None:
    answer = command("bench", tiny, *FEW, "--nanogpt", checkout)
    assert answer.code == 0, answer.err
    header, rule, row = [line for line in answer.out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, rule, row)]
    names = ["nanoGPT, idle threads asleep", "nanoGPT, OpenMP's default", "fp32, not compiled", "ratios"]
    assert cells[0] == ["experiment", *names]
    assert cells[1] == ["---"] * 5
    assert cells[2][0].startswith("`tiny train.precision=fp32 train.compile=off")  # as it can be repeated
    assert cells[2][0].endswith("`: 2 layers, 24 wide, 5 windows of 16 tokens")
    assert len(re.findall(r"\d\.\d\d \(\d", cells[2][4])) == 2  # to each of both
    assert re.search(
        r"\d cores? of .+, torch \d.+, 20\d\d-\d\d-\d\d\nnanoGPT of unknown commit, nanogpt-kit \d", answer.out
    )
    assert "number of parameters" not in answer.out
    assert sorted(path.name for path in checkout.iterdir()) == ["configurator.py", "model.py", "train.py"]


@pytest.mark.slow
def test_other_parts_are_named_and_compared_with_those_of_nanogpt(
    command: Command, tiny: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nanogpt_training, "policies", lambda device: ("default",))
    options = "print(n_layer, n_head, n_embd, block_size, learning_rate, file=open('options', 'w'))\n"
    write_checkout(checkout, train=TRAIN.replace("assert (device", f"{options}assert (device"))
    loss = ("model.loss={ use = 'cross_entropy', label_smoothing = 0.1 }", "model.document_mask=true")
    stream = ("model.bf16_residual=true", "train.precision=bf16")
    parts = ("model.position=rope", "model.norm=rmsnorm", "optimizer=muon", *loss, *stream)
    answer = command("bench", tiny, *FEW, *parts, "--nanogpt", checkout, "--json")
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert set(TABLE["bench --nanogpt"][1]) == report.keys()
    rows = ["nanoGPT", "nanogpt-kit", "nanogpt-kit"]  # the first of the kit in fp32, without bf16_residual
    assert [row["program"] for row in report["rows"]] == rows
    assert all(len(row["rounds"]) == 2 for row in report["rows"])
    named = ("'rope'", "'rmsnorm'", "'muon'", "model.loss", "model.document_mask", "model.bf16_residual")
    assert [sum(part in line for line in report["differences"]) for part in named] == [1] * 6
    assert (checkout / "options").read_text().split() == ["2", "3", "24", "16", "0.0006"]  # its own rate, for AdamW
    assert (report["model"]["vocab_size"], report["sample"]) == (257, None)


@pytest.mark.slow
def test_what_was_timed_is_closed_before_its_process_ends(tiny: Path, checkout: Path) -> None:
    source = """
import os
from nanogpt_kit.api import Callback, hookimpl

class Closing(Callback):
    def build(self, run):
        return self

    @hookimpl
    def run_finished(self, run, status):
        os.write(2, f"closed: {status}\\n".encode())
"""
    (tiny.parent / "closing.py").write_text(source)
    changes = ('components=["closing.py"]', "callback=['closing']", "--trust-code", "--nanogpt", str(checkout))
    command = [sys.executable, "-m", "nanogpt_kit", "bench", str(tiny), *map(str, FEW[:-1]), *changes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("closed: interrupted") == 1
    assert {line.split()[0] for line in done.stderr.splitlines()} == {"preparing", "prepared", "round", "closed:"}


@pytest.mark.slow
def test_generation_is_compared_with_the_same_weights(
    command: Command, tiny: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nanogpt_generation, "policies", lambda device: ("asleep",))
    options = ("--sample", 3, "sample.max_new_tokens=7", "sample.precision=fp32", "model.bias=true", "--json")
    answer = command("bench", tiny, *FEW, *options, "--nanogpt", checkout)
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert report["greedy"] == {"tokens": 7, "equal": 7}
    assert report["sample"]["read_bytes_per_second"] > 1e8
    assert report["ratios"][0]["rounds"] == [
        ours / theirs for theirs, ours in zip(*(row["rounds"] for row in report["rows"]), strict=True)
    ]


def test_what_is_no_checkout_is_refused(command: Command, tiny: Path, tmp_path: Path) -> None:
    for nowhere in (tmp_path / "nowhere", ""):  # a shell's variable that is not set
        answer = command("bench", tiny, "--nanogpt", nowhere)
        assert (answer.code, "is not a folder" in answer.err, "git clone" in answer.err) == (2, True, True)
    answer = command("bench", tiny, "--nanogpt", tmp_path)
    assert (answer.code, "it has no model.py, train.py, configurator.py" in answer.err) == (2, True)
    answer = command("bench", tiny, "--nanogpt", tmp_path, "--vs", tiny)
    assert (answer.code, "choose one" in answer.err) == (2, True)


def test_a_temporary_folder_that_train_py_cannot_be_told_is_refused(
    command: Command, tiny: Path, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a=b").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a=b"))
    answer = command("bench", tiny, *FEW, "--nanogpt", checkout)
    assert (answer.code, "set TMPDIR to another folder than" in answer.err) == (2, True)


@pytest.mark.slow
def test_a_failing_checkout_fails_the_command(
    command: Command, tiny: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nanogpt_training, "policies", lambda device: ("default",))
    write_checkout(checkout, train="import model", model="raise ValueError('not this torch')")
    answer = command("bench", tiny, *FEW, "--nanogpt", checkout)
    assert answer.code == 1
    assert "ValueError: not this torch (model.py:1)" in answer.err


@pytest.mark.slow
@pytest.mark.data
def test_greedy_texts_are_those_of_nanogpt_itself(tiny: Path) -> None:
    if not GIVEN:
        pytest.skip("NANOGPT_KIT_TEST_NANOGPT does not say where a checkout of nanoGPT is")
    words = ["bench", str(tiny), *map(str, FEW), "--nanogpt", GIVEN, "--json"]
    for more in ([], ["--sample", "2", "sample.max_new_tokens=9", "sample.precision=fp32"]):
        answer = subprocess.run(
            [sys.executable, "-m", "nanogpt_kit", *words, *more], capture_output=True, text=True, check=True
        )
        report = json.loads(answer.stdout)
        assert len(report["rows"]) == 3
    assert report["greedy"] == {"tokens": 9, "equal": 9}
