"""The evaluator, the verb and the model of the harness, on local tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_tasks import write_tasks
from nanogpt_kit_lm_eval.harness_model import KitLM
from nanogpt_kit_lm_eval.lm_eval import LMEval
from nanogpt_kit_lm_eval.verb import lm_eval

from nanogpt_kit import KitError, load_run, open_run
from nanogpt_kit.testing.evaluation_context import Utf8Encoder, small_model
from nanogpt_kit.testing.evaluator import EvaluatorConformance
from nanogpt_kit.testing.training import train_briefly

FOLDER = "LM_EVAL_TEST_TASKS"  # variable that the options below name, since a class is made before a folder


@pytest.fixture(autouse=True)
def named_folder(tasks: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(tasks))
        yield


class OfTasks(EvaluatorConformance):
    """The path is expanded where the options are made."""

    block_size = 40
    options: dict[str, Any]

    @pytest.fixture(autouse=True)
    def with_tasks(self, tasks: Path) -> None:
        type(self).component = LMEval(include_path=str(tasks), limit=6, **self.options)


class TestChoices(OfTasks):
    component = LMEval(tasks=("choices",))
    options = {"tasks": ("choices",), "num_fewshot": 1}


class TestPerplexity(OfTasks):
    component = LMEval(tasks=("perplexity",))
    options = {"tasks": ("perplexity",), "min_context": 5}


class TestGeneration(OfTasks):
    component = LMEval(tasks=("generation",))
    options = {"tasks": ("generation", "last_word"), "max_gen_toks": 5}


def test_an_evaluation_in_training_logs_the_metrics_of_the_tasks(tmp_path: Path, tasks: Path) -> None:
    evaluator = f"evaluator=['loss', {{use='lm_eval', tasks=['choices'], include_path='{tasks.as_posix()}', limit=5}}]"
    run = train_briefly(tmp_path, evaluator, "model.block_size=32", "train.steps=2", "evaluate.every_steps=2")
    last = run.metrics()["choices/acc"].dropna()
    assert 0 <= last.iloc[-1] <= 1
    assert "choices/acc_stderr" in run.metrics()


def test_eval_and_the_verb_print_the_same_metrics(
    byte_run: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("choices", "generation")
    evaluated = open_run(byte_run).evaluate(LMEval(tasks=names, include_path=str(tasks), limit=9))
    capsys.readouterr()
    verb = [str(byte_run), "--tasks", ",".join(names), "--include-path", str(tasks), "--limit", "9"]
    lm_eval.main([*verb, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == pytest.approx(evaluated, rel=1e-3)
    lm_eval.main(verb, standalone_mode=False)
    table = capsys.readouterr().out
    assert "|choices" in table
    assert "Stderr" in table
    assert f"{evaluated['choices/acc']:.4f}" in table


def test_the_harness_knows_the_model_by_the_name_of_a_run(byte_run: Path, tasks: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from nanogpt_kit_lm_eval import run_model

    index = TaskManager(include_path=str(tasks), include_defaults=False)
    arguments = {"model": "nanogpt-kit", "model_args": f"run={byte_run},precision=bf16", "device": "cpu"}
    found = simple_evaluate(**arguments, tasks=["choices"], limit=3, batch_size=2, task_manager=index)
    assert run_model.RunModel.__name__ == "RunModel"
    assert 0 <= found["results"]["choices"]["acc,none"] <= 1


def test_the_verb_without_a_task_is_refused_before_the_run_is_loaded() -> None:
    with pytest.raises(KitError, match="--tasks names no task"):
        lm_eval.main(["nowhere", "--tasks", " , "], standalone_mode=False)


@pytest.mark.slow  # it reads the 14,683 tasks of the harness
def test_an_unknown_task_is_reported_with_the_nearest_name(tasks: Path) -> None:
    with pytest.raises(KitError, match="lm_eval has no task 'chioces'; did you mean 'choices'"):
        LMEval(tasks=("chioces",), include_path=str(tasks)).check(Utf8Encoder(), 32)


def test_a_folder_that_is_not_there_and_data_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="include_path: 'nowhere' is not a folder"):
        LMEval(tasks=("choices",), include_path="nowhere").check(Utf8Encoder(), 32)
    (write_tasks(tmp_path) / "data.jsonl").unlink()
    with pytest.raises(KitError, match=r"lm_eval cannot load the tasks choices: FileNotFoundError.*data\.jsonl"):
        LMEval(tasks=("choices",), include_path=str(tmp_path)).check(Utf8Encoder(), 32)


@pytest.fixture(scope="module")
def small() -> KitLM:
    return KitLM(small_model(32), Utf8Encoder(), 32, nullcontext)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until": ["."], "do_sample": True, "temperature": 0.8}, "draws tokens at random"),
        ({"until": ["."], "max_gen_toks": 32}, "asks for 32 new tokens.*below the block_size .32."),
    ],
)
def test_generation_that_is_not_possible_is_refused(small: KitLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KitError, match=message):
        small.generate_until([SimpleNamespace(args=("a", options))])  # type: ignore[list-item]


def test_a_continuation_that_does_not_fit_is_refused(small: KitLM) -> None:
    with pytest.raises(KitError, match="has 33 tokens; expected 1 to 32, the block_size"):
        small.loglikelihood([SimpleNamespace(args=("a", "b" * 33))])  # type: ignore[list-item]


def test_a_tokenizer_without_end_of_text_is_refused_where_a_text_begins_with_it() -> None:
    encoder = Utf8Encoder()
    encoder.eot_id = None  # type: ignore[assignment]
    model = KitLM(small_model(32), encoder, 32, nullcontext)
    assert len(model.loglikelihood([SimpleNamespace(args=("a", "b"))])) == 1  # type: ignore[list-item]
    with pytest.raises(KitError, match="no end-of-text token"):
        model.loglikelihood([SimpleNamespace(args=("", "b"))])  # type: ignore[list-item]


def test_a_generated_text_ends_at_the_first_stop_string_in_any_batch(byte_run: Path) -> None:
    """As the kit's own greedy decoding, cut there."""
    generator = load_run(byte_run)
    contexts = ["12 times 19 is", "1", "", " times"]
    requests = [SimpleNamespace(args=(text, {"until": ["s", "1 "], "max_gen_toks": 20})) for text in contexts]
    found = []
    for batch_size in (1, 3):
        model = KitLM(generator.model, generator.encoder, 48, nullcontext, batch_size=batch_size)
        found.append(model.generate_until(requests))  # type: ignore[arg-type]
    assert found[0] == found[1]
    for context, text in zip(contexts, found[0], strict=True):
        if context:
            (whole,) = generator.generate([context], 20, samplers="greedy")
            expected = whole.removeprefix(context)
            assert text == expected.split("s")[0].split("1 ")[0]


