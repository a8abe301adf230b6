"""`Experiment.with_`: a changed copy, with the rules and the messages of the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.components.optimizer.sgd import SGD
from nanogpt_kit.core.errors import KitError, NotFinite
from nanogpt_kit.core.experiment import Experiment


@pytest.fixture
def experiment(tiny: Path) -> Experiment:
    return Experiment.load(tiny)


def test_texts_mappings_and_keywords_change_the_same_keys(experiment: Experiment) -> None:
    ways: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (("optimizer.lr=3e-4", "train.steps=7"), {}),
        (({"optimizer.lr": 3e-4, "train.steps": 7},), {}),
        ((), {"optimizer.lr": 3e-4, "train.steps": 7}),
        (("train.steps=7",), {"optimizer": {"lr": 3e-4}}),
        ((), {"optimizer.lr": np.float64(3e-4), "train": {"steps": np.int64(7)}}),
    ]
    for changes, options in ways:
        changed = experiment.with_(*changes, **options)
        assert changed.differences(experiment) == {
            "optimizer.lr": (3e-4, experiment.optimizer.lr),  # type: ignore[attr-defined]
            "train.steps": (7, experiment.train.steps),
        }
        assert changed.location(("train", "steps")) == "with_"
        assert type(changed.train.steps) is int


def test_the_experiment_itself_stays_as_it_is(experiment: Experiment) -> None:
    before = experiment.to_toml()
    experiment.with_("model.n_layer=3", optimizer="sgd")
    assert experiment.to_toml() == before
    assert experiment.location(("model", "n_layer")) != "with_"


def test_another_component_drops_the_options_of_the_one_before(experiment: Experiment) -> None:
    changed = experiment.with_("optimizer.momentum=0.8", {"optimizer.lr": 0.25}, optimizer="sgd")
    assert changed.optimizer == SGD(lr=0.25, momentum=0.8)
    assert "'sgd' (with_) replaces 'adamw'" in changed.notes[0]


def test_a_value_may_be_a_component_or_a_section_of_another_experiment(experiment: Experiment) -> None:
    other = experiment.with_("model.n_layer=3", "model.logit_softcap=20.0", "train.max_tokens=512")
    assert experiment.with_(optimizer=SGD(lr=0.5)).optimizer == SGD(lr=0.5)
    assert experiment.with_(model=other.model, train=other.train) == other
    assert other.with_(model=experiment.model, train=experiment.train) == experiment, "what is unset there is unset"
    assert experiment.with_(sampler=[other.sampler[1], "greedy"]).resolved()["sampler"][1] == {"use": "greedy"}


def test_none_leaves_an_option_out(experiment: Experiment) -> None:
    bounded = experiment.with_(**{"train.max_seconds": 9.5})
    assert bounded.train.max_seconds == 9.5
    assert bounded.with_(train={"max_seconds": None}) == experiment


def test_a_path_is_a_text(experiment: Experiment, tmp_path: Path) -> None:
    changed = experiment.with_(**{"dataset.source": [tmp_path / "a.txt"]})
    assert changed.resolved()["dataset"]["source"] == [str(tmp_path / "a.txt")]


def test_values_of_numpy_and_iterators_are_values(experiment: Experiment) -> None:
    changed = experiment.with_(
        {"train.steps": np.int64(7), "optimizer.lr": np.float64(0.25), "model.qk_norm": np.bool_(True)},
        {"optimizer.betas": np.array([0.5, 0.75]), "train.seed": np.array(3)},
        callback=(name for name in ("console", "ema")),
    )
    values = tomllib.loads(changed.with_("train.grad_clip=0.5").to_toml())
    assert (values["train"]["steps"], values["train"]["seed"], values["optimizer"]["lr"]) == (7, 3, 0.25)
    assert values["model"]["qk_norm"] is True
    assert values["optimizer"]["betas"] == [0.5, 0.75]
    assert [callback["use"] for callback in values["callback"]] == ["console", "ema"]


def test_one_override_may_be_a_text(tiny: Path) -> None:
    assert Experiment.load(tiny, "train.steps=7").train.steps == 7


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        (("optimizer.lrr=1",), "optimizer.lrr", "did you mean 'lr'?"),
        (({"train.steps": "many"},), "train.steps", "should be a whole number, got 'many'"),
        (({"optimizer.lr": None},), "optimizer.lr", "should be a number, got None"),
        (({"model.mlp": "swigul"},), "model.mlp", "did you mean 'swiglu'?"),
        (({"callback": "ema"},), "callback", "should be a list"),
        (({"a b": 1},), "", "expected a dotted key such as 'optimizer.lr', got 'a b'"),
        (({3: 1},), "", "expected a dotted key such as 'optimizer.lr', got 3"),
        (("steps",), "", "expected key=value, as in optimizer.lr=3e-4, got 'steps'"),
        ((["optimizer.lr=1"],), "", "expected texts such as 'optimizer.lr=3e-4' or dicts, got ['optimizer.lr=1']"),
        ((None,), "", "expected texts such as 'optimizer.lr=3e-4' or dicts, got None"),
        (({"callback": {"ema"}},), "callback", "expected a list, since a set has no order, got {'ema'}"),
        (({"extends": "tiny"},), "extends", "is not an option"),
    ],
)
def test_a_mistake_gets_a_sentence(experiment: Experiment, changes: tuple[Any, ...], key: str, message: str) -> None:
    with pytest.raises(KitError) as caught:
        experiment.with_(*changes)
    [fault] = caught.value.faults
    assert (fault.location, fault.key) == ("with_", key)
    assert message in fault.message


def test_all_mistakes_of_a_stage_are_reported_at_once(experiment: Experiment) -> None:
    with pytest.raises(KitError) as caught:
        experiment.with_("optimizer.lrr=1", train={"steps": -1}, model={"n_layer": "two"})
    assert {fault.key for fault in caught.value.faults} == {"optimizer.lrr", "model.n_layer", "train.steps"}


def test_a_local_component_that_a_call_names_is_used(experiment: Experiment, tiny: Path) -> None:
    code = "from nanogpt_kit.api import MLP\nfrom torch import nn\n\nclass Plain(MLP):\n    def build(self, ctx):\n"
    tiny.with_name("plain.py").write_text(code + "        return nn.Identity()\n", encoding="utf-8")
    changed = experiment.with_(components=["plain.py"], **{"model.mlp": "plain"})
    assert changed.with_("train.seed=7").resolved()["model"]["mlp"] == {"use": "plain"}


def test_the_repr_is_one_short_line(experiment: Experiment) -> None:
    line = repr(experiment.with_("model.n_layer=3", "optimizer.lr=0.025", "train.steps=1500"))
    assert line.startswith("<Experiment tiny: gpt ")
    assert " n_layer=3" in line
    assert ", adamw lr=0.025, 1,500 steps of " in line
    assert len(line) < 150
    assert str(experiment) == repr(experiment)


def test_a_notebook_shows_a_mistake_without_a_traceback(experiment: Experiment) -> None:
    """IPython prints the lines that `_render_traceback_` returns."""
    with pytest.raises(KitError) as caught:
        experiment.with_("train.steps=-1", "train.sed=2")
    caught.value.add_note("what to do")
    assert "\n".join(caught.value._render_traceback_()) == f"KitError: {caught.value}\nwhat to do"
    assert NotFinite("the loss is nan")._render_traceback_() == ["NotFinite: the loss is nan"]
    assert len(caught.value.faults) == 2
