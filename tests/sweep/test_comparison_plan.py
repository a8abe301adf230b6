"""Which runs a comparison queues, which of them answer it, and what their failures end; nothing is started."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.comparison.record import Measurement
from nanogpt_kit.components.mlp import gelu
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.sweep.comparison import comparison_options
from nanogpt_kit.sweep.study.cells import Cell, required_cells
from nanogpt_kit.sweep.study.comparison import ComparisonPlan, slug, unused_name
from nanogpt_kit.sweep.study.records import CellRecord, Generation, TrialResult
from nanogpt_kit.sweep.study.runs import write_run_experiment
from nanogpt_kit.sweep.study.study import Study
from nanogpt_kit.sweep.work.controller import Controller
from nanogpt_kit.sweep.work.outcome import Outcome, failed_outcome
from nanogpt_kit.train import warm_start
from nanogpt_kit.train.stop import StopSignals

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")


@pytest.fixture
def question(tmp_path: Path) -> Question:
    """Three arms, the last of which is the base again."""
    path = tmp_path / "x.toml"
    path.write_text(BASE, encoding="utf-8")
    base = Experiment.load(path)
    return Question(
        "compare", (Arm("base", base), Arm("mlp is swiglu", base.with_("model.mlp=swiglu")), Arm("same", base))
    )


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


def cells_of(question: Question, seeds: Sequence[int], code: str = "code", text: str = "text") -> list[Cell]:
    """Without the dataset, which is nowhere."""
    arms: dict[str, Arm] = {}
    for arm in question.arms:
        arms.setdefault(arm.configuration, arm)
    return [Cell(arm, key, code, text, seed) for seed in seeds for key, arm in arms.items()]


def opened(
    question: Question, cells: Sequence[Cell], storage: InMemoryStorage, folder: Path, again: bool = False
) -> Study[ComparisonPlan]:
    """As a command does that starts, or starts again."""
    folder.mkdir(exist_ok=True)
    plan = ComparisonPlan(question, cells, comparison_options(question, 1, "journal"), again)
    study = Study(plan, storage, folder)
    study.open()
    return study


def names(study: Study[ComparisonPlan]) -> list[str]:
    """The folders of the runs that are left to do."""
    return [record.run for trial in study.unfinished() if (record := CellRecord.of(trial))]


def end_all(study: Study[ComparisonPlan], state: TrialState = TrialState.COMPLETE) -> None:
    while (trial := study.claim()) is not None:
        record = CellRecord.of(trial)
        assert record is not None
        (study.folder / record.run).mkdir()
        (study.folder / record.run / "experiment.toml").write_text("")
        study.optuna_study.tell(trial, 1.0 if state == TrialState.COMPLETE else None, state)


def test_cells_are_seed_by_seed_and_shared_by_arms_of_one_configuration(
    question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(question.base.experiment.dataset), "fingerprint", lambda _: "text")
    cells = list(required_cells(question, [5, 3, 5]))
    assert [(cell.arm.label, cell.seed) for cell in cells] == [
        ("base", 5),
        ("mlp is swiglu", 5),
        ("base", 3),
        ("mlp is swiglu", 3),
    ]
    assert len({cell.identity for cell in cells}) == 2


def test_a_run_to_start_from_that_was_trained_again_makes_other_cells(
    question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = question.base.experiment
    monkeypatch.setattr(type(base.dataset), "fingerprint", lambda _: "text")
    monkeypatch.setattr(warm_start, "find_run", lambda name: name)
    monkeypatch.setattr(warm_start, "checkpoint_of_run", lambda name: Path(name))
    weights = "of 12 steps"
    monkeypatch.setattr(warm_start.Manifest, "read", lambda _: SimpleNamespace(weights_hash=weights))
    asked = Question("compare", (question.base, Arm("tuned", base.with_("model.init_from=long"))))
    before = [cell.identity for cell in required_cells(asked, [3])]
    assert [cell.identity for cell in required_cells(asked, [3])] == before
    weights = "of 20 steps"
    after = [cell.identity for cell in required_cells(asked, [3])]
    assert (after[0], after[1] == before[1]) == (before[0], False)


def test_named_runs_are_cells_of_nothing(question: Question, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(type(question.base.experiment.dataset), "fingerprint", lambda _: "text")
    named = RunFolder(tmp_path / "20260102-030405678-s3-abcdef")
    arms = (Arm("named", question.base.experiment, runs=(named,)), *question.arms[1:2])
    cells = list(required_cells(Question("compare", arms), [3, 4]))
    assert [(cell.arm.label, cell.seed) for cell in cells] == [
        ("mlp is swiglu", 3),
        ("named", 4),
        ("mlp is swiglu", 4),
    ]


def test_a_cell_is_queued_once_and_more_seeds_add_theirs(
    question: Question, storage: InMemoryStorage, tmp_path: Path
) -> None:
    for _ in range(2):
        study = opened(question, cells_of(question, [3]), storage, tmp_path / "c")
        assert names(study) == ["base-s3", "mlp-is-swiglu-s3"]
    study = opened(question, cells_of(question, [3, 4]), storage, tmp_path / "c")
    assert names(study) == ["base-s3", "mlp-is-swiglu-s3", "base-s4", "mlp-is-swiglu-s4"]
    assert names(opened(question, cells_of(question, [4]), storage, tmp_path / "c")) == ["base-s4", "mlp-is-swiglu-s4"]


def test_what_has_ended_answers_unless_code_or_text_are_others(
    question: Question, storage: InMemoryStorage, tmp_path: Path
) -> None:
    end_all(opened(question, cells_of(question, [3]), storage, tmp_path / "c"), TrialState.FAIL)
    assert names(opened(question, cells_of(question, [3]), storage, tmp_path / "c")) == []
    for change in ({"code": "other"}, {"text": "other"}):
        study = opened(question, cells_of(question, [3], **change), storage, tmp_path / "c")
        suffix = "-2" if "code" in change else "-3"
        assert names(study) == [f"base-s3{suffix}", f"mlp-is-swiglu-s3{suffix}"]


def test_again_begins_a_generation_and_continues_one_that_is_not_recorded(
    question: Question, storage: InMemoryStorage, tmp_path: Path
) -> None:
    cells = cells_of(question, [3])
    end_all(opened(question, cells, storage, tmp_path / "c"))
    for _ in range(2):  # killed, and called again
        study = opened(question, cells, storage, tmp_path / "c", again=True)
        assert names(study) == ["base-s3-2", "mlp-is-swiglu-s3-2"]
    assert names(opened(question, cells, storage, tmp_path / "c")) == [], "without it, what has ended answers"
    end_all(study)
    study = opened(question, cells, storage, tmp_path / "c", again=True)
    assert names(study) == [], "killed before it was recorded"
    study.plan.end(study.optuna_study)
    study.plan.end(study.optuna_study)
    third = opened(question, cells, storage, tmp_path / "c", again=True)
    assert names(third) == ["base-s3-3", "mlp-is-swiglu-s3-3"]
    study.plan.end(study.optuna_study)  # a slower controller of the generation before
    assert Generation.of_study(third.optuna_study).is_open


@pytest.mark.parametrize("files", [{}, {"status.json": "{}"}])
def test_a_run_that_failed_is_run_again_once_its_folder_is_removed(
    question: Question, storage: InMemoryStorage, tmp_path: Path, files: dict[str, str]
) -> None:
    [cell, *_] = cells_of(question, [3])
    study = opened(question, [cell], storage, tmp_path / "c")
    trial = study.claim()
    assert trial is not None
    TrialResult(cause="error", files=files).store(trial)
    study.optuna_study.tell(trial, state=TrialState.FAIL)
    again = names(opened(question, [cell], storage, tmp_path / "c"))
    assert again == (["base-s3-2"] if files else []), "without records it never had a folder"


def test_a_cell_that_two_machines_queued_at_once_is_run_once(
    question: Question, storage: InMemoryStorage, tmp_path: Path
) -> None:
    cells = cells_of(question, [3])
    study = opened(question, cells, storage, tmp_path / "c")
    for trial in study.plan.missing_trials([]):
        study.optuna_study.enqueue_trial(trial.params, user_attrs=trial.attributes)
    study = opened(question, cells, storage, tmp_path / "c")
    assert [trial.number for trial in study.unfinished()] == [0, 1]
    for number in (0, 1):
        trial = study.claim()
        assert trial is not None
        assert trial.number == number
        study.optuna_study.tell(trial, 1.0)
    assert study.claim() is None
    assert study.is_finished()


def test_a_run_that_a_controller_in_another_folder_measured_is_found(
    question: Question, storage: InMemoryStorage, tmp_path: Path
) -> None:
    [cell, *_] = cells_of(question, [3])
    study = opened(question, [cell], storage, tmp_path / "c")
    trial = study.claim()
    assert trial is not None
    measurement = Measurement(arm=0, seed=3, run="relative/to/the/other/base-s3", state="finished", value=1.5)
    TrialResult(cause="complete", measurement=measurement).store(trial)
    study.optuna_study.tell(trial, 1.5)
    (tmp_path / "c" / "base-s3").mkdir()
    (tmp_path / "c" / "base-s3" / "experiment.toml").write_text("")
    found = study.plan.measurement(cell, study.trials(), study.folder)
    assert found == measurement.model_copy(update={"run": str(tmp_path / "c" / "base-s3")})


def test_a_run_that_was_removed_is_run_again(question: Question, storage: InMemoryStorage, tmp_path: Path) -> None:
    cells = cells_of(question, [3])
    end_all(opened(question, cells, storage, tmp_path / "c"))
    shutil.rmtree(tmp_path / "c" / "base-s3")
    for _ in range(2):
        study = opened(question, cells, storage, tmp_path / "c")
        assert names(study) == ["base-s3-2"]
    end_all(study)
    assert names(opened(question, cells, storage, tmp_path / "c")) == []


def test_runs_have_the_seed_the_threads_of_their_slot_and_the_components_of_their_arm(
    storage: InMemoryStorage, tmp_path: Path
) -> None:
    experiments = []
    for name, more in {"a": "", "b": "\n\nOTHER = 1\n"}.items():
        (tmp_path / name).mkdir()
        code = (Path(gelu.__file__).read_text() + more).replace("class GELU", "class Mine")
        (tmp_path / name / "mine.py").write_text(code)
        text = 'components = ["mine.py"]\n' + BASE.replace("n_layer = 2", 'n_layer = 2\nmlp = "mine"')
        (tmp_path / name / "x.toml").write_text(text)
        experiments.append(Experiment.load(tmp_path / name / "x.toml", trust_code=True))
    question = Question("compare", tuple(Arm(name, one) for name, one in zip("ab", experiments, strict=True)))
    study = opened(question, cells_of(question, [3]), storage, tmp_path / "c")
    for name, experiment in zip("ab", experiments, strict=True):
        trial = study.claim()
        assert trial is not None
        assert study.plan.label(trial) == f"{name}, seed 3"
        [run] = study.runs(trial, MachineSlot(0, threads=5), study.folder)
        write_run_experiment(run, tmp_path / "c" / "trials" / "run.toml", study.folder)
        written = Experiment.load(tmp_path / "c" / "trials" / "run.toml", trust_code=True)
        assert (written.train.seed, written.train.threads, written.sample.num_samples) == (3, 5, 0)
        assert written.configuration() == experiment.configuration()


def test_another_number_of_processes_is_refused(question: Question, storage: InMemoryStorage, tmp_path: Path) -> None:
    cells = cells_of(question, [3])
    study = opened(question, cells, storage, tmp_path / "c")
    other = Study(ComparisonPlan(question, cells, study.options, again=False, nproc=3), storage, tmp_path / "c")
    with pytest.raises(KitError, match="--nproc: was 1 when the comparison began and is 3 now"):
        other.open()


def test_without_its_study_a_comparison_begins_other_runs_beside_what_is_left(
    question: Question, storage: InMemoryStorage
) -> None:
    run = question.folder() / "base-s3"
    run.mkdir(parents=True)
    (run / "experiment.toml").write_text("")
    study = opened(question, cells_of(question, [3, 4]), storage, question.folder())
    assert names(study) == ["base-s3-2", "mlp-is-swiglu-s3", "base-s4", "mlp-is-swiglu-s4"]


# What ends it


def failures_until_the_end(study: Study[ComparisonPlan], *outcomes: tuple[int, Outcome]) -> int:
    """After how many of these, as ends of trials in a row, the comparison ends; 0 where it does not."""
    controller = Controller(study, [], StopSignals())
    for count, (index, outcome) in enumerate(outcomes, start=1):
        process: Any = SimpleNamespace(index=index, label="base, seed 3", folder=study.folder, run_file=str)
        try:
            controller.check_failures(process, outcome)
        except (RunFailed, KitError):
            return count
    return 0


BUG = failed_outcome("error", "a bug", "ValueError at mine.py:3")
DONE = Outcome(TrialState.COMPLETE, "complete", 1.5)
BASE_TRIAL, OTHER_TRIAL = 0, 1


@pytest.mark.parametrize(
    ("outcomes", "count"),
    [
        ([(OTHER_TRIAL, BUG), (BASE_TRIAL, DONE)] * 4, 0),
        ([(OTHER_TRIAL, BUG)] * 9, 0),
        ([(OTHER_TRIAL, failed_outcome("refused", "no", "KitError"))] * 9, 0),
        ([(BASE_TRIAL, BUG), (OTHER_TRIAL, DONE)] * 3, 5),
        ([(BASE_TRIAL, BUG), (BASE_TRIAL, DONE)] * 3, 0),
        ([(BASE_TRIAL, failed_outcome("refused", "no", "KitError"))], 1),
        ([(BASE_TRIAL, failed_outcome("not_finite", "nan"))] * 4, 0),
        ([(OTHER_TRIAL, failed_outcome("disk", "full"))], 1),
    ],
)
def test_only_failures_of_the_base_and_a_full_disk_end_a_comparison(
    question: Question, storage: InMemoryStorage, tmp_path: Path, outcomes: list[tuple[int, Outcome]], count: int
) -> None:
    study = opened(question, cells_of(question, [3]), storage, tmp_path / "c")
    assert failures_until_the_end(study, *outcomes) == count


@pytest.mark.parametrize(
    ("label", "name"),
    [("model.mlp=swiglu", "model.mlp=swiglu"), ("a/b: \u2603 c", "a-b-c"), ("../..", "arm"), ("x" * 99, "x" * 60)],
)
def test_a_label_becomes_the_name_of_a_folder(label: str, name: str) -> None:
    assert slug(label) == name


def test_a_name_that_is_used_gets_a_count() -> None:
    assert unused_name("a-s3", {"b-s3"}) == "a-s3"
    assert unused_name("a-s3", {"a-s3", "a-s3-2"}) == "a-s3-3"
