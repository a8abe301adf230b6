"""Runs from Python: `nanogpt_kit.run`, `open_run` and what a `Run` offers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogpt_kit
from nanogpt_kit import Experiment, KitError, Run
from nanogpt_kit.runs.metrics import read_metrics

QUICK = ("callback=[]", "train.steps=4", "evaluate.every_steps=2", "train.log_every_steps=2", "sample.num_samples=0")


@pytest.fixture
def experiment(tiny: Path) -> Experiment:
    return Experiment.load(tiny, [*QUICK, "sample.max_new_tokens=5"])


@pytest.fixture
def run(experiment: Experiment) -> Run:
    trained = experiment.run()
    assert isinstance(trained, Run)
    return trained


def test_a_run_is_a_path_that_other_functions_accept(run: Run, experiment: Experiment) -> None:
    assert os.fspath(run) == str(run.path)
    assert Path(run, "metrics.jsonl").exists()
    assert nanogpt_kit.load_run(run).generate("7", max_new_tokens=3) == run.sample("7", 3)
    assert nanogpt_kit.load_run(run.path).generate("7", max_new_tokens=3) == run.sample("7", 3)
    assert nanogpt_kit.open_run(run).path == run.path
    assert nanogpt_kit.open_run("tiny").path == run.path
    assert run.status == "finished"
    assert run.experiment == experiment


def test_an_unknown_run_is_a_mistake_with_a_name(run: Run) -> None:
    with pytest.raises(KitError, match=r"no run 'tinny'.*'tiny'"):
        nanogpt_kit.open_run("tinny")


def test_metrics_are_a_data_frame_with_one_row_a_step(run: Run) -> None:
    pandas = pytest.importorskip("pandas")
    table = run.metrics()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == [
        *("step", "tokens", "seconds", "train/loss", "val/loss", "val/bits_per_byte"),
        *sorted(set(table.columns[6:])),
    ]
    assert list(table["step"]) == [1, 2, 4]
    lines = [line for line in read_metrics(run.path / "metrics.jsonl") if "val/loss" in line]
    assert list(table["val/loss"].dropna()) == [line["val/loss"] for line in lines]
    assert table.dtypes["val/loss"] == table.dtypes["train/loss"] == "float64"


def test_metrics_of_a_run_without_any_have_the_same_first_columns(run: Run) -> None:
    first = list(run.metrics().columns[:3])
    run.folder.metrics.unlink()
    assert list(run.metrics().columns) == first
    assert len(run.metrics()) == 0


def test_metrics_are_a_list_where_pandas_is_not_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 4]
    assert "val/loss" not in rows[0]
    assert {"train/loss", "val/loss"} <= rows[1].keys()


def test_evaluate_gives_what_the_run_measured(run: Run) -> None:
    last = run.metrics().iloc[-1]
    assert run.evaluate() == pytest.approx({name: last[name] for name in ("val/loss", "val/bits_per_byte")})
    assert run.evaluate("loss") == {"val/loss": run.evaluate()["val/loss"]}


def test_an_evaluator_may_have_options(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "wiki.txt"
    text.write_text("0123456789" * 20, encoding="utf-8")
    table = {"use": "perplexity", "file": text}
    measured = run.evaluate([table, "bits_per_byte"])
    assert {"wiki/loss", "wiki/perplexity", "val/bits_per_byte"} <= measured.keys()
    capsys.readouterr()
    assert run.evaluate({"use": "samples", "prompts": ["12"], "max_new_tokens": 3}) == {}
    assert capsys.readouterr().out.startswith("12")


def test_a_wrong_evaluator_is_named(run: Run) -> None:
    with pytest.raises(KitError, match=r"with_: evaluator\.0: unknown evaluator 'los'; did you mean 'loss'"):
        run.evaluate(["los"])


def test_sample_takes_one_prompt_or_several_or_those_of_the_experiment(run: Run) -> None:
    assert run.sample("12", 4) == run.sample(["12"], 4)
    assert len(run.sample("12", 4)[0]) > 2
    texts = run.sample(["1", "2"], 3, samplers=["greedy"], seed=7)
    assert [text[0] for text in texts] == ["1", "2"]
    assert texts == run.sample(["1", "2"], 3, samplers=[{"use": "top_k", "k": 1}], seed=8)
    default = run.sample()
    assert len(default) == 1
    assert default[0].startswith(run.experiment.sample.prompt)


def test_one_sampler_and_one_stop_string_need_no_list(run: Run) -> None:
    [greedy] = run.sample("12", 6, samplers=["greedy"])
    assert run.sample("12", 6, samplers="greedy") == [greedy]
    assert run.sample("12", 6, samplers={"use": "top_k", "k": 1}) == [greedy]
    end = greedy[-2:]
    assert run.sample("12", 6, samplers="greedy", stop=end) == run.sample("12", 6, samplers="greedy", stop=[end])
    assert run.sample("12", 6, samplers="greedy", stop=f"{end[0]}not generated") == [greedy], "as a whole"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": -1}, "with_: sample.max_new_tokens: should be greater than or equal to 0, got -1"),
        ({"max_new_tokens": "4"}, "with_: sample.max_new_tokens: should be a whole number"),
        ({"seed": -1}, "with_: sample.seed: should be greater than or equal to 0, got -1"),
        ({"device": "gpu"}, "device should be auto, cpu, cuda or mps, got 'gpu'"),
    ],
)
def test_a_wrong_argument_of_sample_is_named(run: Run, arguments: Mapping[str, Any], message: str) -> None:
    with pytest.raises(KitError, match=f"^{re.escape(message)}"):
        run.sample("12", **arguments)


def test_a_device_that_is_not_here_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KitError, match=r"^device is 'cuda:1', but torch finds no such device here$"):
        run.evaluate(device="cuda:1")


def test_run_says_that_it_takes_an_experiment() -> None:
    with pytest.raises(KitError, match=r"as in run\(Experiment.load\('quickstart'\)\), got 'tiny'"):
        nanogpt_kit.run("tiny")  # type: ignore[arg-type]


def test_the_model_is_loaded_once_until_there_is_a_newer_checkpoint(run: Run, experiment: Experiment) -> None:
    first = run.generator()
    assert run.generator() is first
    assert run.generator(step=4) is not first
    more = experiment.with_("schedule=constant", "checkpoint.every_steps=2", "checkpoint.keep_last=9").run()
    assert more.sample("1", 3, step=2) == Run(more.folder, step=2).sample("1", 3)
    before = more.generator()
    longer = more.experiment.with_(train={"steps": 6}).run(resume=more)
    assert longer.path == more.path
    assert more.generator() is not before


def test_the_newest_unfinished_run_is_resumed_and_a_folder_may_be_named(experiment: Experiment, tmp_path: Path) -> None:
    named = nanogpt_kit.run(experiment.with_("schedule=constant"), into=tmp_path / "mine")
    assert named.path == tmp_path / "mine"
    with pytest.raises(KitError, match="no unfinished run to resume"):
        experiment.run(resume=True)
    first = experiment.with_("schedule=constant").run(resume=False)
    first.folder.set_status("interrupted")
    assert experiment.with_("schedule=constant", "train.steps=6").run(resume=True).path == first.path


def test_the_reprs_are_one_line(run: Run) -> None:
    loss = run.metrics()["val/loss"].iloc[-1]
    assert repr(run) == f"<Run {run.path}: finished, step 4 of 4, val/loss {loss:.4f}>"
    assert repr(Run(run.folder, step=2)).endswith(f"{loss:.4f}, checkpoint of step 2>")
    assert repr(run.folder) == f"RunFolder('{run.path}')"
    generator = run.generator()
    size = sum(parameter.numel() for parameter in generator.model.parameters())
    assert repr(generator) == f"<TextGenerator tiny: {size:,} parameters on {generator.device}>"


def test_the_repr_of_a_run_that_has_just_begun(run: Run) -> None:
    (run.path / "metrics.jsonl").unlink()
    run.folder.set_status("failed")
    assert repr(run) == f"<Run {run.path}: failed, step 0>"


def test_a_prompt_that_is_one_text_is_one_prompt(run: Run) -> None:
    generator: Any = run.generator()
    assert generator.generate("12", 3) == generator.generate(["12"], 3)
    assert {token.text_index for token in generator.stream_tokens("12", 3)} == {0}
