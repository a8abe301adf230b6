"""A task is measured once on a machine; its figures are kept for every later process, or the user decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.machine_choices import CALIBRATION, MachineChoices, Task
from nanogpt_kit.nn import measured_choices
from nanogpt_kit.nn.measured_choices import (
    Calibration,
    calibration_file,
    current_conditions,
    starting_choices,
    with_measured,
)


def task(*names: str, name: str = "task") -> Task:
    return Task(name, {one: lambda: lambda: None for one in names})


class Measuring:
    """In place of `measure`: figures by the name of the candidate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[str, float] | None = {"rule": 2.0, "fast": 1.0, "slow": 3.0}
        self.measured: list[str] = []
        monkeypatch.delenv(CALIBRATION)
        monkeypatch.setattr(measured_choices, "measure", self)
        monkeypatch.setattr(measured_choices, "spent", 0.0)

    def __call__(self, tasks: list[Task], budget: float) -> dict[str, dict[str, float]] | None:
        self.measured += [task.name for task in tasks]
        if self.seconds is None:
            return None
        return {task.name: {name: self.seconds[name] for name in task.candidates} for task in tasks}


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> Measuring:
    return Measuring(monkeypatch)


def test_a_task_is_measured_once_and_kept_for_other_processes(measuring: Measuring) -> None:
    first = with_measured(MachineChoices(), [task("rule", "fast", "slow")])
    assert first.choices == {"task": "fast"}
    measuring.seconds = {"rule": 1.0, "fast": 2.0, "slow": 3.0}
    again = with_measured(MachineChoices(), [task("rule", "fast", "slow"), task("rule", "fast", name="new")])
    assert again.choices == {"task": "fast", "new": "rule"}
    assert measuring.measured == ["task", "new"]
    record = json.loads(calibration_file(current_conditions()).read_text(encoding="utf-8"))
    assert record["format"] == 1
    assert record["conditions"]["torch"]
    assert record["tasks"]["task"] == {"rule": 2.0, "fast": 1.0, "slow": 3.0}


def test_nothing_is_measured_that_is_not_kept_yet_where_measuring_is_off(measuring: Measuring) -> None:
    assert with_measured(MachineChoices(), [task("rule", "fast")], measures=False).choices == {}
    assert with_measured(MachineChoices(is_closed=True), [task("rule", "fast")]).choices == {}
    assert not measuring.measured


def test_a_disturbed_calibration_leaves_rules_and_is_not_kept(measuring: Measuring) -> None:
    measuring.seconds = None
    assert with_measured(MachineChoices(), [task("rule", "fast")]).choices == {}
    assert not calibration_file(current_conditions()).exists()
    measuring.seconds = {"rule": 2.0, "fast": 1.0}
    assert with_measured(MachineChoices(), [task("rule", "fast")]).choices == {"task": "fast"}


@pytest.mark.parametrize("change", ["capability", "torch", "threads", "cpu", "wait_policy"])
def test_figures_hold_only_for_the_conditions_they_were_measured_in(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with_measured(MachineChoices(), [task("rule", "fast")])
    now = current_conditions()
    other = now.model_copy(update={change: now.threads + 1 if change == "threads" else "another"})
    monkeypatch.setattr(measured_choices, "current_conditions", lambda: other)
    with_measured(MachineChoices(), [task("rule", "fast")])
    assert measuring.measured == ["task", "task"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 2}', b"\xff", b'{"format": 1, "tasks": {"task": {"fast": -1}}}']
)
def test_a_damaged_file_is_measured_again(measuring: Measuring, content: bytes) -> None:
    file = calibration_file(current_conditions())
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert with_measured(MachineChoices(), [task("rule", "fast")]).choices == {"task": "fast"}
    assert json.loads(file.read_text(encoding="utf-8"))["tasks"]


def test_figures_of_candidates_that_no_longer_exist_are_measured_again(measuring: Measuring) -> None:
    with_measured(MachineChoices(), [task("rule", "slow", "fast")])
    assert with_measured(MachineChoices(), [task("rule", "slow")]).choices == {"task": "rule"}
    assert with_measured(MachineChoices(), [task("slow", "rule")]).choices == {"task": "rule"}  # and with another rule
    assert len(measuring.measured) == 3


def test_without_a_folder_each_process_measures(measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    for _ in range(2):
        assert with_measured(MachineChoices(), [task("rule", "fast")]).choices == {"task": "fast"}
    assert measuring.measured == ["task", "task"]


def test_the_user_may_leave_all_to_rules(measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    with_measured(MachineChoices(), [task("rule", "fast")])
    monkeypatch.setenv(CALIBRATION, "off")
    assert with_measured(MachineChoices(), [task("rule", "fast")]).choices == {}
    assert starting_choices() == MachineChoices({}, is_closed=True)


def test_the_user_may_name_a_record(measuring: Measuring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_measured(MachineChoices(), [task("rule", "fast")])
    (tmp_path / "run.json").write_text('{"format": 2, "choices": {"task": "slow"}}', encoding="utf-8")
    for file, choice in {calibration_file(current_conditions()): "fast", tmp_path / "run.json": "slow"}.items():
        monkeypatch.setenv(CALIBRATION, str(file))
        assert starting_choices() == MachineChoices({"task": choice}, is_closed=True)
        assert with_measured(MachineChoices(), [task("rule", "fast", "slow")]).choices == {"task": choice}
    assert measuring.measured == ["task"]


EMPTY_TASK = (
    Calibration(conditions=current_conditions(), tasks={"a": {"b": 1}}).model_dump_json().replace('"b":1.0', "")
)


def test_a_candidate_of_a_named_record_that_is_none_is_reported(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run.json").write_text('{"choices": {"task": "fp64"}}', encoding="utf-8")
    monkeypatch.setenv(CALIBRATION, str(tmp_path / "run.json"))
    with_measured(starting_choices(), [task("rule", "fast")])
    assert "run.json chooses 'fp64' for task, which is none of rule, fast; the rule chooses" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        *(None, "{", "[]", '"tasks"', "[" * 100_000, '{"choices": []}', '{"choices": {"a": null}}'),
        *('{"tasks": {}}', '{"tasks": {"a": {"b": "c"}}}', EMPTY_TASK),
    ],
)
def test_a_record_that_cannot_be_read_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "record.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    monkeypatch.setenv(CALIBRATION, str(file))
    with pytest.raises(KitError, match=CALIBRATION) as caught:
        starting_choices()
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
