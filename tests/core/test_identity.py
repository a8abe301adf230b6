"""The configuration of two runs is equal where only their seeds can make their results differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.code_identity import code_identity
from nanogpt_kit.core.errors import KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.identity import DECIDE_NOTHING
from nanogpt_kit.core.options import leaves

FILES = sorted((Path(__file__).parents[2] / "experiments").glob("*.toml"))
INERT = ["train.seed=7", "train.threads=1", "name=other", "note='a reason'", "sample.num_samples=3"]
MLP = "from nanogpt_kit.components.mlp.gelu import GELU\n\n\nclass Mine(GELU):\n    pass\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_experiment_that_a_run_records_has_the_configuration_of_its_file(path: Path, tmp_path: Path) -> None:
    first = Experiment.load(path)
    (tmp_path / "experiment.toml").write_text(first.to_toml(with_copies=True), encoding="utf-8")
    again = Experiment.load(tmp_path / "experiment.toml", INERT)
    assert again.configuration() == first.configuration()
    assert again.configuration() != Experiment.load(path, ["optimizer.lr=0.0123"]).configuration()


def test_all_that_names_explains_or_places_a_run_is_left_out() -> None:
    first = Experiment.load("quickstart")
    for change in INERT:
        assert first.with_(change).configuration() == first.configuration(), change
    swept = first.with_(sweep={"space": {"optimizer.lr": {"choice": [1e-3, 2e-3]}}})
    assert swept.configuration() == first.configuration()


def changed(value: Any) -> list[Any]:
    """Other values of the same type, some of which may be refused."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, value - 1]
    if isinstance(value, float):
        return [value * 0.5, value + 0.125]
    return ["cpu", "fp32", "off", "exact", f"{value}x"]


def test_every_other_option_is_part_of_it() -> None:
    written = ["order=shuffled", "init=gpt2", "callback=['early_stopping', 'ema']"]
    first = Experiment.load("quickstart", [*written, "train.max_tokens=1_000_000"])
    tried = []
    for key, value in leaves(first.resolved()):
        if key in DECIDE_NOTHING or key[-1] == "use":
            continue
        for other in changed(value):
            try:
                experiment = first.with_({dotted(key): other})
            except KitError:
                continue
            assert (experiment.configuration() != first.configuration()) == (other != value), key
            tried.append(key[0])
    sections = {"dataset", "order", "model", "init", "optimizer", "schedule", "train", "evaluate", "checkpoint"}
    assert set(tried) >= {*sections, "callback", "sample", "sampler"}
    assert len(tried) > 60


def test_components_are_part_of_it() -> None:
    first = Experiment.load("quickstart")
    changes = ["model.mlp=relu2", "schedule=constant", "evaluator=['loss']", "callback=['ema']", "parallel=ddp"]
    assert len({first.with_(change).configuration() for change in changes} | {first.configuration()}) == 6


def test_callbacks_that_only_report_are_part_of_neither_identity() -> None:
    averaged = "{use='ema', decay=0.9}"
    first = Experiment.load("quickstart", [f"callback=['console', {averaged}]"])
    for callbacks in (f"['tensorboard', {averaged}, 'console']", f"[{averaged}]"):
        other = first.with_(f"callback={callbacks}")
        assert (other.configuration(), code_identity(other)) == (first.configuration(), code_identity(first))
    for callbacks in ("['console']", "['console', {use='ema', decay=0.8}]"):
        assert first.with_(f"callback={callbacks}").configuration() != first.configuration()
    assert code_identity(first.with_("callback=['console']")) == code_identity(first.with_("callback=[]"))


def test_it_does_not_depend_on_how_the_values_were_written(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "below.toml").write_text('extends = "tiny.toml"\nname = "below"\noptimizer.lr = 1e-4\n')
    base = Experiment.load(tiny, ["optimizer.lr=0.0001"]).configuration()
    assert Experiment.load(tmp_path / "below.toml").configuration() == base
    assert Experiment.load(tiny).with_(optimizer={"lr": 1e-4}).configuration() == base
    assert Experiment.load(tiny, ["optimizer.lr=1e-4", "model.mlp=nanogpt-kit/gelu"]).configuration() == base


def test_of_a_component_file_the_content_counts_and_not_its_place(tmp_path: Path, tiny: Path) -> None:
    def load(folder: str, content: str) -> Experiment:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mine.py").write_text(content, encoding="utf-8")
        return Experiment.load(tiny, [f"components=['{folder}/mine.py']", "model.mlp=mine"], trust_code=True)

    first = load("here", MLP)
    assert load("there", MLP).configuration() == first.configuration()
    assert load("there", MLP + "# edited\n").configuration() != first.configuration()


def test_another_distribution_that_offers_the_same_name_changes_nothing(
    tmp_path: Path, tiny: Path, install: Callable[..., None]
) -> None:
    install("dist-one", "[nanogpt_kit.mlp]\nmine = one:Mine\n", one=MLP)
    first = Experiment.load(tiny, ["model.mlp=mine"])
    assert first.resolved()["model"]["mlp"]["use"] == "dist-one/mine"
    install("dist-two", "[nanogpt_kit.mlp]\nmine = two:Mine\n", two=MLP)
    again = Experiment.load(tiny, ["model.mlp=dist-one/mine"])
    assert again.resolved()["model"]["mlp"]["use"] == "dist-one/mine"
    assert again.configuration() == first.configuration()
    assert Experiment.load(tiny, ["model.mlp=dist-two/mine"]).configuration() != first.configuration()


def test_a_note_is_recorded_and_changes_neither_identity() -> None:
    first = Experiment.load("quickstart")
    noted = first.with_({"note": "does a smaller rate help?"})
    assert 'note = "does a smaller rate help?"' in noted.to_toml()
    assert (noted.fingerprint(), noted.configuration()) == (first.fingerprint(), first.configuration())
