"""Options that name a metric are checked before a run: what evaluators declare is what they give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.evaluator_metrics import evaluator_metrics
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.runs import metrics
from nanogpt_kit.train import session
from nanogpt_kit.train.metric_names import LOGGED_METRICS, check_study_metric

SPACE = '[sweep.space]\n"optimizer.lr" = { choice = [3e-3, 1e-3] }\n'
UNDECLARED = """\
from nanogpt_kit.api import Evaluator

class Odd(Evaluator):
    def evaluate(self, ctx):
        return {"val/odd": 1.0}
"""
WITH_METRICS = """\
import torch
from nanogpt_kit.api import Norm

class Counting(Norm):
    def build(self, ctx):
        module = torch.nn.LayerNorm(ctx.n_embd)
        module.logged_metrics = lambda: {"count": 1.0}
        return module
"""


def test_what_is_declared_is_what_a_run_records(tiny: Path) -> None:
    options = ["train.steps=2", "evaluate.every_steps=1", "callback=[]", "sample.num_samples=0"]
    options.append('evaluator=["loss", "bits_per_byte", {use="samples", max_new_tokens=2}]')
    experiment = Experiment.load(tiny, options)
    folder = session.run(experiment)
    records = [set(record) - {"step", "tokens", "seconds"} for record in metrics.read_metrics(folder.metrics)]
    assert [record for record in records if "train/loss" not in record] == [evaluator_metrics(experiment)] * 2
    for record in records:
        assert record <= {*LOGGED_METRICS, *(evaluator_metrics(experiment) or ())}


@pytest.mark.parametrize(
    ("option", "key", "near"),
    [
        ("checkpoint.keep_best=val/los", "checkpoint.keep_best", "val/loss"),
        ("checkpoint.keep_best=train/loss", "checkpoint.keep_best", "val/loss"),
        ('callback=[{use="early_stopping", metric="val/bits"}]', "callback.0.metric", "val/bits_per_byte"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "check", "sweep"])
def test_a_metric_that_no_evaluator_gives_is_refused_before_anything_is_made(
    tiny: Path, command: Callable[..., Any], option: str, key: str, near: str, verb: str
) -> None:
    tiny.write_text(f"{tiny.read_text(encoding='utf-8')}\n{SPACE}", encoding="utf-8")
    answer = command(verb, tiny, option)
    assert answer.code == 2, answer
    assert f"command line: {key}: " in answer.err
    assert near in answer.err
    assert not (tiny.parent / "runs").exists()


@pytest.mark.parametrize("words", [("check",), ("sweep",), ("sweep", "--preview")])
def test_a_typo_in_the_metric_of_a_sweep_is_refused_before_it_starts(
    tiny: Path, command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    text = f'{tiny.read_text(encoding="utf-8")}\n[sweep]\nmetric = "val/los"\n{SPACE}'
    tiny.write_text(text, encoding="utf-8")
    line = text.splitlines().index('metric = "val/los"') + 1
    answer = command(words[0], tiny, *words[1:])
    assert answer.code == 2, answer
    assert f"{tiny}:{line}: sweep.metric: " in answer.err
    assert "did you mean 'val/loss'?" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tiny.parent / "runs").exists()


def test_a_metric_that_only_some_values_of_the_space_give_is_named_with_them(
    tiny: Path, command: Callable[..., Any]
) -> None:
    more = '[sweep.space]\nevaluator = { choice = [["loss", "bits_per_byte"], ["samples"]] }\n'
    tiny.write_text(f"{tiny.read_text(encoding='utf-8')}\n{more}", encoding="utf-8")
    answer = command("check", tiny)
    assert answer.code == 2
    assert "sweep.metric: " in answer.err
    assert "samples" in answer.err


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ([], "val/bits_per_byte"),
        ([], "train/loss"),
        ([], "perf/mfu"),
        (['train.watch=["updates"]'], "updates/matrix"),
        (['components=["odd.py"]', "evaluator=['loss', 'odd']"], "val/odd"),
        (['components=["counting.py"]', "model.norm=counting"], "h.0.norm_1/count"),
    ],
)
def test_a_metric_that_may_be_recorded_is_accepted(tiny: Path, options: list[str], metric: str) -> None:
    (tiny.parent / "odd.py").write_text(UNDECLARED)
    (tiny.parent / "counting.py").write_text(WITH_METRICS)
    check_study_metric(Experiment.load(tiny, options), metric)


def test_questions_declare_by_their_form_and_leave_a_bad_file_to_its_own_check(tmp_path: Path) -> None:
    from nanogpt_kit.components.evaluator.multiple_choice import MultipleChoice

    file = tmp_path / "q.jsonl"
    assert MultipleChoice(file=str(file)).metric_names() is None
    file.write_text(json.dumps({"text": "one word"}) + "\nnot JSON\n")
    assert MultipleChoice(file=str(file)).metric_names() == ("q/accuracy", "q/perplexity")
