"""What commands report of a mixture: proportions, windows and passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.train import session
from tests.data.mixtures import mixture, sentences

Command = Callable[..., Any]


@pytest.fixture
def mixed(tiny: Path) -> Path:
    """100 windows: 75 of code, 25 of notes."""
    code, notes = {"texts": sentences("code", 90), "weight": 3}, {"texts": sentences("notes", 40), "weight": 1}
    tiny.write_text(mixture(tiny, code=code, notes=notes).to_toml(), encoding="utf-8")
    return tiny


def passes(path: Path) -> dict[str, float]:
    tokens = {source.name: source.n_tokens for source in prepare(Experiment.load(path)).sources_of("train")}
    return {"code": 75 / ((tokens["code"] - 1) // 16), "notes": 25 / ((tokens["notes"] - 1) // 16)}


def test_check_explains_proportions_and_once_the_data_is_prepared_the_passes(mixed: Path, command: Command) -> None:
    before = command("check", mixed, "--explain")
    assert before.code == 0, before.err
    assert "code: 75% of the training windows\nnotes: 25% of the training windows\n" in before.out
    assert "is known when its data is prepared" in before.out
    unknown = json.loads(command("check", mixed, "--json").out)["sources"]
    assert unknown["code"] == {"fraction": 0.75, "windows": None, "passes": None}
    of_run = passes(mixed)
    after = command("check", mixed, "--explain").out
    assert f"notes: 25% of the training windows, 25 in the run, which are {of_run['notes']:.3g} passes over it" in after
    assert "is known when" not in after
    known = json.loads(command("check", mixed, "--json").out)["sources"]
    assert known["code"] == {"fraction": 0.75, "windows": 75, "passes": of_run["code"]}


def test_proportions_that_depend_on_the_size_are_known_with_the_data(tiny: Path, command: Command) -> None:
    tiny.write_text(mixture(tiny, code=sentences("code", 90), notes=sentences("notes", 40)).to_toml(), encoding="utf-8")
    assert "code: a fraction that depends on its size" in command("check", tiny, "--explain").out


def test_prepare_counts_the_tokens_of_each_source(mixed: Path, command: Command) -> None:
    answer = command("prepare", mixed, "--stats", "--json")
    rows = {
        line.split()[0]: line.split()[1:] for line in answer.err.splitlines() if line.startswith(("code ", "notes "))
    }
    record = json.loads(answer.out)
    for index, name in enumerate(("code", "notes")):
        counts = [record["splits"][split]["sources"][index]["tokens"] for split in ("train", "val")]
        assert rows[name] == [f"{count:,}" for count in counts]
    assert record["sources"]["notes"]["fraction"] == 0.25


def test_a_sweep_varies_the_weight_of_a_part_on_the_same_data(mixed: Path, tmp_path: Path, command: Command) -> None:
    fast = "callback = []\n[sample]\nnum_samples = 0\n"
    space = '[sweep]\ntrials = 2\n[sweep.space]\n"dataset.part.0.weight" = { choice = [3.0, 9.0] }\n'
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(f'extends = "tiny.toml"\nname = "weights"\n{fast}{space}')
    answer = command("sweep", sweep)
    assert answer.code in (0, 3), answer.err
    assert "dataset.part.0.weight=9" in answer.out + answer.err
    assert len(list((tmp_path / "data").glob("mixture-*"))) == 1


def test_a_run_shows_its_proportions(mixed: Path, command: Command) -> None:
    folder = session.run(Experiment.load(mixed).with_({"train.steps": 8, "callback": [], "sample.num_samples": 0}))
    lines = command("runs", "show", folder.path).out.splitlines()
    (line,) = (line for line in lines if line.strip().startswith("sources "))
    assert "75% code in " in line
    assert "25% notes in " in line
