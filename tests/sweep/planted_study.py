"""Sweeps as their controllers leave them in a study, without any run; and what a browser shows of their pages."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.sweep.report.report import write_report
from nanogpt_kit.sweep.space.parameters import Condition, Parameter, optuna_choice
from nanogpt_kit.sweep.study.confirmation import ConfirmationPlan
from nanogpt_kit.sweep.study.records import FORMAT, FreshSeed, Owner, TrialResult
from nanogpt_kit.sweep.study.stored_summary import read_summary
from nanogpt_kit.sweep.study.summary import SweepSummary

ADAMW, MUON = ((Condition("optimizer.use", (name,)),) for name in ("adamw", "muon"))
LR_ADAMW, LR_MUON = (f"optimizer.lr@optimizer.use={name}" for name in ("adamw", "muon"))
BRANCHES = ({"optimizer.use": "adamw"}, {"optimizer.use": "muon"})
PLACE = "experiment.toml:1"
LR = Parameter("optimizer.lr", (), PLACE, "float", 1e-4, 1e-2, log=True, name="optimizer.lr")
SPACE = [
    Parameter("optimizer.use", (), PLACE, "choice", choices=("adamw", "muon"), name="optimizer.use"),
    Parameter("optimizer.lr", ADAMW, PLACE, "float", 1e-4, 1e-2, log=True, name=LR_ADAMW),
    Parameter("optimizer.weight_decay", ADAMW, PLACE, "float", 0, 0.3, step=0.05, name="optimizer.weight_decay"),
    Parameter("optimizer.lr", MUON, PLACE, "float", 3e-3, 1e-1, log=True, name=LR_MUON),
    Parameter("model.n_layer", (), PLACE, "int", 2, 12, name="model.n_layer"),
    Parameter("model.norm", (), PLACE, "choice", choices=("layernorm", "rmsnorm"), name="model.norm"),
]
TOKENS = 50_000_000  # of a trial


def one_trial(
    number: int,
    config: dict[str, Any],
    value: float | None,
    state: TrialState = TrialState.COMPLETE,
    space: Sequence[Parameter] = (LR,),
    reports: dict[int, float] | None = None,
    **told: Any,
) -> FrozenTrial:
    active = [one for one in space if one.key in config and one.is_active(config)]
    cause = told.pop("cause", {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "error"}.get(state.name, ""))
    result = {"tokens": 1_000, "seconds": 2.5, "parameters": 10_000, **told}
    owner = Owner(folder="runs/planted/sweep", folder_id="planted", seen=0.0)
    attributes = {"owner": owner.stored()}
    if cause:
        attributes["result"] = TrialResult(cause=cause, **result).stored()
    return create_trial(
        state=state,
        value=value,
        params={one.name: optuna_choice(config[one.key]) for one in active},
        distributions={one.name: one.distribution() for one in active},
        intermediate_values=reports or {},
        user_attrs=attributes,
    )


def sweep_of(
    trials: Sequence[FrozenTrial],
    confirmed: dict[int, Sequence[float]] | None = None,
    /,
    name: str = "planted",
    space: Sequence[Parameter] = (LR,),
    trial_tokens: int = 1_000,
    branches: Sequence[Mapping[str, Any]] = (),
    **options: Any,
) -> tuple[SweepSummary, optuna.Study]:
    """A study as the controller leaves it, and what is read of it."""
    chosen = Sweep(space={"optimizer.lr": {"float": [1e-4, 1e-2]}}, **options)
    storage = InMemoryStorage()
    study = optuna.create_study(study_name=name, storage=storage, direction=chosen.direction)
    about = {
        "format": FORMAT,
        "plan": "search",
        "experiment": {"train": {"batch_tokens": 100, "seed": 7}},
        "trial_tokens": trial_tokens,
        "space": {one.name: str(one) for one in space},
        "count": len(trials),
        "branches": [dict(branch) for branch in branches],
    }
    for key, value in about.items():
        study.set_user_attr(key, value)
    study.add_trials(trials)
    if confirmed:
        again = optuna.create_study(
            study_name=name + ConfirmationPlan.suffix, storage=storage, direction=chosen.direction
        )
        again.set_user_attr("plan", ConfirmationPlan.kind)
        for number, values in confirmed.items():
            for seed, value in enumerate(values, start=7 + chosen.seeds):
                attributes = {"confirms": FreshSeed(trial=number, seed=seed).stored()}
                again.add_trial(create_trial(value=value, user_attrs=attributes))
    return read_summary(name, chosen, storage), study


def realistic(count: int = 40, evaluations: int = 25, seed: int = 3) -> tuple[SweepSummary, optuna.Study]:
    """Two optimizers, each with rates of its own; bad trials are pruned, deep ones run out of memory."""
    dice = random.Random(seed)
    trials = []
    for number in range(count):
        config: dict[str, Any] = {}
        for one in SPACE:
            if one.is_active(config):
                config[one.key] = one.at_fraction(dice.random())
        best_rate = 1.5e-3 if config["optimizer.use"] == "adamw" else 2e-2
        miss = math.log10(config["optimizer.lr"] / best_rate) ** 2
        depth = config["model.n_layer"]
        end = 3.1 + 0.5 * miss - 0.012 * depth + 0.03 * (config["model.norm"] == "layernorm") + dice.gauss(0, 0.01)
        end -= 0.04 * (config["optimizer.use"] == "muon")
        unit = TOKENS // evaluations
        reports = {
            unit * at: end + 7.0 / (1 + 0.6 * at) - 7.0 / (1 + 0.6 * evaluations) + dice.gauss(0, 0.006)
            for at in range(1, evaluations + 1)
        }
        cost = {"seconds": 40.0 * depth * dice.uniform(0.9, 1.3), "parameters": 786_432 * depth + 6_438_912}
        if number in (7, 23):
            why = "out of memory: 12.1 GB more were wanted, of 23.6 GB"
            trials.append(one_trial(number, config, None, TrialState.PRUNED, SPACE, cause="oom", reason=why))
        elif number == 29:
            why = "ValueError: micro_batch_size 12 does not divide 80"
            trials.append(one_trial(number, config, None, TrialState.FAIL, SPACE, reason=why))
        elif miss > 0.45 and number > 8:
            short = {at: reports[at] for at in list(reports)[: max(1, evaluations // 4)]}
            told = {"tokens": list(short)[-1], "seconds": cost["seconds"] / 4, "parameters": cost["parameters"]}
            last = list(short.values())[-1]
            why = f"val/loss {last:.4f} at {told['tokens']:,} tokens"
            trials.append(one_trial(number, config, last, TrialState.PRUNED, SPACE, short, reason=why, **told))
        else:
            last = reports[unit * evaluations]
            trials.append(one_trial(number, config, last, TrialState.COMPLETE, SPACE, reports, tokens=TOKENS, **cost))
    complete = sorted((trial.value, number) for number, trial in enumerate(trials) if trial.state.name == "COMPLETE")
    values = {number: value for value, number in complete}
    ranked = [number for _, number in complete]
    best_of = [n for branch in BRANCHES for n in [n for n in ranked if branch.items() <= trials[n].params.items()][:1]]
    chosen = dict.fromkeys([*ranked[:3], *[0] * (0 in values), *best_of])
    again = {number: [values[number] + 0.02 + dice.gauss(0, 0.012) for _ in range(3)] for number in chosen}
    about: dict[str, Any] = {"trials": count, "pruner": "asha", "confirm": 3, "confirm_seeds": 3}
    return sweep_of(trials, again, "fineweb-proxy", SPACE, TOKENS, BRANCHES, **about)


def rates(values: Sequence[float | None], lrs: Sequence[float] | None = None, **told: Any) -> list[FrozenTrial]:
    """Complete trials with these values, at rates in the middle of the range."""
    lrs = lrs or [1e-3 * (1 + 0.01 * at) for at in range(len(values))]
    pairs = enumerate(zip(values, lrs, strict=True))
    return [one_trial(at, {"optimizer.lr": lr}, value, **told) for at, (value, lr) in pairs]


def page_of(summary: SweepSummary, study: optuna.Study, folder: Path) -> str:
    path = folder / "report.html"
    write_report(summary, study, path)
    assert [one.name for one in folder.iterdir()] == ["report.html"], "nothing half-written is left"
    return path.read_text(encoding="utf-8")


class Fetched(HTMLParser):
    """What a browser would fetch for a page, and the words that it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.styles, self.words = "", ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
                self.addresses.append(value or "")
            if name == "style":
                self.styles += value or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.styles += data
        elif self.inside != "script":
            self.words += data


