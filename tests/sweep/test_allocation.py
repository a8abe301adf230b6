"""Equal trials for each branch: the queue of the search, what samplers learn from, and what pruners compare with."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep import session
from nanogpt_kit.sweep.preview import expected_rungs
from nanogpt_kit.sweep.space.endpoints import values_as_written
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study import sampler as sampler_module
from nanogpt_kit.sweep.study.allocation import allocation_lines, branch_count, check_allocation, trial_count
from nanogpt_kit.sweep.study.branch_study import BranchPruner
from nanogpt_kit.sweep.study.sampler import make_pruner
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.sweep.study.storage import open_storage
from nanogpt_kit.sweep.study.stored_summary import read_summary
from nanogpt_kit.sweep.study.study import Study

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
OPTIMIZERS = """\
"model.dropout" = { float = [0.0, 0.5] }
"optimizer.use".choice.adamw."optimizer.lr" = { float = [1e-4, 1e-1], log = true }
"optimizer.use".choice.muon."optimizer.lr" = { float = [1e-4, 1.0], log = true }
"optimizer.use".choice.sgd."optimizer.lr" = { float = [1e-4, 1.0], log = true }
"""
TWO = OPTIMIZERS[: OPTIMIZERS.index('"optimizer.use".choice.sgd')]
PLAIN = """\
"model.n_layer" = { int = [1, 4] }
"model.position" = { choice = ["rope", "learned"] }
"model.n_embd" = { choice = [24, 48, 72] }
"optimizer.lr" = { float = [1e-3, 1e-2], step = 1e-3 }
"""
FINITE = """\
"optimizer.use".choice.adamw."model.dropout" = { float = [0.0, 0.3], step = 0.1 }
"optimizer.use".choice.muon."model.dropout" = { float = [0.0, 0.5], step = 0.1 }
"optimizer.use".choice.sgd = {}
"""
SAMPLERS = ("tpe", "random", "qmc", "cmaes")


def space_of(folder: Path, table: str, *overrides: str, **options: Any) -> Space:
    lines = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in options.items())
    path = folder / "exp.toml"
    path.write_text(f'{BASE}[sweep]\nallocate = "equal"\n{lines}[sweep.space]\n{table}', encoding="utf-8")
    return Space(Experiment.load(path, overrides))


def opened(space: Space, folder: Path, storage: BaseStorage | None = None) -> Study[SearchPlan]:
    """As a controller opens it that starts, or starts again."""
    folder.mkdir(exist_ok=True)
    study = Study(SearchPlan(space, values_as_written(space)), storage or InMemoryStorage(), folder)
    study.open()
    return study


def run(study: Study[SearchPlan], count: int, objective: Callable[[Config], float] | None = None) -> list[Config]:
    """The values of the next `count` trials, or of as many as are left."""
    configs: list[Config] = []
    while len(configs) < count and (trial := study.claim()) is not None:
        configs.append(study.config(trial))
        study.optuna_study.tell(trial, objective(configs[-1]) if objective else 1.0)
    return configs


def counts(configs: Sequence[Config], key: str = "optimizer.use") -> Counter[Any]:
    return Counter(config[key] for config in configs)


# The queue


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_is_stopped_anywhere_has_tried_its_branches_equally(sampler: str, tmp_path: Path) -> None:
    space = space_of(tmp_path, OPTIMIZERS, sampler=sampler, trials=12)
    configs = run(opened(space, tmp_path / "whole"), 99)
    assert counts(configs) == {"adamw": 4, "muon": 4, "sgd": 4}
    assert configs[0] == {"model.dropout": 0.0, "optimizer.use": "adamw", "optimizer.lr": 3e-3}
    for count in range(1, 12):
        tried = counts(configs[:count])
        assert max(tried.values()) - min(tried[use] for use in ("adamw", "muon", "sgd")) <= 1
    storage, parts = InMemoryStorage(), list[Config]()
    for count in (1, 4, 0, 5, 99):
        parts += run(opened(space, tmp_path / "stopped", storage), count)
    assert parts == configs


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_every_combination_of_choices_has_as_many_trials_wherever_they_stand_in_the_file(
    sampler: str, tmp_path: Path
) -> None:
    space = space_of(tmp_path, PLAIN, sampler=sampler, trials=24)
    configs = run(opened(space, tmp_path / "sweep"), 99)
    tried = Counter((config["model.position"], config["model.n_embd"]) for config in configs)
    assert sorted(tried.values()) == [4] * 6
    assert all(configs.count(config) == 1 for config in configs)


def test_a_trial_that_a_kill_left_with_half_of_its_values_keeps_its_branch(tmp_path: Path) -> None:
    for sampler in SAMPLERS:
        space = space_of(tmp_path, TWO, sampler=sampler, trials=6)
        journal = JournalStorage(JournalFileBackend(str(tmp_path / f"{sampler}.journal")))
        study = opened(space, tmp_path / sampler, journal)
        run(study, 3)
        trial = study.claim()
        assert trial is not None
        dropout = space.parameters[0].suggest(trial)
        study = opened(space, tmp_path / sampler, journal)
        config = study.config(optuna.Trial(study.optuna_study, trial._trial_id))
        assert (config["optimizer.use"], config["model.dropout"]) == ("muon", dropout)


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_more_trials_are_divided_equally_too(sampler: str, tmp_path: Path) -> None:
    storage, configs = InMemoryStorage(), list[Config]()
    for trials in (6, 12, 24):
        space = space_of(tmp_path, PLAIN, f"sweep.trials={trials}", sampler=sampler)
        study = opened(space, tmp_path / "sweep", storage)
        configs += run(study, 99)
        tried = Counter((config["model.position"], config["model.n_embd"]) for config in configs)
        assert sorted(tried.values()) == [trials // 6] * 6
        assert study.optuna_study.user_attrs["count"] == trials
    assert all(configs.count(config) == 1 for config in configs)


def test_what_two_machines_queued_twice_is_run_once(tmp_path: Path) -> None:
    space, storage = space_of(tmp_path, TWO, trials=4), InMemoryStorage()
    study = opened(space, tmp_path / "sweep", storage)
    missing = study.plan.missing_trials([])[1:]
    for queued in missing[:1] * 3:  # all in muon
        study.optuna_study.enqueue_trial(queued.params)
    grown = opened(space_of(tmp_path, TWO, trials=6), tmp_path / "sweep", storage)
    assert counts(run(grown, 99)) == {"adamw": 3, "muon": 3}


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_a_branch_with_few_points_has_each_once_and_the_others_keep_their_number(sampler: str, tmp_path: Path) -> None:
    space = space_of(tmp_path, FINITE, sampler=sampler, trials=15)
    configs = run(opened(space, tmp_path / "sweep"), 99, lambda config: float(config.get("model.dropout", 1.0)))
    assert counts(configs) == {"adamw": 4, "muon": 5, "sgd": 1}
    assert trial_count(space) == len(configs)
    assert all(configs.count(config) == 1 for config in configs)
    assert allocation_lines(space) == [
        "5 trials for each of 3 branches in turn, tuned by its own trials alone",
        "  optimizer.use = adamw: 4 trials, all its points",
        "  optimizer.use = muon: 5 trials",
        "  optimizer.use = sgd: 1 trial, all its points",
    ]


def test_a_finite_branch_beside_an_endless_one_is_exhausted_without_repeats(tmp_path: Path) -> None:
    table = TWO.replace('"model.dropout"', '"optimizer.use".choice.muon."model.dropout"')
    table = table.replace("float = [1e-4, 1e-1], log = true", "float = [1e-3, 3e-2], step = 1e-3")
    for sampler in SAMPLERS:
        space = space_of(tmp_path, table, sampler=sampler, trials=60)
        configs = run(opened(space, tmp_path / sampler), 99, lambda config: float(config["optimizer.lr"]))
        assert counts(configs) == {"adamw": 30, "muon": 30}
        assert all(configs.count(config) == 1 for config in configs)


def test_a_preview_of_many_branches_is_short(tmp_path: Path) -> None:
    table = f'"model.n_embd" = {{ choice = {list(range(24, 54))} }}\n"optimizer.lr" = {{ float = [1e-3, 1e-2] }}'
    lines = allocation_lines(space_of(tmp_path, table, trials=60))
    assert lines[0].startswith("2 trials for each of 30 branches")
    assert lines[-1] == "  and 10 more"
    assert len(lines) == 22
    table = TWO.replace('allocate = "equal"', "")
    assert allocation_lines(space_of(tmp_path, table, 'sweep.allocate="sampler"')) == []


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_the_summary_of_a_sweep_has_the_trials_and_the_best_of_each_branch(storage: str, tmp_path: Path) -> None:
    """Of choices that a storage keeps as something else: tables, booleans and numbers."""
    table = """\
