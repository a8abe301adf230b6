"""What a sweep tries next and what it gives up, asked of real Optuna studies."""

from __future__ import annotations

import importlib.util
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import qmc

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.space.parameters import Config
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.sampler import (
    ResumableSampler,
    check_sampler_package,
    first_rung_tokens,
    make_pruner,
    report_unit,
)
from nanogpt_kit.sweep.work.outcome import failed_outcome

BASE = Path(__file__).with_name("base.toml").read_text(encoding="utf-8")
FINITE = """\
"model.n_layer" = { int = [1, 3] }
"optimizer.use".choice.adamw."model.dropout" = { float = [0.0, 0.3], step = 0.1 }
"optimizer.use".choice.sgd = {}
"""
POINTS = 3 * (4 + 1)
ENDLESS = """\
"optimizer.lr" = { float = [1e-4, 1e-2], log = true }
"model.n_layer" = { int = [1, 8] }
"optimizer.use".choice.adamw."model.dropout" = { float = [0.0, 0.5] }
"optimizer.use".choice.sgd."model.n_embd" = { int = [24, 240], step = 24 }
"""
SAMPLERS = ("tpe", "random", "qmc", "cmaes")
Objective = Callable[[Config], float]


def space_of(folder: Path, space: str, **options: Any) -> Space:
    table = "".join(f"{key} = {value!r}\n".replace("'", '"') for key, value in options.items())
    path = folder / "exp.toml"
    path.write_text(f"{BASE}[sweep]\n{table}[sweep.space]\n{space}", encoding="utf-8")
    return Space(Experiment.load(path))


def study_of(space: Space, storage: BaseStorage | None = None, tokens: int = 2700, queue: int = 100) -> optuna.Study:
    """A new study, or what a controller that starts again sees of one that is in the storage."""
    chooser = ResumableSampler(space, space.options)
    how: Any = {"sampler": chooser, "pruner": make_pruner(space.options, tokens), "study_name": "x"}
    direction = space.options.direction
    study = optuna.create_study(storage=storage or InMemoryStorage(), load_if_exists=True, direction=direction, **how)
    chooser.study = study
    if not study.trials:
        for _ in range(queue):
            study.enqueue_trial({})
    return study


def depth(config: Config) -> float:
    """Deep models with little dropout are best."""
    return -float(config["model.n_layer"]) + float(config.get("model.dropout", 0.15))


def run(space: Space, study: optuna.Study, trials: int, objective: Objective = depth) -> list[Config]:
    configs = []
    for _ in range(trials):
        trial = study.ask()
        configs.append(space.suggest(trial))
        study.tell(trial, objective(configs[-1]))
    return configs


def is_without_repeats(configs: list[Config]) -> bool:
    return all(configs.count(config) == 1 for config in configs)


# What is tried


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_is_exhausted_without_trying_a_point_twice(sampler: str, tmp_path: Path) -> None:
    space = space_of(tmp_path, FINITE, sampler=sampler)
    configs = run(space, study_of(space), POINTS)
    points = space.points()
    assert points is not None
    assert len(points) == POINTS
    assert all(configs.count(point) == 1 for point in points)


def test_a_branch_without_ranges_is_tried_once(tmp_path: Path) -> None:
    text = '"optimizer.use".choice = { adamw = { optimizer.lr = { float = [1e-4, 1e-2] } }, sgd = {} }'
    for sampler in SAMPLERS:
        space = space_of(tmp_path, text, sampler=sampler)
        configs = run(space, study_of(space), 25, lambda config: float(config["optimizer.use"] == "adamw"))
        assert sum(config["optimizer.use"] == "sgd" for config in configs) == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("text", [FINITE, ENDLESS], ids=["finite", "endless"])
