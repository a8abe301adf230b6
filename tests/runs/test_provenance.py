"""provenance.json records where a run came from; what is not such a record is refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs import provenance
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.provenance import Machine, Provenance, TrainingData
from nanogpt_kit.runs.working_tree import GitState
from nanogpt_kit.train import session

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def recorded(tmp_path: Path, tiny: Path) -> RunFolder:
    """A folder that has only a provenance.json."""
    run = RunFolder(tmp_path / "recorded")
    run.path.mkdir()
    experiment = Experiment.load(tiny)
    origin = Provenance(
        command="nanogpt-kit run",
        folder=str(tmp_path),
        started="2026-01-02T03:04:05Z",
        seed=3,
        fingerprint=experiment.fingerprint(),
        configuration=experiment.configuration(),
        code="",
        components={},
        distributions={},
        machine=Machine.of_this_machine(),
    )
    run.write_provenance(origin)
    return run


@needs_git
def test_provenance_records_command_code_components_and_data(
    repository: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "argv", ["nanogpt-kit", "run", "two words.toml"])
    experiment = Experiment.load(tiny, ["train.seed=29"])
    data = TrainingData(folder="data", dataset="print", tokenizer="print", splits={}, documents={})
    values, patch = provenance.collect_provenance(experiment, Machine.of_this_machine(device="cpu"), data=data)
    assert values.command == "nanogpt-kit run 'two words.toml'"
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, check=True, text=True
    )
    assert values.git is not None
    assert values.git.commit == head.stdout.strip()
    assert patch == b""
    assert values.seed == 29
    assert values.fingerprint == experiment.fingerprint()
    assert values.data == data
    assert values.machine.device == "cpu"
    assert values.components["model.attention"] == "nanogpt-kit/sdpa"
    assert {"nanogpt-kit", "torch", "numpy"} <= set(values.distributions)
    values.write(repository / "provenance.json")
    assert Provenance.read(repository / "provenance.json") == values
    assert json.loads((repository / "provenance.json").read_text())["format"] == 2


def test_file_names_that_are_not_utf8_are_read_as_they_were_written(recorded: RunFolder) -> None:
    name, state = os.fsdecode(b"a\xff.py"), recorded.provenance().git
    assert state is None
    git = GitState(commit="c", dirty=True, left_out=(name,), left_out_count=1)
    origin = recorded.provenance().model_copy(update={"folder": os.fsdecode(b"/d\xff"), "git": git})
    recorded.write_provenance(origin)
    assert recorded.provenance() == origin
    assert git.describe_left_out() == r"1 file not in the commit or too large (a\udcff.py)"


DAMAGED: dict[str, tuple[dict[str, object], str]] = {
    "another format": ({"format": 3}, "is of format 3, and this version of nanogpt-kit reads format 2"),
    "no format": ({"format": None}, "does not name its format"),
    "a seed in words": ({"seed": "3"}, "seed"),
    "an unknown key": ({"weather": "fine"}, "weather"),
    "data of another kind": ({"data": [1]}, "data"),
    "data without its hashes": ({"data": {"folder": "data"}}, "data.dataset"),
}


@pytest.mark.parametrize(("changes", "says"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_record_that_is_damaged_or_of_another_format_is_refused_in_a_sentence(
    recorded: RunFolder, changes: dict[str, object], says: str
) -> None:
    path = recorded.path / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(KitError) as caught:
        recorded.provenance()
    assert all(part in str(caught.value) for part in (str(recorded), "provenance.json", says))
    assert (recorded.seed(), recorded.started()) == (None, "")


def test_a_run_folder_of_another_format_is_not_resumed(tiny: Path) -> None:
    options = ["callback=[]", "sample.num_samples=0", "schedule=constant"]
    run = session.run(Experiment.load(tiny, [*options, "train.steps=1"]))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    path = run.path / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    with pytest.raises(KitError, match=r"provenance\.json is of format 3, and this version .* reads format 2"):
        session.run(Experiment.load(tiny, [*options, "train.steps=2"]), resume=str(run))
    assert run.status().step == 1
    assert {file: file.read_bytes() for file in before if file != path} == {
        file: content for file, content in before.items() if file != path
    }


def test_an_imported_model_is_no_result_of_its_configuration(recorded: RunFolder) -> None:
    origin = recorded.provenance()
    assert origin.data is None
    assert not origin.is_duplicable
    assert origin.yardstick("val/loss") == ""