def shown(page: str) -> str:
    return " ".join(Fetched(page).words.split())


def figures_of(page: str) -> dict[str, list[tuple[list[dict[str, Any]], dict[str, Any]]]]:
    """(data, layout) of each figure of a page, by the title of its section."""
    found: dict[str, list[tuple[list[dict[str, Any]], dict[str, Any]]]] = {}
    decoder = json.JSONDecoder()
    for match in re.finditer(r'Plotly\.newPlot\(\s*"figure-\d+",\s*', page):
        data, end = decoder.raw_decode(page, match.end())
        start = re.compile(r"\s*,\s*").match(page, end)
        assert start is not None, "the layout follows"
        layout, _ = decoder.raw_decode(page, start.end())
        title = re.findall(r"<h2[^>]*>(.*?)</h2>", page[: match.start()])[-1]
        found.setdefault(title, []).append((data, layout))
    return found


def rows_of(page: str, section: str) -> list[list[dict[str, str]]]:
    """The rows of each table of a section, by the names of the columns."""
    after = page[re.search(rf"<h2[^>]*>{re.escape(section)}</h2>", page).end() :]  # type: ignore[union-attr]
    part = after.partition("<h2")[0]
    return [list(table_rows(table)) for table in re.findall(r"<table.*?</table>", part, re.DOTALL)]


def table_rows(table: str) -> Iterator[dict[str, str]]:
    def texts(row: str) -> list[str]:
        return [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]

    head, *rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    for row in rows:
        yield dict(zip(texts(head), texts(row), strict=True))