def test_a_study_that_is_continued_goes_on_as_it_would_have(sampler: str, text: str, tmp_path: Path) -> None:
    space = space_of(tmp_path, text, sampler=sampler)
    uninterrupted = run(space, study_of(space), POINTS)
    storage = InMemoryStorage()
    configs = []
    for _ in range(3):
        configs += run(space, study_of(space, storage), POINTS // 3)
    assert is_without_repeats(configs)
    assert configs == uninterrupted


def test_another_seed_tries_other_points(tmp_path: Path) -> None:
    for sampler in SAMPLERS:
        spaces = [space_of(tmp_path, ENDLESS, sampler=sampler, seed=seed) for seed in (1, 2)]
        one, other = (run(space, study_of(space), 5) for space in spaces)
        assert not any(config in other for config in one)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trial_that_a_kill_left_with_half_of_its_values_keeps_them(sampler: str, tmp_path: Path) -> None:
    def again() -> optuna.Study:
        return study_of(space, JournalStorage(JournalFileBackend(str(tmp_path / "journal"))))

    space = space_of(tmp_path, FINITE, sampler=sampler)
    study = again()
    configs = run(space, study, 4)
    halves = []
    for count in (1, 2):  # the second knows its branch, too
        trial = study.ask()
        for one in space.parameters[:count]:
            one.suggest(trial)
        halves.append((trial._trial_id, space.from_optuna(trial.params)))
    study = again()
    configs += run(space, study, 2)
    for number, half in halves:
        trial = optuna.Trial(study, number)
        configs.append(space.suggest(trial))
        assert half.items() <= configs[-1].items()
        study.tell(trial, 0.0)
    configs += run(space, again(), POINTS - len(configs))
    assert is_without_repeats(configs)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trials_at_work_at_once_differ(sampler: str, tmp_path: Path) -> None:
    space = space_of(tmp_path, FINITE, sampler=sampler)
    study = study_of(space)
    trials = [study.ask() for _ in range(POINTS)]
    assert is_without_repeats([space.suggest(trial) for trial in trials])


def test_qmc_covers_a_space_more_evenly_than_random_draws(tmp_path: Path) -> None:
    text = "".join(
        f'"{key}" = {{ float = [0.0, 0.5] }}\n'
        for key in ("model.dropout", "optimizer.weight_decay", "schedule.final_fraction")
    )

    def unevenness(sampler: str, seed: int) -> float:
        space = space_of(tmp_path, text, sampler=sampler, seed=seed)
        configs = run(space, study_of(space), 32, lambda config: 0.0)
        return float(qmc.discrepancy(np.array([list(config.values()) for config in configs]) / 0.5))

    found = {name: [unevenness(name, seed) for seed in range(5)] for name in ("qmc", "random")}
    assert statistics.median(found["qmc"]) < 0.5 * statistics.median(found["random"])
    assert max(found["qmc"]) < min(found["random"])


def test_qmc_gives_each_choice_and_each_whole_number_its_share(tmp_path: Path) -> None:
    text = '"model.n_layer" = { int = [1, 4] }\n"optimizer.lr" = { float = [1e-3, 1e-2] }\n'
    text += '"model.attention" = { choice = ["sdpa", "naive"] }'
    space = space_of(tmp_path, text, sampler="qmc")
    configs = run(space, study_of(space, queue=64), 64)
    for key, values in {"model.n_layer": (1, 2, 3, 4), "model.attention": ("sdpa", "naive")}.items():
        counts = [sum(config[key] == value for config in configs) for value in values]
        assert max(counts) - min(counts) <= 2


def planted(config: Config) -> float:
    """Best where muon has a rate of 0.02; adamw at its own best rate is a little worse."""
    best, rate = (0.0, 0.02) if config["optimizer.use"] == "muon" else (0.3, 3e-3)
    off = math.log(config["optimizer.lr"] / rate) ** 2
    return best + off + 0.1 * (config["model.n_layer"] - 6) ** 2 + 4 * (config["model.dropout"] - 0.1) ** 2


PLANTED = """\
"model.n_layer" = { int = [1, 12] }
"model.dropout" = { float = [0.0, 0.5] }
"optimizer.use".choice.adamw."optimizer.lr" = { float = [1e-4, 1e-1], log = true }
"optimizer.use".choice.muon."optimizer.lr" = { float = [1e-4, 1.0], log = true }
"""


def test_tpe_finds_a_planted_optimum_in_a_conditional_space_sooner_than_random_draws(tmp_path: Path) -> None:
    def best(sampler: str, seed: int) -> float:
        space = space_of(tmp_path, PLANTED, sampler=sampler, seed=seed, trials=60)
        return min(map(planted, run(space, study_of(space), 60, planted)))

    found = {name: [best(name, seed) for seed in range(6)] for name in ("tpe", "random")}
    assert statistics.median(found["tpe"]) < 0.5 * statistics.median(found["random"])
    assert statistics.median(found["tpe"]) < 0.3  # so that it went to the better branch


def test_tpe_goes_up_where_high_values_are_good(tmp_path: Path) -> None:
    text = '"model.n_layer" = { int = [1, 1000] }'
    space = space_of(tmp_path, text, sampler="tpe", direction="maximize", trials=30)
    configs = run(space, study_of(space), 30, lambda config: float(config["model.n_layer"]))
    assert statistics.median(config["model.n_layer"] for config in configs[15:]) > 800


def test_memory_that_runs_out_is_learnt_from(tmp_path: Path) -> None:
    """Larger models are better up to an edge, beyond which memory runs out: in 19 of 60 trials, else in 43."""
    text = '"model.n_layer" = { int = [1, 48], log = true }\n"model.n_embd" = { int = [48, 1536], step = 48 }\n'
    text += '"optimizer.lr" = { float = [1e-4, 1e-2], log = true }\n'
    edge = math.log(12 * 12 * 768**2)

    def out_of_memory(state: TrialState, seed: int) -> tuple[int, float]:
        space = space_of(tmp_path, text, sampler="tpe", seed=seed, trials=60)
        study = study_of(space)
        for _ in range(60):
            trial = study.ask()
            config = space.suggest(trial)
            size = math.log(12 * config["model.n_layer"] * config["model.n_embd"] ** 2)
            if size > edge:
                study.tell(trial, state=state)
            else:
                study.tell(trial, -0.3 * size + 0.1 * math.log(config["optimizer.lr"] / 1e-3) ** 2)
        states = [trial.state for trial in study.trials if trial.state.is_finished()]
        return states.count(state), study.best_value

    pruned = [out_of_memory(failed_outcome("oom", "no room").state, seed) for seed in range(3)]
    failed = [out_of_memory(TrialState.FAIL, seed) for seed in range(3)]
    wasted = [statistics.mean(count for count, _ in counts) for counts in (pruned, failed)]
    assert wasted[0] < 0.6 * wasted[1]
    assert statistics.median(best for _, best in pruned) <= statistics.median(best for _, best in failed) + 0.05


# What is given up

EVALUATIONS = 27
TOKENS = 2700


def curve(config: Config, seed: int) -> list[float]:
    """Losses as they fall with the tokens: to a floor that the rate decides on, fast rates quickly; with some noise."""
    off = math.log(config["optimizer.lr"] / 1e-3)
    floor, speed = 3.0 + 0.15 * off**2, 0.5 + 0.05 * off
    noise = random.Random(f"{seed} {config['optimizer.lr']}")
    return [floor + 2.5 * (1 + at) ** -speed + noise.gauss(0, 0.01) for at in range(EVALUATIONS)]


def spent_and_best(folder: Path, pruner: str, seed: int, sign: int = 1, trials: int = 40) -> tuple[int, int, float]:
    """Evaluations of all trials, the number of the best, and its value."""
    text = '"optimizer.lr" = { float = [1e-5, 1e-1], log = true }'
    direction = "minimize" if sign > 0 else "maximize"
    space = space_of(folder, text, sampler="random", pruner=pruner, seed=seed, direction=direction)
    study = study_of(space, tokens=TOKENS, queue=trials)
    unit, least = report_unit(TOKENS), first_rung_tokens(space.options, TOKENS)
    spent = 0
    for _ in range(trials):
        trial = study.ask()
        losses = curve(space.suggest(trial), seed)
        for number, loss in enumerate(losses, start=1):
            spent += 1
            tokens = number * TOKENS // EVALUATIONS
            trial.report(sign * loss, tokens // unit)
            if tokens >= least and number < EVALUATIONS and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, sign * losses[-1])
    return spent, study.best_trial.number, sign * study.best_value


@pytest.mark.parametrize(("pruner", "share"), [("asha", 0.5), ("hyperband", 0.7), ("median", 0.6)])
def test_a_pruner_saves_tokens_and_keeps_the_best_trial(pruner: str, share: float, tmp_path: Path) -> None:
    found = [(spent_and_best(tmp_path, pruner, seed), spent_and_best(tmp_path, "none", seed)) for seed in range(5)]
    shares = [ours[0] / theirs[0] for ours, theirs in found]
    assert statistics.median(shares) <= share
    assert statistics.median(ours[1] == theirs[1] for ours, theirs in found) == 1
    assert all(ours[2] <= theirs[2] + 0.05 for ours, theirs in found)


PRUNERS = ("median", "asha", "hyperband", "patience")
PAIRS = [
    pytest.param(sampler, pruner, marks=() if SAMPLERS.index(sampler) == PRUNERS.index(pruner) else pytest.mark.slow)
    for sampler in SAMPLERS
    for pruner in PRUNERS
]


@pytest.mark.parametrize(("sampler", "pruner"), PAIRS)
def test_every_sampler_goes_with_every_pruner(sampler: str, pruner: str, tmp_path: Path) -> None:
    text = FINITE + '"model.norm" = { choice = ["layernorm", { use = "rmsnorm", eps = 1e-6 }, "rmsnorm"] }'
    space = space_of(tmp_path, text, sampler=sampler, pruner=pruner)
    study = study_of(space, tokens=TOKENS)
    configs = []
    for number in range(30):
        trial = study.ask()
        configs.append(space.suggest(trial))
        for step in range(1, 6):
            trial.report(depth(configs[-1]) + 1 / step, step * TOKENS // 5)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            if number % 7 == 3:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, depth(configs[-1]))
    assert is_without_repeats(configs)
    assert [space.from_optuna(trial.params) for trial in study.trials[:30]] == configs


def test_pruners_know_the_direction(tmp_path: Path) -> None:
    for pruner in ("asha", "hyperband", "median"):
        assert spent_and_best(tmp_path, pruner, 1, sign=-1) == spent_and_best(tmp_path, pruner, 1)


def pruned_at(folder: Path, losses: list[float], **options: Any) -> int | None:
    """The evaluation, from 1, at which a trial was given up."""
    space = space_of(folder, '"optimizer.lr" = { float = [1e-5, 1e-1] }', sampler="random", min_tokens=1, **options)
    study = study_of(space, tokens=TOKENS)
    trial = study.ask()
    for number, loss in enumerate(losses, start=1):
        trial.report(loss, number * 100)
        if trial.should_prune():
            return number
    return None


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_lasts_as_many_evaluations_as_it_says(patience: int, tmp_path: Path) -> None:
    better = [3.0, 2.9, 2.8]
    at = pruned_at(tmp_path, [*better, *[2.85] * 10], pruner="patience", patience=patience)
    assert at is not None
    assert patience <= at - len(better) <= patience + 1
    assert pruned_at(tmp_path, [3.0 - 0.01 * at for at in range(27)], pruner="patience", patience=patience) is None


def test_nobody_is_pruned_where_no_pruner_is_asked_for(tmp_path: Path) -> None:
    assert pruned_at(tmp_path, [3.0] * 27, pruner="none") is None


def test_tokens_that_need_more_than_32_bits_are_reported_in_thousands() -> None:
    assert [report_unit(tokens) for tokens in (1, 2**31 - 1, 2**31, 10**12)] == [1, 1, 1000, 1000]
    for tokens in (2**31 - 1, 2**31, 10**12):
        assert tokens // report_unit(tokens) < 2**31


@pytest.mark.parametrize("tokens", [5, 2700, 10**9, 10**12])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_hyperband_has_few_brackets(tokens: int, factor: int, tmp_path: Path) -> None:
    space = space_of(tmp_path, FINITE, pruner="hyperband", reduction_factor=factor)
    study = study_of(space, tokens=tokens)
    trial = study.ask()
    trial.report(1.0, 1)
    trial.should_prune()
    assert 1 <= study.pruner._n_brackets <= 3


@pytest.mark.parametrize("pruner", ["none", "median", "asha", "hyperband", "patience"])
def test_a_trial_shorter_than_min_tokens_is_never_pruned(pruner: str, tmp_path: Path) -> None:
    space = space_of(tmp_path, FINITE, pruner=pruner, min_tokens=10**6)
    study = study_of(space, tokens=TOKENS)
    for _ in range(8):
        trial = study.ask()
        for number in range(1, 28):
            trial.report(1.0 + trial.number, number * 100)
            trial.should_prune()
        study.tell(trial, 1.0 + trial.number)
    assert first_rung_tokens(space.options, TOKENS) > TOKENS


def test_a_sampler_without_its_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of(tmp_path, FINITE, sampler="cmaes")
    check_sampler_package(space.options, "exp.toml:22")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError) as refused:
        check_sampler_package(space.options, "exp.toml:22")
    assert str(refused.value).startswith("exp.toml:22: sweep.sampler: cmaes requires ")