"model.mlp" = { choice = ["gelu", { use = "relu2", width = 3.0 }] }
"model.bias" = { choice = [true, false] }
"optimizer.lr" = { float = [1e-3, 1e-2], log = true }
"""
    space = space_of(tmp_path, table, "model.bias=true", trials=8)
    (tmp_path / "sweep").mkdir()
    opened_storage = open_storage(storage, tmp_path / "sweep")
    study = opened(space, tmp_path / "sweep", opened_storage)
    configs = run(study, 7, lambda config: float(config["optimizer.lr"]))
    summary = read_summary(space.base.name, space.options, opened_storage)
    assert [len(summary.trials_of(branch)) for branch in summary.branches] == [2, 2, 2, 1]
    for index, branch in enumerate(summary.branches):
        best, rates = summary.best_of(branch), [config["optimizer.lr"] for config in configs[index::4]]
        assert best is not None
        assert best.value == min(rates)
    labels = ['model.mlp = {"use": "relu2", "width": 3.0}, model.bias = ' + value for value in ("true", "false")]
    assert [branch.label for branch in summary.branches][2:] == labels
    engine = getattr(opened_storage, "_backend", opened_storage)
    if hasattr(engine, "engine"):
        engine.engine.dispose()


# What is refused


def refusal(folder: Path, table: str, *overrides: str, **options: Any) -> Fault:
    with pytest.raises(KitError) as refused:
        check_allocation(space_of(folder, table, *overrides, **options))
    (fault,) = refused.value.faults
    return fault


@pytest.mark.parametrize(
    ("trials", "remedy"), [(20, "18 or 21"), (2, "3"), (4, "3 or 6"), (999_998, "999996 or 999999")]
)
def test_trials_that_cannot_be_divided_are_refused_with_the_nearest_that_can(
    trials: int, remedy: str, tmp_path: Path
) -> None:
    fault = refusal(tmp_path, OPTIMIZERS, trials=trials)
    assert fault.location.endswith("exp.toml:24")
    assert fault.key == "sweep.trials"
    labels = "optimizer.use = adamw; optimizer.use = muon; optimizer.use = sgd"
    assert fault.message.startswith(f"{trials} trials cannot be divided equally among 3 branches ({labels}), as ")
    assert fault.message.endswith(f"write trials = {remedy}")


def test_trials_that_are_enough_for_all_points_need_no_division(tmp_path: Path) -> None:
    space = space_of(tmp_path, FINITE, sampler="grid")  # 4, 6 and 1 points, and the default: 20 trials
    check_allocation(space)
    assert counts(run(opened(space, tmp_path / "sweep"), 99)) == {"adamw": 4, "muon": 6, "sgd": 1}
    assert refusal(tmp_path, FINITE, sampler="grid", trials=17).message.endswith("write trials = 15 or 18")


def test_such_trials_are_refused_where_they_were_written_and_before_anything_starts(tmp_path: Path) -> None:
    assert refusal(tmp_path, OPTIMIZERS, "sweep.trials=7", trials=6).location == "command line"
    assert refusal(tmp_path, OPTIMIZERS).location.endswith("exp.toml:22")  # the default: the table
    experiment = space_of(tmp_path, OPTIMIZERS, trials=7).base
    with pytest.raises(KitError, match=r"exp.toml:24: sweep.trials: 7 trials .* write trials = 6 or 9"):
        session.check_sweep(experiment)
    assert not (tmp_path / "runs").exists()


def test_a_space_without_branches_is_refused_with_what_to_write(tmp_path: Path) -> None:
    ranges = '"model.n_layer" = { int = [1, 3] }\n'
    dependent = '"model.norm" = { choice = ["layernorm", "rmsnorm"], when = { "model.n_layer" = 2 } }\n'
    many = f'"model.n_embd" = {{ choice = {list(range(24, 224))} }}\n'
    for table, reason in {
        ranges: 'no key of [sweep.space] is a choice; add one, such as "optimizer.use" = { choice = ',
        ranges + dependent: "each choice of [sweep.space] depends on a range; add one",
        many: "[sweep.space] has more than 100; vary fewer choices",
    }.items():
        fault = refusal(tmp_path, table)
        assert fault.location.endswith("exp.toml:23")
        assert fault.key == "sweep.allocate"
        assert reason in fault.message
        assert fault.message.endswith('or write allocate = "sampler"')


def test_a_sweep_that_has_begun_keeps_its_allocation(tmp_path: Path) -> None:
    storage = InMemoryStorage()
    opened(space_of(tmp_path, TWO, trials=4), tmp_path / "sweep", storage)
    with pytest.raises(KitError) as refused:
        opened(space_of(tmp_path, TWO, 'sweep.allocate="sampler"', trials=4), tmp_path / "sweep", storage)
    fault = refused.value.faults[0]
    assert (fault.location, fault.key) == ("command line", "sweep.allocate")
    assert fault.message == "was equal when the sweep began and is sampler now"


# What a branch learns from


BEST = {"adamw": (1e-3, 0.4), "muon": (0.02, 0.1)}  # rate and dropout


def planted(config: Config) -> float:
    """How far off the best of its branch a trial is; any adamw is better than the best muon."""
    rate, dropout = BEST[config["optimizer.use"]]
    off = abs(math.log10(config["optimizer.lr"] / rate)) + 4 * abs(float(config["model.dropout"]) - dropout)
    return 100 + off if config["optimizer.use"] == "muon" else off


def test_the_worse_branch_is_tuned_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning from all trials, the best of which are all adamw's, it would go to adamw's best dropout."""

    def off(learns_from: str, sampler: str, use: str) -> float:
        found = []
        for seed in (1, 2, 3):
            space = space_of(tmp_path, TWO, sampler=sampler, seed=seed, trials=60)
            configs = run(opened(space, tmp_path / f"{learns_from}-{sampler}-{use}-{seed}"), 99, planted)
            found.append(min(planted(config) for config in configs if config["optimizer.use"] == use))
        return statistics.median(found)

    for sampler in ("tpe", "cmaes"):
        assert off("own", sampler, "muon") < 100.2
    assert off("own", "tpe", "adamw") < 0.2
    monkeypatch.setattr(sampler_module, "branch_part", lambda study, branches, trial: study)
    assert off("all", "tpe", "muon") > 100.5