RANKS = """
import sys
from pathlib import Path
from nanogpt_kit.testing.training import train_briefly
run = train_briefly(Path(sys.argv[1]), *sys.argv[2:])
"""


@pytest.mark.slow
def test_two_ranks_evaluate_as_one(tmp_path: Path, tasks: Path) -> None:
    evaluator = f"evaluator=['loss', {{use='lm_eval', tasks=['choices'], include_path='{tasks.as_posix()}', limit=5}}]"
    options = [evaluator, "model.block_size=32", "train.steps=2", "evaluate.every_steps=2", "sample.num_samples=0"]
    one = train_briefly(tmp_path / "one", *options).metrics()["choices/acc_norm"].dropna()
    (tmp_path / "two.py").write_text(RANKS, encoding="utf-8")
    (tmp_path / "two").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(tmp_path / "two.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(tmp_path / "two"), *options, "parallel=ddp"], check=True, timeout=300, env=environment
    )
    (folder,) = (tmp_path / "two" / "runs" / "tiny").iterdir()
    two = open_run(folder).metrics()["choices/acc_norm"].dropna()
    assert list(two) == list(one)


def test_the_experiment_takes_two_shrunken_steps(tmp_path: Path, tasks: Path) -> None:
    file = Path(__file__).parents[1] / "experiments" / "tasks.toml"
    small = ["model.n_layer=1", "model.n_embd=16", "model.n_head=2", "train.steps=2", "train.batch_tokens=128"]
    local = [f"evaluator=['loss', {{use='lm_eval', tasks=['choices'], include_path='{tasks.as_posix()}', limit=2}}]"]
    text = f"dataset={{use='text', source='{(tmp_path / 'text.txt').as_posix()}'}}"
    run = train_briefly(tmp_path, text, "sample.num_samples=0", *small, *local, experiment=file)
    assert "choices/acc" in run.metrics()
    assert torch.is_grad_enabled()
