"""A study's queue and who takes from it, asked of real storages by several controllers at once."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from nanogpt_kit.components.mlp import gelu
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch.slots import MachineSlot
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study import ownership
from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan
from nanogpt_kit.sweep.study.ownership import LOST_SECONDS, UNOWNED_SECONDS, OwnershipState, folder_id
from nanogpt_kit.sweep.study.plan import QueuedTrial
from nanogpt_kit.sweep.study.records import FreshSeed, Owner, TrialResult
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.space_plan import SpacePlan
from nanogpt_kit.sweep.study.storage import open_storage
from nanogpt_kit.sweep.study.stored_summary import read_summary
from nanogpt_kit.sweep.study.study import IS_QUEUED, Study
from nanogpt_kit.sweep.work.controller import Controller
from nanogpt_kit.sweep.work.trial import TrialProcess
from nanogpt_kit.train.stop import StopSignals

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
LR = '"optimizer.lr" = { float = [1e-4, 1e-2], log = true }'
FINITE = '"model.n_layer" = { int = [1, 3] }\n"model.n_embd" = { choice = [24, 48] }'
WRITTEN = {"optimizer.lr": 3e-3, "model.n_layer": 2, "model.n_embd": 24}


def space_of(folder: Path, options: str = "", table: str = LR, base: str = BASE) -> Space:
    path = folder / "exp.toml"
    path.write_text(f"{base}[sweep]\n{options}\n[sweep.space]\n{table}\n", encoding="utf-8")
    return Space(Experiment.load(path, trust_code=True))


def opened(space: Space, storage: BaseStorage, folder: Path) -> Study:
    """As a controller does that starts, or starts again."""
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(SearchPlan(space, {one.key: WRITTEN[one.key] for one in space.parameters}), storage, folder)
    study.open()
    return study


def confirmation_of(study: Study) -> Study:
    """As after the search."""
    confirmation = Study(ConfirmationPlan(study.plan.space, study.trials), study.storage, study.folder)
    confirmation.open()
    return confirmation


def claims(study: Study) -> list[int]:
    """Its trials until there are none left; their locks stay taken, as while they are at work."""
    found: list[int] = []
    while (trial := study.claim()) is not None:
        lock = study.ownership.trial_lock(trial.number)
        try:
            lock.__enter__()
        except BlockingIOError:  # SQLite gave it to two, and the other was quicker
            continue
        taken.append(lock)
        found.append(trial.number)
    return found


taken: list[Lock] = []


@pytest.fixture(autouse=True)
def all_locks_end() -> Iterator[None]:
    yield
    while taken:
        taken.pop().__exit__(None, None, None)


def at_once(count: int, task: Callable[[int], Any]) -> list[Any]:
    """What `task(number)` gives in each of so many threads."""
    results: dict[int, Any] = {}
    start = threading.Barrier(count)

    def work(number: int) -> None:
        start.wait()
        try:
            results[number] = task(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures = [result for result in results.values() if isinstance(result, BaseException)]
    assert not failures, failures
    return [results[number] for number in range(count)]


@pytest.fixture
def storage() -> InMemoryStorage:
    return InMemoryStorage()


@pytest.fixture(params=["journal", "sqlite"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], BaseStorage]]:
    """The storage as each controller opens it for itself."""
    made: list[BaseStorage] = []

    def another() -> BaseStorage:
        made.append(open_storage(request.param, tmp_path / "shared"))
        return made[-1]

    yield another
    for one in made:
        if isinstance(one, RDBStorage):
            one.engine.dispose()  # else its open file is warned of, some tests later


# The queue


def test_as_many_trials_are_queued_as_are_wanted_however_often_it_is_begun(
    tmp_path: Path, storage: InMemoryStorage
) -> None:
    space = space_of(tmp_path, "trials = 7")
    for _ in range(3):
        study = opened(space, storage, tmp_path / "sweep")
        assert [trial.state for trial in study.trials()] == [TrialState.WAITING] * 7
    assert study.trials()[0].system_attrs["fixed_params"] == {"optimizer.lr": 3e-3}
    assert study.optuna_study.user_attrs["count"] == 7


def test_controllers_that_begin_and_claim_at_once_share_the_trials_exactly(
    tmp_path: Path, shared: Callable[[], BaseStorage]
) -> None:
    trials = 12
    space = space_of(tmp_path, f"trials = {trials}")
    storages = [shared() for _ in range(4)]
    found = at_once(4, lambda number: claims(opened(space, storages[number], tmp_path / "sweep")))
    assert sorted(chain(*found)) == list(range(trials))
    assert Counter(trial.state for trial in study_in(storages[0])) == {TrialState.RUNNING: trials}


def test_machines_that_share_no_folder_share_the_trials_exactly(tmp_path: Path) -> None:
    path = tmp_path / "shared.journal"
    space = space_of(tmp_path, f'trials = 30\nstorage = "{path}"')
    storages = [open_storage(str(path), tmp_path) for _ in range(3)]
    found = at_once(3, lambda number: claims(opened(space, storages[number], tmp_path / f"sweep{number}")))
    assert sorted(chain(*found)) == list(range(30))
    space = space_of(tmp_path, f'trials = 35\nstorage = "{path}"')  # and more, all at once
    found = at_once(3, lambda number: claims(opened(space, storages[number], tmp_path / f"sweep{number}")))
    assert sorted(chain(*found)) == list(range(30, 35))


def study_in(storage: BaseStorage) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="x", storage=storage).get_trials()


@pytest.mark.parametrize("queued", [0, 1, 3])
def test_a_study_whose_maker_was_killed_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queued: int
) -> None:
    space = space_of(tmp_path, "trials = 5")
    storage = open_storage("journal", tmp_path / "sweep")

    def dies(study: Study) -> None:
        for trial in study.plan.missing_trials([])[:queued]:
            study.optuna_study.enqueue_trial(trial.params)
        raise KeyboardInterrupt

    with monkeypatch.context() as there:
        there.setattr(Study, "queue_missing", dies)
        with pytest.raises(KeyboardInterrupt):
            opened(space, storage, tmp_path / "sweep")
    assert len(study_in(storage)) == queued
    began = time.monotonic()
    study = opened(space, storage, tmp_path / "sweep")
    assert time.monotonic() - began < 5
    assert [trial.system_attrs["fixed_params"] for trial in study.trials()] == [{"optimizer.lr": 3e-3}, *[{}] * 4]
    assert study.optuna_study.user_attrs[IS_QUEUED]


def test_a_study_that_was_made_and_nothing_else_is_begun_by_the_next(tmp_path: Path, storage: InMemoryStorage) -> None:
    optuna.create_study(storage=storage, study_name="x")
    study = opened(space_of(tmp_path, "trials = 5"), storage, tmp_path / "sweep")
    assert claims(study) == [0, 1, 2, 3, 4]


def test_more_trials_may_be_wanted_later_and_fewer_too(tmp_path: Path, storage: InMemoryStorage) -> None:
    study = opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    assert claims(study) == [0, 1, 2]
    study = opened(space_of(tmp_path, "trials = 5"), storage, tmp_path / "sweep")
    assert claims(study) == [3, 4]
    study = opened(space_of(tmp_path, "trials = 9"), storage, tmp_path / "sweep")
    assert len(study.trials()) == 9
    study = opened(space_of(tmp_path, "trials = 6"), storage, tmp_path / "sweep")
    assert claims(study) == [5]
    assert not study.is_finished()
    for number in range(6):
        study.optuna_study.tell(number, 1.0)
    assert study.is_finished()
    study = opened(space_of(tmp_path, "trials = 2"), storage, tmp_path / "sweep")
    assert claims(study) == []
    assert study.is_finished()


def test_controllers_that_want_fewer_trials_at_once_claim_none_beyond(
    tmp_path: Path, shared: Callable[[], BaseStorage]
) -> None:
    opened(space_of(tmp_path, "trials = 12"), shared(), tmp_path / "sweep")
    space = space_of(tmp_path, "trials = 5")
    studies = [opened(space, shared(), tmp_path / "sweep") for _ in range(4)]
    found = at_once(4, lambda number: claims(studies[number]))
    assert sorted(chain(*found)) == list(range(5))


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "qmc"])
def test_a_finite_space_has_as_many_trials_as_points_and_none_twice(
    tmp_path: Path, storage: InMemoryStorage, sampler: str
) -> None:
    space = space_of(tmp_path, f'trials = 50\nsampler = "{sampler}"', FINITE)
    study = opened(space, storage, tmp_path / "sweep")
    configs = []
    while (trial := study.claim()) is not None:
        configs.append(study.config(trial))
        study.optuna_study.tell(trial, 1.0)
    assert len(configs) == 6 == len({tuple(config.values()) for config in configs})
    assert configs[0] == {"model.n_layer": 2, "model.n_embd": 24}
    assert study.is_finished()


def test_a_grid_is_queued_point_by_point_and_goes_on(tmp_path: Path, storage: InMemoryStorage) -> None:
    def queued(trials: int) -> list[Any]:
        study = opened(space_of(tmp_path, f'trials = {trials}\nsampler = "grid"', FINITE), storage, tmp_path / "sweep")
        return [tuple(trial.system_attrs["fixed_params"].values()) for trial in study.trials()]

    four = queued(4)
    assert four[0] == (2, 24)
    assert len(set(four)) == 4
    assert queued(2) == four
    every = queued(9)
    assert every[:4] == four
    assert len(every) == len(set(every)) == 6
    assert queued(9) == every


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_grid_whose_controller_was_killed_while_it_queued_is_the_same(
    before: int, tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of(tmp_path, 'trials = 4\nsampler = "grid"', FINITE)
    whole = [trial.system_attrs for trial in opened(space, InMemoryStorage(), tmp_path / "whole").trials()]
    missing = SearchPlan.missing_trials
    monkeypatch.setattr(SearchPlan, "missing_trials", lambda plan, queued: missing(plan, queued)[:before])
    opened(space, storage, tmp_path / "killed")
    monkeypatch.undo()
    assert [trial.system_attrs for trial in opened(space, storage, tmp_path / "killed").trials()] == whole


# What a study is about


@pytest.mark.parametrize("key", ["space", "experiment", "sweep", "nproc", "fingerprint"])
def test_a_study_that_lacks_an_attribute_of_this_version_gets_a_sentence(
    key: str, tmp_path: Path, storage: InMemoryStorage
) -> None:
    space = space_of(tmp_path, "trials = 2")
    study = opened(space, storage, tmp_path / "sweep").optuna_study
    del storage._studies[study._study_id].user_attrs[key]
    with pytest.raises(KitError, match=f"the study 'x' in sweep.storage cannot be read .*{key}.*: set another sweep"):
        opened(space, storage, tmp_path / "sweep")


@pytest.mark.parametrize(("key", "value"), [("maker", None), ("space", ["a"]), ("sweep", 5), ("branches", ["a"])])
def test_a_study_with_an_attribute_of_another_type_gets_a_sentence(
    key: str, value: Any, tmp_path: Path, storage: InMemoryStorage
) -> None:
    space = space_of(tmp_path, "trials = 2")
    opened(space, storage, tmp_path / "sweep").optuna_study.set_user_attr(key, value)
    reads = {"branches": lambda: read_summary("x", space.options, storage)}
    with pytest.raises(KitError, match=r"the study 'x' in sweep.storage cannot be read .*: set another sweep.storage"):
        reads.get(key, lambda: opened(space, storage, tmp_path / "sweep"))()


def test_results_are_read_with_the_options_that_the_trials_had(tmp_path: Path, storage: InMemoryStorage) -> None:
    """The file may have been edited since: other names and another order would mislead."""
    study = opened(space_of(tmp_path, 'trials = 3\ndirection = "maximize"'), storage, tmp_path / "sweep")
    for value in (1.0, 3.0, 2.0):
        trial = study.claim()
        assert trial is not None
        study.config(trial)
        study.optuna_study.tell(trial, value)
    changed = space_of(tmp_path, 'trials = 6\nmetric = "val/bits_per_byte"\nseeds = 2\nallocate = "equal"').options
    summary = read_summary("x", changed, storage)
    best = summary.best()
    assert best is not None
    assert best.index == 1
    options = summary.options
    assert (options.metric, options.direction, options.seeds) == ("val/loss", "maximize", 1)
    assert (options.allocate, options.trials) == ("sampler", 6)


def test_a_study_refuses_each_thing_that_changed_since_it_began(tmp_path: Path) -> None:
    storage = open_storage("journal", tmp_path)  # from which lists come back, and no tuples
    opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    opened(space_of(tmp_path, 'trials = 4\npruner = "asha"\nworkers = 2'), storage, tmp_path / "sweep")
    base = BASE.replace("steps = 20", "steps = 30").replace("block_size = 16", "block_size = 32\nmlp = 'swiglu'")
    options = 'trials = 3\nmetric = "val/bits_per_byte"\nseeds = 2'
    table = '"optimizer.lr" = { float = [1e-4, 2e-2], log = true }\n"model.n_layer" = { int = [1, 3] }'
    with pytest.raises(KitError) as caught:
        opened(space_of(tmp_path, options, table, base), storage, tmp_path / "sweep")
    faults = {fault.key: fault for fault in caught.value.faults}
    for key, values in {
        "sweep.space.optimizer.lr": ("float [0.0001, 0.01], log", "float [0.0001, 0.02], log"),
        "sweep.space.model.n_layer": ("absent", "int [1, 3]"),
        "sweep.metric": ("val/loss", "val/bits_per_byte"),
        "sweep.seeds": ("1", "2"),
        "train.steps": ("20", "30"),
        "model.block_size": ("16", "32"),
        "model.mlp.use": ("gelu", "swiglu"),
    }.items():
        assert re.fullmatch(f"was {re.escape(values[0])} .* {re.escape(values[1])} now", faults[key].message)
    lines = (tmp_path / "exp.toml").read_text().splitlines()
    for key, line in {"train.steps": "steps = 30", "sweep.seeds": "seeds = 2"}.items():
        assert faults[key].location.endswith(f"exp.toml:{lines.index(line) + 1}")
    table_line = next(number for number, line in enumerate(lines, start=1) if line.startswith('"optimizer.lr"'))
    assert faults["sweep.space.optimizer.lr"].location.endswith(f":{table_line}")
    assert "give the experiment another name" in str(caught.value)
    assert len(study_in(storage)) == 4, "and nothing was queued"


def test_other_code_of_a_local_component_is_another_study(tmp_path: Path, storage: InMemoryStorage) -> None:
    code = Path(gelu.__file__).read_text().replace("class GELU", "class Mine")
    path = tmp_path / "mine.py"
    base = 'components = ["mine.py"]\n' + BASE.replace("n_layer = 2", 'n_layer = 2\nmlp = "mine"')
    path.write_text(code)
    opened(space_of(tmp_path, "trials = 3", base=base), storage, tmp_path / "sweep")
    path.write_text(code + "\n\nOTHER = 1\n")
    with pytest.raises(KitError, match=r"^components: the code "):
        opened(space_of(tmp_path, "trials = 3", base=base), storage, tmp_path / "sweep")


@pytest.mark.parametrize("with_trials", [True, False])
def test_a_foreign_study_of_that_name_is_refused_at_once_and_left_as_it_is(tmp_path: Path, with_trials: bool) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    storage = open_storage(url, tmp_path)
    foreign = optuna.create_study(storage=storage, study_name="x")
    if with_trials:
        foreign.optimize(lambda trial: trial.suggest_float("y", 0, 1), n_trials=2)
    else:
        foreign.set_user_attr("of", "somebody else")
    space = space_of(tmp_path, f'trials = 3\nstorage = "{url}"')
    began = time.monotonic()
    with pytest.raises(KitError, match=r"a study 'x' that is not a sweep; .* another name"):
        opened(space, storage, tmp_path / "sweep")
    assert time.monotonic() - began < 5
    assert len(foreign.trials) == 2 * with_trials
    assert "space" not in foreign.user_attrs
    assert isinstance(storage, RDBStorage)
    storage.engine.dispose()


def test_a_study_of_another_format_is_refused_and_left_as_it_is(tmp_path: Path, storage: InMemoryStorage) -> None:
    old = optuna.create_study(storage=storage, study_name="x")
    old.set_user_attr("maker", {"folder": "/runs/x/sweep", "id": "a"})
    with pytest.raises(KitError, match=r"'x' .* another version"):
        opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    assert not old.trials
    study = opened(space_of(tmp_path, "trials = 3"), InMemoryStorage(), tmp_path / "sweep")
    study.optuna_study.set_user_attr("format", 2)
    with pytest.raises(KitError, match=r"'x' .* another version"):
        study.open()


def test_leftovers_of_another_study_are_not_mixed_with_new_trials(tmp_path: Path, storage: InMemoryStorage) -> None:
    run = tmp_path / "sweep" / "trial-0000-s1337"
    run.mkdir(parents=True)
    space = space_of(tmp_path, "trials = 3")
    opened(space, InMemoryStorage(), tmp_path / "sweep")  # a folder in which no run has begun is nobody's
    (run / "experiment.toml").write_text("")
    with pytest.raises(KitError, match=r"a study that is not in sweep\.storage"):
        opened(space, storage, tmp_path / "sweep")
    assert not storage.get_all_studies()


def test_the_other_direction_is_refused(tmp_path: Path, storage: InMemoryStorage) -> None:
    opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    with pytest.raises(KitError, match=r"sweep\.direction: was minimize .* maximize now"):
        opened(space_of(tmp_path, 'trials = 3\ndirection = "maximize"'), storage, tmp_path / "sweep")


# Whose trials are whose


def controller_of(study: Study) -> Controller:
    return Controller(study, [MachineSlot(0)], StopSignals())


def next_of(controller: Controller) -> TrialProcess | None:
    """As the controller takes it, at once."""
    controller.checked_others_at = -float("inf")
    work = controller.next_trial(MachineSlot(0))
    if work is not None:
        controller.running.append(work)
        taken.append(work.lock)
    return work


def numbers(*works: TrialProcess | None) -> list[int]:
    assert None not in works
    return [work.index for work in works if work]


def held_by(study: Study, host: str | None, seen: float) -> optuna.Trial:
    """A trial that a controller of the study's folder has signed: here, or on another `host` with the same path."""
    trial = study.claim()
    assert trial is not None
    Owner(folder=str(study.folder), folder_id=host or folder_id(study.folder), seen=seen).store(trial)
    return trial


