"""The same numbers as the harness's own model `hf` on the exported GPT-2, and the definitions that it stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made_tasks import OUTPUTS
from made_vocabulary import small_gpt2_tokenizer
from nanogpt_kit_lm_eval.harness_model import KitLM
from nanogpt_kit_lm_eval.run_model import RunModel
from nanogpt_kit_lm_eval.task_set import TaskSet, metrics_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def hf(exported: Path) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import GPT2LMHeadModel

    network = GPT2LMHeadModel.from_pretrained(exported)
    # Without its cache of logits, which takes windows of different texts for one another
    options = {"backend": "causal", "max_length": 24, "batch_size": 4, "device": "cpu", "logits_cache": False}
    return HFLM(network, tokenizer=small_gpt2_tokenizer(), **options)


@pytest.fixture(scope="module", params=[1, 5])
def kit(gpt2_run: Path, request: pytest.FixtureRequest) -> RunModel:
    return RunModel(str(gpt2_run), "cpu", batch_size=request.param)


def test_the_vocabularies_agree(kit: KitLM, hf: Any) -> None:
    text = " 12 times 19 is 228.\n12 tim\u00e9s"
    assert kit.tok_encode(text) == hf.tok_encode(text)
    assert kit.eot_token_id == kit.prefix_token_id == hf.prefix_token_id


@pytest.fixture(scope="module")
def metrics_of_hf(hf: Any) -> Callable[[TaskSet], dict[str, float]]:
    """Computed once for both batch sizes of the kit."""
    return functools.cache(lambda task_set: metrics_of(task_set.evaluate(hf)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_metrics_equal_those_of_hf(
    kit: KitLM, metrics_of_hf: Callable[[TaskSet], dict[str, float]], tasks: Path, name: str
) -> None:
    task_set = TaskSet((name,), str(tasks), num_fewshot=1 if name == "choices" else None)
    expected, found = metrics_of_hf(task_set), metrics_of(task_set.evaluate(kit))
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-4)
    assert name == "perplexity" or any("_stderr" in key for key in found)  # of which the harness knows no error


def requests_of(task_set: TaskSet, name: str) -> list[Any]:
    task = task_set.loaded["tasks"][name]
    task.build_all_requests(rank=0, world_size=1)
    return list(task.instances)


@pytest.mark.parametrize(("name", "method"), [("choices", "loglikelihood"), ("last_word", "loglikelihood")])
def test_each_log_likelihood_equals_that_of_hf(kit: KitLM, hf: Any, tasks: Path, name: str, method: str) -> None:
    requests = requests_of(TaskSet((name,), str(tasks)), name)
    lengths = [len(kit.tok_encode("".join(request.args))) for request in requests]
    assert max(lengths) > kit.max_length + 1  # so that some are cut
    assert any(request.args[0] == "" for request in requests)
    found, expected = getattr(kit, method)(requests), getattr(hf, method)(requests)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5, abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_each_text_has_the_likelihood_that_hf_gives_it(kit: KitLM, hf: Any, tasks: Path) -> None:
    requests = requests_of(TaskSet(("perplexity",), str(tasks)), "perplexity")
    found, expected = kit.loglikelihood_rolling(requests), hf.loglikelihood_rolling(requests)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_context_of_spaces_alone_begins_the_continuation(kit: KitLM, hf: Any) -> None:
    """The harness counts the spaces at the end of a context as the continuation's, and `hf` refuses what is left."""
    pairs = [(" ", "12 times 19"), ("  ", " is"), ("", " is"), ("a ", "b")]
    found = kit.loglikelihood([SimpleNamespace(args=pair) for pair in pairs])  # type: ignore[misc]
    joined = [pair if pair[0].strip() else ("", "".join(pair)) for pair in pairs]
    expected = hf.loglikelihood([SimpleNamespace(args=pair) for pair in joined])
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], rel=1e-5, abs=1e-4)


def test_generated_texts_equal_those_of_hf(kit: KitLM, hf: Any, tasks: Path) -> None:
    requests = requests_of(TaskSet(("generation",), str(tasks)), "generation")
    found = kit.generate_until(requests)
    assert found == hf.generate_until(requests)
    assert len(set(found)) > 9


def test_a_later_window_begins_with_as_much_context_as_min_context_says(gpt2_run: Path) -> None:
    """Token by token, each with the context that the windows give it."""
    kit = RunModel(str(gpt2_run), "cpu", min_context=9)
    text = "".join(f"{m} times {m + 7} is {m * (m + 7)}.\n" for m in range(9))
    ids = [kit.eot_token_id, *kit.tok_encode(text)]
    T = kit.max_length
    total, done = 0.0, 0  # targets so far
    while done < len(ids) - 1:
        count = min(T if not done else T - 9 + 1, len(ids) - 1 - done)
        window = ids[max(0, done + count - T) : done + count + 1]
        with torch.no_grad():
            log_probs = kit.network(torch.tensor([window[:-1]])).log_softmax(dim=-1)[0]
        total += sum(log_probs[-count + i, window[-count + i]].item() for i in range(count))
        done += count
    assert kit.loglikelihood_rolling([SimpleNamespace(args=(text,))]) == pytest.approx([total], rel=1e-5)  # type: ignore[list-item]


def test_bf16_gives_nearly_the_same(gpt2_run: Path, tasks: Path) -> None:
    task_set = TaskSet(("perplexity",), str(tasks), limit=9)
    exact = metrics_of(task_set.evaluate(RunModel(str(gpt2_run), "cpu")))
    rounded = metrics_of(task_set.evaluate(RunModel(str(gpt2_run), "cpu", precision="bf16")))
    assert rounded["perplexity/bits_per_byte"] == pytest.approx(exact["perplexity/bits_per_byte"], rel=0.02)
    assert rounded["perplexity/bits_per_byte"] != exact["perplexity/bits_per_byte"]