def test_the_random_trials_that_tpe_begins_with_are_counted_in_each_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 of 30 trials would be random; of 15 in a branch, 5 are."""
    begins: list[int] = []
    original = optuna.samplers.TPESampler

    def sampler(n_startup_trials: int, **options: Any) -> optuna.samplers.TPESampler:
        begins.append(n_startup_trials)
        return original(n_startup_trials=n_startup_trials, **options)

    monkeypatch.setattr(optuna.samplers, "TPESampler", sampler)
    run(opened(space_of(tmp_path, TWO, sampler="tpe", trials=30), tmp_path / "sweep"), 3)
    assert set(begins) == {5}


def test_a_branch_tries_the_same_whatever_the_results_of_another(tmp_path: Path) -> None:
    for sampler in SAMPLERS:
        space = space_of(tmp_path, TWO, sampler=sampler, trials=30)

        def muon(of_adamw: float, space: Space = space, sampler: str = sampler) -> list[Config]:
            def objective(config: Config) -> float:
                return planted(config) if config["optimizer.use"] == "muon" else of_adamw

            configs = run(opened(space, tmp_path / f"{sampler}{of_adamw}"), 99, objective)
            return [config for config in configs if config["optimizer.use"] == "muon"]

        assert muon(-1.0) == muon(1000.0)


def test_qmc_spreads_the_points_of_each_branch_evenly(tmp_path: Path) -> None:
    """Of 16 points one lies in each sixteenth of every range; of every second point of 32 that does not hold."""
    for seed in range(3):
        space = space_of(tmp_path, TWO, sampler="qmc", seed=seed, trials=32)
        configs = run(opened(space, tmp_path / str(seed)), 99)
        for use, high in {"adamw": 1e-1, "muon": 1.0}.items():
            branch = [config for config in configs[1:] if config["optimizer.use"] == use]  # without the one as written
            rates = [math.log(config["optimizer.lr"] / 1e-4) / math.log(high / 1e-4) for config in branch]
            for fractions in ([config["model.dropout"] / 0.5 for config in branch], rates):
                assert len({int(16 * fraction) for fraction in fractions}) == len(branch)


# What a pruner compares with

TOKENS = 2700


def pruned(folder: Path, pruner: str, values: Callable[[str, int], float], trials: int) -> dict[str, list[int]]:
    """The trials that are pruned in each branch, by index in it; `values` are of the nth trial of a branch."""
    space = space_of(folder, TWO, sampler="random", pruner=pruner, min_tokens=300, trials=trials)
    study = opened(space, folder / f"{pruner}-{random.random()}")
    found: dict[str, list[int]] = {"adamw": [], "muon": []}
    tried = Counter[str]()
    study.optuna_study.pruner = make_pruner(space.options, TOKENS, study.plan.branches)  # of trials this short
    while (trial := study.claim()) is not None:
        use = study.config(trial)["optimizer.use"]
        value = values(use, tried[use])
        for at in range(1, 10):
            trial.report(value + 1 / at, at * TOKENS // 9)
            if at < 9 and trial.should_prune():
                study.optuna_study.tell(trial, state=TrialState.PRUNED)
                found[use].append(tried[use])
                break
        else:
            study.optuna_study.tell(trial, value)
        tried[use] += 1
    return found


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_a_trial_is_pruned_by_those_of_its_branch_alone(pruner: str, tmp_path: Path) -> None:
    def improving(use: str, index: int) -> float:
        return (100.0 if use == "muon" else 10.0) - index

    def worsening(use: str, index: int) -> float:
        return (100.0 if use == "muon" else 10.0) + index

    assert pruned(tmp_path, pruner, improving, 24) == {"adamw": [], "muon": []}
    worst = pruned(tmp_path, pruner, worsening, 24)
    assert worst["adamw"]
    assert worst["muon"] == worst["adamw"]  # what is true of one branch is true of the other


def test_a_preview_expects_that_a_trial_of_each_branch_continues(tmp_path: Path) -> None:
    for allocate, branches in {"equal": 3, "sampler": 1}.items():
        space = space_of(tmp_path, OPTIMIZERS, f'sweep.allocate="{allocate}"', pruner="asha", min_tokens=100)
        assert branch_count(space) == branches
        rungs = expected_rungs(space.options, 12, TOKENS, branch_count(space))
        assert [rung.trials for rung in rungs] == [max(branches, 12 / factor) for factor in (3, 9, 27)]


def test_patience_goes_with_equal_allocation(tmp_path: Path) -> None:
    assert pruned(tmp_path, "patience", lambda use, index: 1.0, 4) == {"adamw": [], "muon": []}


def test_a_sweep_prunes_within_branches_only_where_they_are_tuned_equally(tmp_path: Path) -> None:
    for allocate in ("equal", "sampler"):
        space = space_of(tmp_path, TWO, f'sweep.allocate="{allocate}"', pruner="median")
        study = opened(space, tmp_path / allocate)
        assert isinstance(study.optuna_study.pruner, BranchPruner) == (allocate == "equal")