def owner_of(trial: optuna.Trial | optuna.trial.FrozenTrial) -> Owner:
    owner = Owner.of(trial)
    assert owner is not None
    return owner


def lost(study: Study) -> list[int]:
    return [trial.number for trial in study.lost_trials([])]


def test_a_trial_goes_through_the_states_of_its_life(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(space_of(tmp_path, "trials = 1"), storage, tmp_path / "sweep")

    def state() -> OwnershipState:
        return study.ownership.state(study.trials()[0])

    assert state() is OwnershipState.WAITING
    trial_id = study.trials()[0]._trial_id
    storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    assert state() is OwnershipState.CLAIMED
    now = time.time()
    with monkeypatch.context() as later:
        later.setattr(ownership.time, "time", lambda: now + UNOWNED_SECONDS + 1)
        assert state() is OwnershipState.LOST
    process = next_of(controller_of(study))
    assert process is None, "nobody takes it over before"
    trial = optuna.Trial(study.optuna_study, trial_id)
    ownership.send_heartbeat(trial, study.folder)
    assert state() is OwnershipState.LOST, "its lock is free"
    process = next_of(controller_of(study))
    assert process is not None
    assert state() is OwnershipState.ALIVE
    process.release()
    assert state() is OwnershipState.LOST
    Owner(folder=str(study.folder), folder_id="elsewhere", seen=now).store(trial)
    assert state() is OwnershipState.ALIVE, "a heartbeat counts for another machine"
    study.optuna_study.tell(trial, 1.0)
    assert state() is OwnershipState.ENDED


def test_a_trial_of_this_machine_is_taken_over_when_its_lock_is_free(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    trial = held_by(study, None, time.time())
    controller = controller_of(study)
    with study.ownership.trial_lock(0):
        assert numbers(next_of(controller)) == [1]
    assert numbers(next_of(controller)) == [trial.number]
    with pytest.raises(BlockingIOError):
        study.ownership.trial_lock(0).__enter__()
    assert study.lost_trials([0, 1]) == []


def test_a_trial_of_another_machine_is_taken_over_when_it_was_not_heard_of_for_long(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    now = time.time()
    trial = held_by(study, "elsewhere", now)
    trial.report(2.5, 480)
    assert lost(study) == []
    monkeypatch.setattr(ownership.time, "time", lambda: now + LOST_SECONDS - 5)
    assert lost(study) == []
    monkeypatch.setattr(ownership.time, "time", lambda: now + LOST_SECONDS + 5)
    assert lost(study) == [0]
    work = next_of(controller_of(study))
    assert work is not None
    assert work.index == 0
    assert work.folder == study.folder
    assert work.run.folder.path == study.folder / "trial-0000-s1337"
    assert owner_of(study.trials()[0]).folder_id == folder_id(study.folder)


def test_a_trial_that_nobody_has_signed_is_left_alone_for_a_while(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    storage.set_trial_state_values(study.trials()[0]._trial_id, TrialState.RUNNING)  # killed before it could sign
    now = time.time()
    assert lost(study) == []
    monkeypatch.setattr(ownership.time, "time", lambda: now + UNOWNED_SECONDS + 1)
    assert lost(study) == [0]


def test_a_claimed_trial_is_signed_before_anything_else_is_done(tmp_path: Path, storage: InMemoryStorage) -> None:
    study = opened(space_of(tmp_path, "trials = 3"), storage, tmp_path / "sweep")
    trial = study.claim()
    assert trial is not None
    assert owner_of(trial).folder_id == folder_id(study.folder)
    assert not trial.params


def test_two_controllers_do_not_adopt_the_same_orphans(tmp_path: Path, shared: Callable[[], BaseStorage]) -> None:
    space = space_of(tmp_path, "trials = 4")
    first = opened(space, shared(), tmp_path / "sweep")
    for _ in range(4):
        trial = first.claim()
        assert trial is not None
        assert owner_of(trial).folder == str(first.folder)
    studies = [opened(space, shared(), tmp_path / "sweep") for _ in range(3)]

    def adopted(number: int) -> list[int]:
        controller = controller_of(studies[number])
        while next_of(controller) is not None:
            pass
        return numbers(*controller.running)

    assert sorted(chain(*at_once(3, adopted))) == list(range(4))


def test_a_trial_that_ended_just_before_its_lock_was_taken_is_not_taken_up_again(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(space_of(tmp_path, "trials = 1"), storage, tmp_path / "sweep")
    trial = held_by(study, None, time.time())
    assert lost(study) == [0]
    study.optuna_study.tell(trial, 1.0)
    assert controller_of(study).start_trial(trial, MachineSlot(0)) is None
    with study.ownership.trial_lock(0):
        pass  # it is free


def test_values_that_do_not_go_together_are_a_bad_place_and_the_next_trial_is_taken(
    tmp_path: Path, storage: InMemoryStorage
) -> None:
    study = opened(space_of(tmp_path, "trials = 3", '"model.n_embd" = { int = [24, 48] }'), storage, tmp_path / "sweep")
    for number, width in {1: 25, 2: 27}.items():  # of three heads
        storage.set_trial_system_attr(study.trials()[number]._trial_id, "fixed_params", {"model.n_embd": width})
    controller = controller_of(study)
    assert numbers(next_of(controller), next_of(controller)) == [0, 2]
    refused = study.trials()[1]
    assert refused.state == TrialState.PRUNED
    result = TrialResult.of(refused)
    assert result is not None
    assert result.cause == "refused"
    assert result.reason
    with study.ownership.trial_lock(1):
        pass


def test_a_controller_lets_go_of_a_trial_that_another_machine_has_ended(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(space_of(tmp_path, "trials = 1"), storage, tmp_path / "sweep")
    controller = controller_of(study)
    killed: list[int] = []
    monkeypatch.setattr(TrialProcess, "poll", lambda work, must_wait: work.send_heartbeat())
    monkeypatch.setattr(TrialProcess, "kill", lambda work: killed.append(work.index))
    assert numbers(next_of(controller)) == [0]
    study.optuna_study.tell(0, 1.5)  # it had taken this one for lost
    controller.run()
    assert killed == [0]
    assert study.trials()[0].value == 1.5
    with study.ownership.trial_lock(0):
        pass


# The best once more


def ended(study: Study, *values: float) -> None:
    for value in values:
        trial = study.claim()
        assert trial is not None
        study.config(trial)
        study.optuna_study.tell(trial, value)


def test_the_best_are_confirmed_with_fresh_seeds_once(tmp_path: Path, storage: InMemoryStorage) -> None:
    space = space_of(tmp_path, "trials = 4\nseeds = 2\nconfirm = 2\nconfirm_seeds = 3")
    study = opened(space, storage, tmp_path / "sweep")
    ended(study, 4.0, 1.0, 3.0, 2.0)
    for _ in range(2):
        confirmation = confirmation_of(study)
        runs = [FreshSeed.of(trial) for trial in confirmation.trials()]
        told = [(run.trial, run.seed) for run in runs if run]
        assert told == [(index, seed) for seed in (1339, 1340, 1341) for index in (0, 1, 3)]
    trial = confirmation.claim()
    assert trial is not None
    [run] = confirmation.runs(trial, MachineSlot(0), study.folder)
    assert run.folder.path.name == "trial-0000-s1339"
    assert run.experiment.train.seed == 1339
    assert run.experiment.optimizer.lr == study.trials()[0].params["optimizer.lr"]
    assert len(claims(confirmation)) == 8


def test_machines_that_confirm_at_once_queue_each_run_once(tmp_path: Path) -> None:
    path = tmp_path / "shared.journal"
    space = space_of(tmp_path, f'trials = 2\nconfirm = 1\nconfirm_seeds = 3\nstorage = "{path}"')
    storages = [open_storage(str(path), tmp_path) for _ in range(3)]
    studies = [opened(space, storages[number], tmp_path / f"sweep{number}") for number in range(3)]
    ended(studies[0], 4.0, 1.0)

    def confirm(number: int) -> list[int]:
        return claims(confirmation_of(studies[number]))

    assert sorted(chain(*at_once(3, confirm))) == [*range(6)]


def test_a_study_whose_creator_stores_its_maker_meanwhile_is_a_sweep(
    tmp_path: Path, storage: InMemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two reads of the study another machine may have stored who made it, and then the trials."""
    space = space_of(tmp_path, "trials = 2")
    opened(space, storage, tmp_path / "sweep")
    reads: list[str] = []
    trials, attributes = Study.trials, optuna.Study.user_attrs.fget
    assert attributes is not None

    def read_trials(study: Study) -> list[Any]:
        reads.append("trials")
        return trials(study)

    monkeypatch.setattr(Study, "trials", read_trials)
    monkeypatch.setattr(optuna.Study, "user_attrs", property(lambda self: attributes(self) if reads else {}))
    assert len(opened(space, storage, tmp_path / "sweep").trials()) == 2


def test_a_lock_of_a_confirmation_is_not_that_of_a_trial(tmp_path: Path, storage: InMemoryStorage) -> None:
    space = space_of(tmp_path, "trials = 1\nconfirm = 1")
    study = opened(space, storage, tmp_path / "sweep")
    confirmation = Study(ConfirmationPlan(space, study.trials), storage, study.folder)
    with study.ownership.trial_lock(0) as lock, confirmation.ownership.trial_lock(0) as other:
        assert isinstance(lock, Lock)
        assert lock.path != other.path


# Other plans


class BranchPlan(SpacePlan):
    """As many trials of each branch, whose other values the sampler chooses."""

    kind = "branches"
    suffix = "-branches"

    def missing_trials(self, queued: Sequence[optuna.trial.FrozenTrial]) -> list[QueuedTrial]:
        trials = [QueuedTrial({"optimizer.use": use}, {"pair": pair}) for pair in range(3) for use in ("adamw", "sgd")]
        return trials[len(queued) :]

    def config(self, trial: optuna.Trial) -> Config:
        return self.space.suggest(trial)

    def seeds(self, trial: optuna.Trial) -> Sequence[int]:
        return [7 + trial.user_attrs["pair"]]


def test_a_study_takes_another_plan_beside_the_search(tmp_path: Path, storage: InMemoryStorage) -> None:
    table = """
[sweep.space."optimizer.use".choice.adamw]
"optimizer.lr" = { float = [1e-4, 1e-2], log = true }
[sweep.space."optimizer.use".choice.sgd]
"optimizer.lr" = { float = [0.1, 1.0], log = true }
"""
    search = Study(
        SearchPlan(space_of(tmp_path, table=table), {"optimizer.use": "adamw", "optimizer.lr": 3e-3}),
        storage,
        tmp_path / "sweep",
    )
    search.folder.mkdir()
    search.open()
    for _ in range(2):  # the second one continues
        study = Study(BranchPlan(search.plan.space, search.options), storage, search.folder)
        study.open()
    assert study.count == 6
    runs = []
    for _ in range(6):
        trial = study.claim()
        assert trial is not None
        runs += study.runs(trial, MachineSlot(0), study.folder)
        study.optuna_study.tell(trial, 1.0)
    options = [run.experiment.resolved()["optimizer"] for run in runs]
    assert [option["use"] for option in options] == ["adamw", "sgd"] * 3
    assert all((option["lr"] >= 0.1) == (option["use"] == "sgd") for option in options)
    assert len({option["lr"] for option in options}) == 6
    assert [run.experiment.train.seed for run in runs] == [7, 7, 8, 8, 9, 9]
    assert study.is_finished()
    with pytest.raises(KitError, match="branches"):
        Study(
            type("Other", (BranchPlan,), {"kind": "other"})(search.plan.space, search.options), storage, study.folder
        ).open()
